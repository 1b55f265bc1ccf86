"""The ward of the bug clinic: what a patient is, how it is treated and examined, and how a diagnosis is judged.

The patients themselves lie in ``clinic``, and those whose LoRA is PEFT's in ``clinic_peft``.
"""

import copy
import inspect
import math
import re
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from IPython.display import display
from torch import nn

from ..adapt import count_parameters, lora_disabled
from ..checkup import as_in_training, gradients_of
from ..layer import LoRALayer
from ..material.data import Split, digits
from ..material.models import DigitClassifier
from ..peft_view import is_peft_model, peft_layers, plain_name
from ..pictures.charts import twin_curves
from ..pictures.tables import table
from ..training import accuracy, default_loss, evaluate, train_model
from .cards import Card

LR = 0.01  # of every patient's training
DIAGNOSES = {
    "frozen": "everything was frozen after LoRA went in",
    "both zero": "A and B both start at zero",
    "optimizer": "the optimizer does not hold A and B",
    "random B": "B starts at random",
    "bias": "the biases were left free to learn",
    "alpha": "alpha is not divided by the rank",
    "fan": "A was filled for the wrong number of inputs",
    "twice": "LoRA was put in twice",
    "merged twice": "the update was merged twice",
    "turned": "A and B were read from the file the wrong way round",
    "not loaded": "the adapter was not loaded at all",
    "tied": "the adapted weight is tied to another layer's",
    "slow": "the learning rate is too low",
    "fast": "the learning rate is too high",
    "rank": "the rank is not what it should be",
    "head": "what was trained beside LoRA is not in the file",
    "cut off": "gradients do not pass a checkpoint",
    "other targets": "LoRA was put in again with other targets",
    "names": "the file's names are not the model's",
    "scale": "the scale is not the one that it was trained with",
    "saved merged": "it was saved while merged",
}


@dataclass
class World:
    """Where a patient lives: a pretrained model, a task to adapt it to, and the old task."""

    pretrained: nn.Module
    new: Split
    old: Split
    epochs: int = 12


@cache
def digit_world():
    """The classifier of upright digits, to be adapted to mirrored ones."""
    # Double precision: the same numbers on every computer.
    new, old = (digits(task, dtype=torch.float64) for task in ("mirrored", "upright"))
    return World(DigitClassifier.pretrained().double(), new, old)


@dataclass
class Visit:
    """A model as it is used in the end, its optimizer, and what was measured on the way."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    losses: list[float]
    measured: dict[str, float]
    file: tempfile.TemporaryDirectory | None = None  # of PEFT's adapter, as it was at the end of training


@dataclass(frozen=True)
class Patient:
    """A bug to be found by its symptoms: ``examine()``, then ``diagnose("a")``.

    ``choices`` are four of DIAGNOSES, ``why_not`` says of each wrong one what speaks against it.
    """

    number: int
    bug: str
    sick: Callable
    cured: Callable
    choices: tuple[str, ...]
    why_not: dict[str, str]
    explanation: str
    reference: str
    afterwards: tuple[Callable, Callable] | None = None
    world: Callable = digit_world

    def __hash__(self):
        return self.number

    def examine(self):
        """Show what was measured on the patient and on a healthy twin; return the figure of their loss curves."""
        sick, well = visit(self, ill=True), visit(self, ill=False)
        abnormal = self.abnormal()
        rows = {
            name: [*map(_number, (sick.measured[name], well.measured[name])), "◀" * (name in abnormal)]
            for name in sick.measured
        }
        display(table(rows, [f"patient {self.number}", "patient", "healthy", ""]))
        return twin_curves(sick.losses, well.losses, f"Patient {self.number}")

    def abnormal(self):
        """The names of what differs between the patient and its healthy twin by more than a tenth."""
        sick, well = (visit(self, ill).measured for ill in (True, False))
        # Written so that a number that is none, where it diverged, differs.
        alike = {
            name for name, value in sick.items() if abs(value - well[name]) <= max(abs(value), abs(well[name])) / 10
        }
        return [name for name in sick if name not in alike]

    def diagnose(self, answer):
        """A card: the choices, while the answer is still ``...``; else whether it is right, and why."""
        letters = dict(zip("abcd", self.choices, strict=True))
        choices = {letter: DIAGNOSES[bug] for letter, bug in letters.items()}
        if answer is ...:
            wanted = 'Replace the ... with a letter in quotation marks: "a".'
            return Card("…", "What is wrong?", wanted, choices=choices)
        bug = letters.get(str(answer).strip().lower())
        if bug is None:
            return Card("✗", "Not a choice", "Answer with one of these letters, in quotation marks.", choices=choices)
        if bug != self.bug:
            return Card("✗", "Not this one", self.why_not[bug])
        return self.reveal()

    def reveal(self):
        """A card with the diagnosis, what was done and what would have been right, and where it was met."""
        own = self.afterwards if self.afterwards and self.afterwards[0] is not self.afterwards[1] else None
        done, right = map(_body, own or (self.sick, self.cured))
        text = f"{self.explanation} Met in the wild: {self.reference}."
        headline = DIAGNOSES[self.bug]
        return Card("✓", headline[0].upper() + headline[1:], text, f"# what was done\n{done}\n# the cure\n{right}")

    def admit(self, ill=True):
        """The model after LoRA went in, or should have, and before its training; and the optimizer."""
        model = copy.deepcopy(self.world().pretrained)
        torch.manual_seed(0)
        treated = (self.sick if ill else self.cured)(model)
        return treated if isinstance(treated, tuple) else (model, treated)


def visit(patient, ill):
    """Treat a patient, or its healthy twin, from the pretrained model to the end. Each is treated once."""
    return _treated(patient, ill)  # for a cache visit(patient, True) and visit(patient, ill=True) would be two


@cache
def _treated(patient, ill):
    world = patient.world()
    model, optimizer = patient.admit(ill)
    X, y = world.new.X, world.new.y
    loras = [module for module in model.modules() if isinstance(module, LoRALayer)]
    loras = loras or [layer.lora for layer in peft_layers(model).values()]

    def right(task):
        return 100 * accuracy(model, task.X_test, task.y_test)

    def difference(model):
        return (model(X) - world.pretrained(X)).abs().max().item()

    gradient_A, gradient_B = _gradients(model, loras, X, y)
    rows = {
        "numbers that want to learn": count_parameters(model).trainable,
        "LoRA layers": len(loras),
        "rank": loras[0].rank,
        "largest number in A at the start": max(lora.A.abs().max().item() for lora in loras),
        "output changed before training": difference(model),
        "gradient of A at the start": gradient_A,
        "gradient of B at the start": gradient_B,
        "old task before training, % right": right(world.old),
        "loss before training": evaluate(model, X, y),
    }
    if optimizer is None:  # nothing that could learn: the curve is flat
        losses = [rows["loss before training"]] * world.epochs
    else:
        own = {"optimizer": lambda parameters, lr: optimizer, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the owner did not read them
            losses = train_model(model, X, y, world.epochs, LR, batch_size=64, **own).train
        losses += [math.nan] * (world.epochs - len(losses))  # where it diverged
    rows["loss after training"] = evaluate(model, X, y)
    rows["new task, % right"] = right(world.new)
    rows["pretrained numbers changed by"] = max(_changes(model, world.pretrained), default=0.0)
    rows |= {"LoRA layers that learned": sum(bool(lora.B.any()) for lora in loras)} if is_peft_model(model) else {}
    with model.disable_adapter() if is_peft_model(model) else lora_disabled(model):
        rows["old task, LoRA off, % right"] = right(world.old)
    file = tempfile.TemporaryDirectory() if is_peft_model(model) else None
    if file:
        model.save_pretrained(file.name)
    if patient.afterwards:
        model = patient.afterwards[0 if ill else 1](model) or model
        changes = _changes(model, world.pretrained)
        rows["pretrained numbers changed, in use"] = max(changes, default=0.0)
        rows["in so many layers"] = len(changes)
        rows["output differs from pretrained, in use"] = difference(model)
        rows["new task when in use, % right"] = right(world.new)
    return Visit(model, optimizer, losses, rows, file)


def _gradients(model, loras, X, y):
    """The norm of the gradient of every A together, and of every B; zero for what is frozen."""
    parameters = [p for lora in loras for p in (lora.A, lora.B) if p.requires_grad]
    with as_in_training(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints that cut a gradient off, which is what is looked for
        found = gradients_of(default_loss(model(X), y), parameters)
    squares = {number: gradient.square().sum().item() for number, gradient in found.items()}
    return [sum(squares.get(id(getattr(lora, half)), 0.0) for lora in loras) ** 0.5 for half in "AB"]


def _changes(model, pretrained):
    """The largest change in each pretrained layer whose numbers are no longer what they were."""
    named = model.named_parameters(remove_duplicate=False)
    now = {re.sub(r"(\.linear)+\.", ".", plain_name(model, name)): p for name, p in named}
    before = pretrained.named_parameters(remove_duplicate=False)
    return [change for name, p in before if (change := (now[name] - p).abs().max().item())]


def _body(function):
    """What a function does, without its name: that would say whether it is the sick or the cured one."""
    return textwrap.dedent(inspect.getsource(function).partition(":\n")[2])


def _number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
