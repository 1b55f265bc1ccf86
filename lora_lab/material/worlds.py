"""What notebook 05 compares: DigitClassifier adapted to three worlds, from many seeds and at many rates.

``python -m lora_lab.material.worlds`` trains all of it anew in a few minutes, or a part.
"""

from itertools import product

import torch

from ..adapt import replace_linear_with_lora
from ..training import accuracy, set_seed, train_model
from .data import digits
from .models import WEIGHTS, DigitClassifier
from .records import from_the_command_line, write, written

TASKS = ("mirrored", "rotated", "inverted")
METHODS = (1, 2, 4, 8, 16, "head", "full")
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
BODY = ("fc1", "fc2")
_RANKS = {("fc1",): 8, ("fc2",): 5, BODY: 3}  # some 2,500 numbers each
# The trainings of each part: task, method, rate, seed, targets and epochs.
PARTS = {
    "ranks": [*product(TASKS, METHODS, RATES, range(3), [BODY], [12])],
    "longer": [*product(["inverted"], [4, 16, "full"], RATES, range(3), [BODY], [60])],
    "places": [
        (task, rank, rate, seed, targets, 12)
        for targets, rank in _RANKS.items()
        for task, rate, seed in product(["rotated", "mirrored"], RATES, range(6))
    ],
}


def record(part):
    """What the trainings of a part scored: ``{(task, method): {rate: [row of seed 0, row of seed 1, …]}}``.

    In a row "held" and "test" are the percent right on digits kept aside for choosing, and on test digits.
    """
    scores = {}
    for row in written(WEIGHTS / "worlds", part)["trainings"]:
        by_rate = scores.setdefault((row["task"], row["method"]), {})
        by_rate.setdefault(row["rate"], []).append(row)
    return scores


def adapted(task, method, rate, seed, targets, epochs):
    """The shipped model adapted to a world. The method is a rank, "head" or "full"."""
    model, data, (fit, _) = DigitClassifier.pretrained().double(), _digits(task), fit_and_held()
    set_seed(seed)
    if method == "head":
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    elif method != "full":
        replace_linear_with_lora(model, method, targets=list(targets))
    train_model(model, data.X[fit], data.y[fit], epochs, rate, batch_size=64, seed=seed, progress=False)
    return model


def fit_and_held():
    """Which of the 1,347 training digits are trained on, and which 300 are kept aside to choose rates with."""
    shuffled = torch.randperm(1347, generator=torch.Generator().manual_seed(0))
    return shuffled[300:], shuffled[:300]


def make(part):
    """Train a part and write it down."""
    from tqdm.auto import tqdm

    (WEIGHTS / "worlds").mkdir(exist_ok=True)
    write(WEIGHTS / "worlds", part, {"trainings": [_row(*options) for options in tqdm(PARTS[part], desc=part)]})


def _row(task, method, rate, seed, targets, epochs):
    model, data, (_, held) = adapted(task, method, rate, seed, targets, epochs), _digits(task), fit_and_held()
    chosen_on, tested_on = accuracy(model, data.X[held], data.y[held]), accuracy(model, data.X_test, data.y_test)
    row = {"task": task, "method": method, "rate": rate, "seed": seed, "targets": list(targets)}
    return row | {"held": round(100 * chosen_on, 2), "test": round(100 * tested_on, 2)}


def _digits(task):
    return digits(task, dtype=torch.float64)


if __name__ == "__main__":
    from_the_command_line("lora_lab.material.worlds", __doc__, tuple(PARTS), make)
