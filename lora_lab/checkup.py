"""A check-up for any model with LoRA: what learns, what gets a gradient, does it start and train where it should?"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .adapt import count_parameters
from .find import is_called, joined, lora_layers
from .layer import LinearWithLoRA, LoRALayer
from .peft_view import is_peft_layer, is_peft_model, peft_layers, peft_options, plain_name
from .symptoms import CHECKS, setting
from .training import default_loss, mode

HEALTHY = """✓ none of the bugs looked for
  (not looked for: the learning rate, the loss, the data, a file that was read the wrong way round)"""
HEALTHY_AS_ITS_FILE = """✓ none of the bugs looked for, and A, B and their scale are those of the file
  (not looked for: the learning rate, the loss, the data)"""
# What torch warns of when a checkpoint can't work.
CUTS_OFF = "None of the inputs have requires_grad=True"


@dataclass
class Report:
    """What the doctor measured, and what is wrong with it: an empty list if nothing was found."""

    measured: dict[str, str]
    problems: list[str]
    healthy: str = HEALTHY

    def __repr__(self):
        width = max(map(len, self.measured))
        lines = [f"{name:{width}}  {value}" for name, value in self.measured.items()]
        return "\n".join(lines + ([f"✗ {problem}" for problem in self.problems] or [self.healthy]))


def doctor(model, X, y, pretrained=None, optimizer=None, *, trained=False, learns=(), loss=None, file=None):
    """Examine a model with LoRA on a batch X (n, …) and y (n, …); the report says what was found.

    The LoRA is this course's or PEFT's, and a model of transformers may return its logits within its own output.
    ``pretrained`` is a copy of the model from before LoRA, ``optimizer`` the one that trains, ``file`` the folder of
    the adapter that was loaded; without them the doctor sees less. ``trained`` says that training has begun, ``learns``
    names layers that are meant to learn beside LoRA (a new head), ``loss(output, y)`` is as in ``train_model``. The
    model stays as it is, gradients included.
    """
    learns = [learns] if isinstance(learns, str) else learns
    patient = _Patient(model, X, pretrained, optimizer, trained or file is not None, learns, file)
    patient.examine(X, y, loss)
    problems = [problem for check in CHECKS for problem in check(patient)]
    return Report(patient.measured(), problems, HEALTHY if file is None else HEALTHY_AS_ITS_FILE)


class _Patient:
    """The model on the table, and what several checks look at."""

    def __init__(self, model, X, pretrained, optimizer, trained, learns, file):
        self.model, self.X, self.file = model, X, file
        self.by_peft = any(map(is_peft_layer, model.modules()))
        if not self.by_peft and is_peft_model(model):
            raise ValueError("PEFT has put no LoRA of matrices into this model, and the doctor knows no other method")
        self.layers = peft_layers(model) if self.by_peft else lora_layers(model)
        self.names = {layer.name if self.by_peft else name for name, layer in self.layers.items()}
        self.pretrained, self.optimizer, self.trained, self.learns = pretrained, optimizer, trained, learns
        self.nested = [name for name, layer in self.layers.items() if _has_lora(layer.linear)]
        # PEFT's own names are long, and its wrappers nothing that a learner has typed.
        shown = self.plain if self.by_peft else str
        self.trainable = {shown(name): p for name, p in model.named_parameters() if p.requires_grad}
        self.adapter = {
            joined(name, own): parameter
            for name, layer in self.layers.items()
            for own, parameter in layer.adapter().items()
        }
        self.halves = set(map(id, self.adapter.values()))
        self.whole = {id(p) for name, p in model.named_parameters() if ".modules_to_save." in name}
        own = self.halves | self.whole | self._known_to_peft()
        self.others = [name for name, p in self.trainable.items() if id(p) not in own and not self.means(name)]
        if pretrained is not None and any(map(_has_lora, pretrained.modules())):
            raise ValueError("pretrained has LoRA in it; pass a copy that was made before: copy.deepcopy(model)")

    def _known_to_peft(self):
        """What else PEFT trains when it is asked to: magnitudes, embeddings' LoRA, single rows, biases."""
        bias = peft_options(self.model).get("bias", "none") if self.by_peft else "none"
        known = set()
        for name, p in self.model.named_parameters() if self.by_peft else ():
            asked = name.endswith(".bias") and (bias == "all" or (bias == "lora_only" and ".base_layer." in name))
            if ".lora_" in name or ".trainable_tokens_" in name or asked:
                known.add(id(p))
        return known

    def plain(self, full_name):
        """A parameter's name as it was before LoRA came."""
        if self.by_peft:
            return plain_name(self.model, full_name)
        owner, _, own = full_name.rpartition(".")
        inside = owner.removesuffix("linear").removesuffix(".")
        return joined(inside, own) if inside in self.layers and owner == joined(inside, "linear") else full_name

    def means(self, name):
        """Whether a parameter belongs to a layer that is meant to learn."""
        return any(is_called(name.rsplit(".", 1)[0], layer) for layer in self.learns)

    def examine(self, X, y, loss):
        """A forward pass to compare, and one forward and backward as in training; they leave no trace."""
        models = [model for model in (self.model, self.pretrained) if model is not None]
        with mode(False, *models), torch.no_grad():
            output = self.output(self.model, X, loss)
            self.difference = self._difference(X, output)
        own_path = as_in_training(self.model)
        with mode(False, self.model), own_path, _seeded(), torch.enable_grad(), _noted() as noted:
            value = (loss or default_loss)(self.output(self.model, X, loss), y)
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise TypeError("loss(output, y) must return one number, as a tensor")
            parameters = list(self.trainable.values()) if value.requires_grad else []
            self.gradients = gradients_of(value, parameters)
        self.loss, self.cut_off = value.item(), any(CUTS_OFF in str(warning.message) for warning in noted)

    def output(self, model, X, loss):
        """What the model returns; its logits, where no loss is given that knows better."""
        output = model(X)
        if loss is None and isinstance(getattr(output, "logits", None), torch.Tensor):
            return output.logits
        if loss is None and not isinstance(output, torch.Tensor):
            raise TypeError(
                f"the model returns a {type(output).__name__}; say how to make a loss of it: "
                "doctor(…, loss=lambda output, y: …)"
            )
        return output

    def _difference(self, X, output):
        """The largest difference from the pretrained model's output, or None where the two can't be compared."""
        if self.pretrained is None or not isinstance(output, torch.Tensor):
            return None
        try:
            before = self.output(self.pretrained, X, None)
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
        states = sorted({setting(layer) for layer in self.layers.values()} - {""})
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


def _has_lora(module):
    return isinstance(module, LinearWithLoRA) or is_peft_layer(module)


@contextmanager
def _seeded():
    """Whatever is still drawn at random is drawn the same each time, and the caller's numbers stay what they were."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def _noted():
    """Warnings are gathered in place of being shown: some of them tell what is wrong."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        yield noted


def gradients_of(value, parameters):
    """The gradients of a loss by the ids of the parameters that get one.

    By ``backward``: where a model checkpoints in the reentrant way, nothing else works. What lay in ``.grad`` stays.
    """
    before = [(p, p.grad) for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        if parameters:
            value.backward()
        return {id(p): p.grad for p in parameters if p.grad is not None}
    finally:
        for p, grad in before:
            p.grad = grad


@contextmanager
def as_in_training(model):
    """The model takes the path that it takes in training, checkpoints included; only dropout and statistics rest."""
    resting = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._NormBase)
    before = {module: module.training for module in model.modules()}
    # transformers keeps rates as numbers of a module: dropout, attention_dropout, layerdrop.
    rates = [
        (module, name, rate)
        for module in before
        for name, rate in vars(module).items()
        if "drop" in name and isinstance(rate, float) and not isinstance(module, (LoRALayer, *resting))
    ]
    try:
        for module in before:
            module.training = not isinstance(module, resting)
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, own in before.items():
            module.training = own
        for module, name, rate in rates:
            setattr(module, name, rate)
