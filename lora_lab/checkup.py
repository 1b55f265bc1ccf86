"""A check-up for any model with LoRA: what learns, what gets a gradient, does it start and train where it should?"""

import math
from dataclasses import dataclass

import torch

from .adapt import count_parameters
from .checks import weight_of
from .find import is_called, joined, listed, lora_layers, lora_parameters, owners
from .layer import LinearWithLoRA
from .training import default_loss, mode

HEALTHY = """✓ none of the bugs looked for
  (not looked for: the learning rate, the loss, the data, a file that was read the wrong way round)"""


@dataclass
class Report:
    """What the doctor measured, and what is wrong with it: an empty list if nothing was found."""

    measured: dict[str, str]
    problems: list[str]

    def __repr__(self):
        width = max(map(len, self.measured))
        lines = [f"{name:{width}}  {value}" for name, value in self.measured.items()]
        return "\n".join(lines + ([f"✗ {problem}" for problem in self.problems] or [HEALTHY]))


def doctor(model, X, y, pretrained=None, optimizer=None, *, trained=False, learns=(), loss=None):
    """Examine a model with LoRA on a batch X (n, …) and y (n, …); the report says what was found.

    ``pretrained`` is a copy of the model from before LoRA, ``optimizer`` the one that trains; without them the doctor
    sees less. ``trained`` says that training has begun, ``learns`` names layers that are meant to learn beside LoRA
    (a new head), ``loss(output, y)`` is as in ``train_model``. The model stays as it is, gradients included.
    """
    patient = _Patient(model, X, pretrained, optimizer, trained, [learns] if isinstance(learns, str) else learns)
    patient.examine(X, y, loss)
    return Report(patient.measured(), [problem for check in CHECKS for problem in check(patient)])


class _Patient:
    """The model on the table, and what several checks look at."""

    def __init__(self, model, X, pretrained, optimizer, trained, learns):
        self.model, self.X, self.layers = model, X, lora_layers(model)
        self.pretrained, self.optimizer, self.trained, self.learns = pretrained, optimizer, trained, learns
        self.nested = [name for name, layer in self.layers.items() if isinstance(layer.linear, LinearWithLoRA)]
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.halves = set(map(id, lora_parameters(model).values()))
        self.wrapped = {joined(name, "linear"): (name, layer) for name, layer in self.layers.items()}
        self.others = [name for name, p in self.trainable.items() if id(p) not in self.halves and not self.means(name)]
        if pretrained is not None and any(isinstance(module, LinearWithLoRA) for module in pretrained.modules()):
            raise ValueError("pretrained has LoRA in it; pass a copy that was made before: copy.deepcopy(model)")

    def means(self, name):
        """Whether a parameter belongs to a layer that is meant to learn."""
        return any(is_called(name.rsplit(".", 1)[0], layer) for layer in self.learns)

    def examine(self, X, y, loss):
        """One forward and one backward pass, which leave no trace."""
        models = [model for model in (self.model, self.pretrained) if model is not None]
        with mode(False, *models), torch.enable_grad():
            output = self.model(X)
            if loss is None and not isinstance(output, torch.Tensor):
                raise TypeError(
                    f"the model returns a {type(output).__name__}; say how to make a loss of it: "
                    "doctor(…, loss=lambda output, y: …)"
                )
            value = (loss or default_loss)(output, y)
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise TypeError("loss(output, y) must return one number, as a tensor")
            parameters = list(self.trainable.values()) if value.requires_grad else []
            found = torch.autograd.grad(value, parameters, allow_unused=True) if parameters else ()
            self.difference = self._difference(X, output)
        self.gradients = {id(p): g for p, g in zip(parameters, found, strict=True) if g is not None}
        self.loss = value.item()

    def _difference(self, X, output):
        """The largest difference from the pretrained model's output, or None where the two can't be compared."""
        if self.pretrained is None or not isinstance(output, torch.Tensor):
            return None
        try:
            with torch.no_grad():
                before = self.pretrained(X)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the pretrained model can't read this X; same dtype, same device? {error}") from error
        return (output - before).abs().max().item() if before.shape == output.shape else None

    def gradient(self, half):
        """The norm of all A's, or all B's, gradients together."""
        parameters = [getattr(layer.lora, half) for layer in self.layers.values()]
        return sum(self.gradients[id(p)].square().sum().item() for p in parameters if id(p) in self.gradients) ** 0.5

    def measured(self):
        count = count_parameters(self.model)
        loras = [layer.lora for layer in self.layers.values()]
        scales = ", ".join(f"{scale:g}" for scale in sorted({lora.scale for lora in loras}))
        ranks = ", ".join(map(str, sorted({lora.rank for lora in loras})))
        states = sorted({_state(layer) for layer in self.layers.values()} - {""})
        own = sum(lora.A.numel() + lora.B.numel() for lora in loras)
        rows = {
            "LoRA layers": ", ".join([f"{len(loras)}, rank {ranks}, scale {scales}", *states]),
            "numbers that want to learn": f"{count.trainable:,} of {count.total:,}; A and B together have {own:,}",
            "gradient of A": f"{self.gradient('A'):.2g}",
            "gradient of B": f"{self.gradient('B'):.2g}",
        }
        if self.pretrained is not None:
            seen = "can't be compared" if self.difference is None else f"{self.difference:.2g}"
            rows["output differs from the pretrained by"] = seen
        return rows


def _state(layer):
    """How a layer is set, where it is not simply on."""
    if not layer.enabled:
        return "switched off"
    if layer.merged is not None:
        return "merged"
    return "" if layer.lora.strength == 1 else f"strength {layer.lora.strength:g}"


def _finite(patient):
    if not patient.X.is_floating_point() or patient.X.isfinite().all():
        if not math.isfinite(patient.loss):
            yield f"the loss is {patient.loss}: the training diverged; start anew at a lower learning rate"
    else:
        yield "X contains NaN or infinity"


def _nested(patient):
    if patient.nested:
        yield f"LoRA inside LoRA, in {listed(patient.nested)}: it was put in more than once; start from a fresh model"


def _frozen(patient):
    meant = {joined(name, own) for name, layer in patient.layers.items() for own in layer.fixed}
    frozen = [name for name, p in lora_parameters(patient.model).items() if not p.requires_grad and name not in meant]
    if frozen:
        yield f"{listed(frozen)} can't learn: frozen after LoRA went in? Freeze first, then put LoRA in"


def _others_learn(patient):
    inside = [name for name in patient.others if name.rpartition(".")[0] in patient.wrapped]
    if inside:
        yield f"also learns: {listed(inside)}, in layers that LoRA should leave as they were; freeze all of them"
    outside = [name for name in patient.others if name not in inside]
    if outside:
        yield f"also learns: {listed(outside)}; freeze what was pretrained, and name a new head with learns=[…]"


def _silent(patient):
    """Layers from which nothing will be learned, although they want to."""
    if patient.trained:
        return
    for name, layer in patient.layers.items():
        lora = layer.lora
        if not (lora.A.any() or lora.B.any()):
            yield f"A and B of {name} are both zero, so neither gets a gradient and nothing will ever be learned"
        elif lora.B.requires_grad and not patient.gradients.get(id(lora.B), torch.zeros(1)).any():
            why = _state(layer) or "is it used, and not detached or under no_grad?"
            yield f"B of {name} gets no gradient: {why}"


def _start(patient):
    if patient.trained or patient.nested:
        return
    started = [name for name, layer in patient.layers.items() if _adds_nothing(layer)]
    wrong = [name for name in patient.layers if name not in started]
    if wrong:
        yield (
            f"B of {listed(wrong)} is not zero, so the model does not start as the pretrained one; "
            "if it has been trained already, say trained=True"
        )
    elif patient.difference and math.isfinite(patient.difference) and not patient.learns:
        yield "B is zero, and yet the output differs from the pretrained model's: something else has changed"
    for name, layer in patient.layers.items():
        if name in started and layer.lora.B.any():
            continue  # a start of another kind, which has its own measure
        size = layer.lora.A.square().mean().sqrt().item() * (3 * layer.in_features) ** 0.5
        if layer.lora.A.numel() >= 64 and size and not 0.1 < size < 2:  # a few numbers may differ by chance
            yield f"A of {name} is {size:.2g} times as large as ±1/√in_features: filled with the wrong fan?"


def _adds_nothing(layer):
    """Whether the layer acts with W to the bit. It can do so although B is not zero."""
    total = layer.total_weight()
    return torch.equal(total, weight_of(layer.linear).to(total.dtype))


def _scale(patient):
    for name, layer in patient.layers.items():
        lora = layer.lora
        if lora.scale > 8:
            cause = "alpha itself, not alpha/r" if lora.scaling == "alpha" else lora.scaling
            yield f"the scale of {name} is {lora.scale:g}, {cause}: 1 or 2 are usual, and it acts like a learning rate"


def _optimizer(patient):
    if patient.optimizer is None:
        return
    held = {id(p) for group in patient.optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in patient.trainable.items() if id(parameter) not in held]
    if missing:
        yield f"the optimizer does not hold {listed(missing)}: made before LoRA went in? Make it afterwards"


def _precision(patient):
    """Steps that are smaller than the distance between the numbers that A and B can hold."""
    for group in patient.optimizer.param_groups if patient.optimizer else ():
        lr, stuck = group["lr"], {}
        for name, parameter in patient.trainable.items():
            held = any(parameter is other for other in group["params"])
            if "betas" in group and held and id(parameter) in patient.halves:  # a step of Adam's is about lr
                now = parameter.detach()
                stays = (now + lr == now) & (now - lr == now)
                stuck[name] = stays.double().mean().item()
        worst = max(stuck, key=stuck.get, default=None)
        if worst and stuck[worst] > 0.25:
            kind = str(patient.trainable[worst].dtype).removeprefix("torch.")
            yield (
                f"at lr={lr:g} a step is too small for {kind}: {stuck[worst]:.0%} of {worst} would not move; keep A "
                "and B in float32 (dtype=torch.float32 when LoRA goes in) or take a higher rate"
            )


def _tied(patient):
    known = owners(patient.model)
    for name, layer in patient.layers.items():
        sharing = known.get(id(getattr(layer.linear, "weight", None)), [])
        if len(sharing) > 1:
            yield f"{name} shares its weight ({listed(sharing)}): merging would change the others, too; untie it first"


def _changed(patient):
    """Whether everything that was pretrained still is what it was; if not, whether an update was added into it."""
    if patient.pretrained is None or patient.nested:
        return
    before = dict(patient.pretrained.named_parameters(remove_duplicate=False))
    for full_name, now in patient.model.named_parameters():
        owner, _, own = full_name.rpartition(".")
        layer_name, layer = patient.wrapped.get(owner, (owner, None))
        name = joined(layer_name, own)
        if id(now) in patient.halves or patient.means(name):
            continue
        if name not in before or before[name].shape != now.shape:
            yield f"{name} is not in the pretrained model in this shape; pass a copy of the same model"
        elif not torch.equal(now, before[name]) and layer is not None and own == "weight":
            yield _how_it_changed(layer_name, layer, weight_of(patient.pretrained.get_submodule(layer_name)))
        elif not torch.equal(now, before[name]):
            yield f"{name} has changed"


def _how_it_changed(name, layer, before):
    """One sentence on a weight that is no longer the pretrained one: was the update written into it, and how often?"""
    change = (weight_of(layer.linear) - before).detach()
    delta = layer.lora.delta().detach().T
    times = ((change * delta).sum() / delta.square().sum().clamp(min=1e-30)).item()
    rounding = torch.finfo(change.dtype).eps * before.norm()
    if (change - times * delta).norm() > 0.01 * change.norm() + rounding:
        return f"the frozen weight of {name} is not the pretrained one"
    often = "once" if abs(times - 1) < 0.05 else f"{times:.2g} times"
    still = " and is still added beside it" if layer.enabled else ""
    return f"the update of {name} was written into its weight {often}{still}"


CHECKS = (_finite, _nested, _frozen, _others_learn, _silent, _start, _scale, _optimizer, _precision, _tied, _changed)
