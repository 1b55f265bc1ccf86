"""A check-up for any model with LoRA: what learns, what gets a gradient, does it start and train where it should?"""

import math
from dataclasses import dataclass

import torch

from .adapt import count_parameters, listed, lora_layers
from .layer import LinearWithLoRA, weight_of
from .training import default_loss

HEALTHY = """✓ no bug found
  (not to be seen from here: a file read the wrong way round. Compare the outputs before saving and after loading.)"""


@dataclass
class Report:
    """What the doctor measured, and what is wrong with it: an empty list if nothing was found."""

    measured: dict[str, str]
    problems: list[str]

    def __repr__(self):
        width = max(map(len, self.measured))
        lines = [f"{name:{width}}  {value}" for name, value in self.measured.items()]
        return "\n".join(lines + ([f"✗ {problem}" for problem in self.problems] or [HEALTHY]))


def doctor(model, X, y, pretrained=None, optimizer=None, loss=None):
    """Examine a model with LoRA on a batch X (n, …) and y (n, …); the report says what was found.

    ``pretrained`` is the model as it was before LoRA, ``optimizer`` the one that trains; without them the doctor sees
    less. ``loss(output, y)`` as in ``train_model``. The model stays as it is, gradients included.
    """
    patient = _Patient(model, lora_layers(model), X, y, pretrained, optimizer, loss or default_loss)
    return Report(patient.measured(), [problem for check in CHECKS for problem in check(patient)])


class _Patient:
    """The model on the table, and what several checks look at."""

    def __init__(self, model, layers, X, y, pretrained, optimizer, loss):
        self.model, self.layers, self.pretrained, self.optimizer = model, layers, pretrained, optimizer
        self.nested = [name for name, layer in layers.items() if isinstance(layer.linear, LinearWithLoRA)]
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        halves = {id(p) for layer in layers.values() for p in (layer.lora.A, layer.lora.B)}
        self.others = {name: p for name, p in self.trainable.items() if id(p) not in halves}
        was_training = model.training
        model.eval()
        with torch.enable_grad():
            output = model(X)
            value = loss(output, y)
        names = list(self.trainable) if value.requires_grad else []
        found = torch.autograd.grad(value, [self.trainable[name] for name in names], allow_unused=True) if names else ()
        self.gradients = {id(self.trainable[name]): g for name, g in zip(names, found, strict=True) if g is not None}
        self.loss, self.difference = value.item(), None
        if pretrained is not None and isinstance(output, torch.Tensor):
            with torch.no_grad():
                self.difference = (output - pretrained(X)).abs().max().item()
        model.train(was_training)

    @property
    def untrained(self):
        """Whether no step has been taken yet: the optimizer says so, or B is still zero everywhere."""
        keeps_state = self.optimizer is not None and self.optimizer.defaults.get("momentum", True)  # plain SGD does not
        if keeps_state:
            return not self.optimizer.state
        return not any(layer.lora.B.any() for layer in self.layers.values())

    def gradient(self, half):
        """The norm of all A's, or all B's, gradients together."""
        parameters = [getattr(layer.lora, half) for layer in self.layers.values()]
        return sum(self.gradients[id(p)].square().sum().item() for p in parameters if id(p) in self.gradients) ** 0.5

    def measured(self):
        count = count_parameters(self.model)
        loras = [layer.lora for layer in self.layers.values()]
        scales = ", ".join(f"{scale:g}" for scale in sorted({lora.scale for lora in loras}))
        ranks = ", ".join(map(str, sorted({lora.rank for lora in loras})))
        own = sum(lora.A.numel() + lora.B.numel() for lora in loras)
        rows = {
            "LoRA": f"{len(loras)} layers, rank {ranks}, scale {scales}",
            "numbers that learn": f"{count.trainable:,} of {count.total:,}; A and B together have {own:,}",
            "gradient of A": f"{self.gradient('A'):.2g}",
            "gradient of B": f"{self.gradient('B'):.2g}",
        }
        if self.difference is not None:
            rows["output differs from the pretrained by"] = f"{self.difference:.2g}"
        return rows


def _nested(patient):
    if patient.nested:
        yield f"LoRA inside LoRA, in {listed(patient.nested)}: it was put in twice; remove_lora, then once"


def _frozen(patient):
    halves = {f"{name}.{half}": getattr(layer.lora, half) for name, layer in patient.layers.items() for half in "AB"}
    frozen = [name for name, parameter in halves.items() if not parameter.requires_grad]
    if frozen:
        yield f"{listed(frozen)} can't learn: frozen after LoRA went in? Freeze first, then put LoRA in"


def _others_learn(patient):
    inside = [name for name in patient.others if ".linear." in f".{name}"]
    if inside:
        yield f"{listed(inside)} learns, too, in a layer that LoRA should leave as it was: freeze the bias as well"
    outside = [name for name in patient.others if name not in inside]
    if outside:
        yield f"{listed(outside)} learns, too: right for a new head, wrong for anything that was pretrained"


def _start(patient):
    loras = [layer.lora for layer in patient.layers.values()]
    if not any(lora.A.any() or lora.B.any() for lora in loras):
        yield "A and B are both zero, so neither gets a gradient and nothing will ever be learned"
    if not patient.untrained:
        return
    if any(lora.B.any() for lora in loras):
        yield "B is not zero although no step was taken, so the adapted model does not start as the pretrained one"
    elif patient.difference:
        yield "B is zero, and yet the output differs from the pretrained model's: something else has changed"
    for name, layer in patient.layers.items():
        size = layer.lora.A.square().mean().sqrt().item() * (3 * layer.in_features) ** 0.5
        if size and not 0.5 < size < 2:
            yield f"A of {name} is {size:.2g} times as large as ±1/√in_features: filled with the wrong fan?"


def _scale(patient):
    for name, layer in patient.layers.items():
        lora = layer.lora
        if lora.scaling == "alpha" and lora.rank > 1 and lora.alpha > 1:
            yield f"the scale of {name} is alpha itself, {lora.scale:g}, not alpha/r; lower the learning rate or divide"


def _optimizer(patient):
    if patient.optimizer is None:
        return
    held = {id(p) for group in patient.optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in patient.trainable.items() if id(parameter) not in held]
    if missing:
        yield f"the optimizer does not hold {listed(missing)}: made before LoRA went in? Make it afterwards"


def _tied(patient):
    owners = {}
    for name, parameter in patient.model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, layer in patient.layers.items():
        sharing = owners.get(id(getattr(layer.linear, "weight", None)), [])
        if len(sharing) > 1:
            yield f"{name} shares its weight ({listed(sharing)}): merging would change the others, too; untie it first"


def _written(patient):
    """Whether W is still what was pretrained; if not, whether the update was added into it, and how often."""
    if patient.pretrained is None:
        return
    for name, layer in patient.layers.items():
        if any(f"{name}.".startswith(f"{nested}.") for nested in patient.nested):
            continue
        before = weight_of(patient.pretrained.get_submodule(name))
        change, delta = (weight_of(layer.linear) - before).detach(), layer.lora.delta().detach().T
        if not change.any():
            continue
        times = ((change * delta).sum() / delta.square().sum().clamp(min=1e-30)).item()
        if (change - times * delta).norm() > 0.01 * change.norm():
            yield f"the frozen weight of {name} is not the pretrained one"
        elif round(times) == 1 and layer.enabled:
            yield f"the update of {name} was written into its weight and is still added beside it: it counts twice"
        elif round(times) != 1:
            yield f"the update of {name} was written into its weight {times:.2g} times: merged again?"


def _finite(patient):
    if not math.isfinite(patient.loss):
        yield f"the loss is {patient.loss}: the training diverged; start anew at a lower learning rate"


CHECKS = (_finite, _nested, _frozen, _others_learn, _start, _scale, _optimizer, _tied, _written)
