"""One training loop for the whole course, and the History it returns."""

import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from .checks import positive_number, whole_number


@dataclass(repr=False)
class History:
    """What happened in a training: one loss per epoch on the training data, and on validation data if there were any.

    The training loss is an epoch's mean as its steps were taken, the validation loss is measured after the epoch.
    ``stopped`` says why the training ended early, and is empty if it did not.
    """

    train: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""

    def __repr__(self):
        parts = [f"{len(self.train)} epoch{'s' * (len(self.train) != 1)}"]
        for name, losses in (("training", self.train), ("validation", self.val)):
            if losses:
                first = f"{losses[0]:.3f} → " * (len(losses) > 1)
                parts.append(f"{name} loss {first}{losses[-1]:.3f}")
        return f"History({', '.join(parts + [self.stopped] * bool(self.stopped))})"


def set_seed(seed):
    """Seed whatever is random from here on: new layers, the A of a new LoRA, ``torch.randn``."""
    torch.manual_seed(seed)


def train_model(
    model, X, y, epochs=10, lr=0.01, *, val=None, batch_size=None, loss=None, optimizer=None, seed=0, progress=True
):
    """Train whatever in ``model`` requires a gradient to map X (n, …) to y (n, …); return the History.

    Adam takes one step per epoch on all examples, or one per shuffled batch of ``batch_size``. The loss is the mean
    squared error where y holds real numbers and cross-entropy where it holds class indices, unless
    ``loss(output, y)`` is given. ``val=(X_val, y_val)`` is measured after each epoch. ``optimizer(parameters, lr=lr)``
    makes another optimizer than Adam. Stopping the cell returns the history so far; a loss that is no longer finite
    ends the training and says why.
    """
    _check_arguments(X, y, val, epochs, lr, batch_size)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("nothing to train: every parameter is frozen. Was the model frozen after LoRA went in?")
    device, loss = parameters[0].device, loss or default_loss
    X, y, shuffle = X.to(device), y.to(device), torch.Generator().manual_seed(seed)
    stepper = (optimizer or _adam)(parameters, lr=lr)
    history, start, taken = History(), time.perf_counter(), 0
    try:
        step = min(batch_size or len(X), len(X))
        steps = epochs * math.ceil(len(X) / step)
        with mode(True, model), _threads_for(model, step), _progress_bar(steps, progress) as bar:
            for _ in range(epochs):
                total = 0.0
                for batch in _batches(len(X), batch_size, shuffle):
                    number = _step(model, X[batch], y[batch], loss, stepper)
                    total += number * len(X[batch])
                    taken += 1
                    bar.set_postfix_str(f"loss {number:.3g}", refresh=False)
                    bar.update()
                history.train.append(total / len(X))
                if val is not None:
                    history.val.append(evaluate(model, *val, loss=loss))
    except KeyboardInterrupt:
        history.stopped = f"stopped by hand in epoch {len(history.train) + 1}"
    except FloatingPointError as error:
        history.stopped = f"stopped in epoch {len(history.train) + 1}: {error}, {_likely_cause(X, y, taken, lr)}"
        if progress:
            print(history.stopped)
    finally:
        stepper.zero_grad()
    history.seconds = time.perf_counter() - start
    return history


def evaluate(model, X, y, loss=None):
    """The model's mean loss on X (n, …) and y (n, …): a float, from evaluation mode and without gradients."""
    loss, total = loss or default_loss, 0.0
    for outputs, targets in _outputs(model, X, y):
        total += loss(outputs, targets).item() * len(targets)
    return total / len(X)


def accuracy(model, X, y):
    """The share of examples X (n, …) whose largest output is at the right class y (n,): a float from 0 to 1."""
    right = 0
    for outputs, targets in _outputs(model, X, y):
        _check_classes(outputs, targets)
        right += (outputs.argmax(-1) == targets).sum().item()
    return right / y.numel()


def _outputs(model, X, y):
    """The model's outputs beside y, piece after piece of some 32,768 numbers of X: a whole text would not fit."""
    _check_pairs(X, y)
    device = next(model.parameters()).device
    size = max(1, 32_768 // max(1, X[:1].numel()))
    with torch.no_grad(), mode(False, model), _threads_for(model, len(X)):
        for part, targets in zip(X.split(size), y.split(size), strict=True):
            yield model(part.to(device)), targets.to(device)


def memory_ledger(model, X, y, loss=None):
    """What one step of training with Adam holds at once, in bytes: ``{"weights": …, "activations": …}``.

    Activations are what the forward pass of X (n, …) and y (n, …) keeps for the backward pass, X itself not counted.
    """
    held = [*model.parameters(), *model.buffers()]
    trainable = sum(p.numel() * p.element_size() for p in held if p.requires_grad)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*held, X, y]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = (loss or default_loss)(model(X), y)
    del value  # it has held every tensor until here, so no address was counted twice
    return {
        "weights": sum(tensor.numel() * tensor.element_size() for tensor in held),
        "gradients": trainable,
        "optimizer": 2 * trainable,  # Adam's two means
        "activations": sum(kept.values()),
    }


def default_loss(output, y):
    """Mean squared error of output and y, both (n, …), or, where y holds class indices, the mean cross-entropy.

    Cross-entropy takes an output with one more dimension than y, the classes: (n, …, classes) and (n, …).
    """
    if not y.is_floating_point():
        _check_classes(output, y)
        return F.cross_entropy(output.flatten(0, -2), y.flatten())
    if output.shape != y.shape:
        raise ValueError(
            f"the model's output is {tuple(output.shape)} and y is {tuple(y.shape)}; reshape y, or torch would "
            "stretch one to the other and train on nonsense"
        )
    return F.mse_loss(output, y)


def _check_classes(output, y):
    if output.shape[:-1] != y.shape:
        raise ValueError(
            f"the model's output is {tuple(output.shape)}, which takes a y of {tuple(output.shape[:-1])}, and y is "
            f"{tuple(y.shape)}; reshape it"
        )


def _check_arguments(X, y, val, epochs, lr, batch_size):
    _check_pairs(X, y)
    if val is not None:
        if not isinstance(val, (tuple, list)) or len(val) != 2:
            raise ValueError("val is a pair, (X_val, y_val)")
        _check_pairs(*val, "val: ")
    whole_number("epochs", epochs, 0)
    positive_number("lr", lr, "try 0.01")
    if batch_size is not None:
        whole_number("batch_size", batch_size, hint="None takes all examples at once")


def _check_pairs(X, y, where=""):
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(
            f"{where}X has {len(X)} examples and y has {len(y)}; they must pair up, and there must be some"
        )


def _adam(parameters, lr):
    # fused: one pass over the parameters, which halves the cost of a step on small models.
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def _step(model, X, y, loss, stepper):
    value = loss(model(X), y)
    if not value.requires_grad:
        raise ValueError("no trainable parameter takes part in the output; is LoRA merged, disabled or left out?")
    number = value.item()
    if not math.isfinite(number):
        raise FloatingPointError(f"the loss is {number}")
    stepper.zero_grad()
    value.backward()
    stepper.step()
    return number


def _batches(n, batch_size, shuffle):
    if batch_size is None:
        return [slice(None)]
    return torch.randperm(n, generator=shuffle).split(int(batch_size))  # torch wants no numpy number here


def _likely_cause(X, y, taken, lr):
    for name, tensor in (("X", X), ("y", y)):
        if not tensor.isfinite().all():
            return f"because {name} contains NaN or infinity"
    if not taken:
        return "from the first step on, so the model's own weights are the likely cause"
    return f"most likely because lr={lr:g} is too high: try {lr / 10:g} on a fresh model"


def _progress_bar(steps, progress):
    from tqdm.auto import tqdm

    # What takes less than a second needs no bar. TQDM_DISABLE turns off all of them; tqdm's bar for notebooks, unlike
    # its others, does not ask for it.
    off = not progress or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=steps, desc="training", unit="step", leave=False, delay=1, disable=off)


@contextmanager
def _threads_for(model, n):
    """One thread for small work, judged by the multiplications that ``n`` examples take; a piece of text counts as one.

    Two threads gain little there, cost much where they share the processor with a browser (a training of TinyGPT took
    ten times as long), and round differently.
    """
    before = torch.get_num_threads()
    if n * sum(p.numel() for p in model.parameters()) < 200e6:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def mode(training, *models):
    """All parts of the models in training or in evaluation mode, and each in its own mode again afterwards."""
    before = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.train(training)
        yield
    finally:
        for module, own in before.items():
            module.training = own
