"""Numbers to learn from, all of them at hand: made here, or read from an installed package."""

from typing import NamedTuple

import torch
from torch import nn

from ..checks import whole_number


def create_toy_dataset(n_samples=1000, seed=0):
    """The source notes' data: X (n_samples, 64) and y (n_samples, 10), both plain noise.

    There is nothing to learn here: y does not depend on X.
    """
    random = torch.Generator().manual_seed(seed)
    X = torch.randn(n_samples, 64, generator=random)
    y = torch.randn(n_samples, 10, generator=random)
    return X, y


class PlantedTask(NamedTuple):
    """A pretrained layer, and data from a layer that differs from it by ``delta`` (in, out), of known rank."""

    pretrained: nn.Linear
    X: torch.Tensor
    y: torch.Tensor
    X_val: torch.Tensor
    y_val: torch.Tensor
    delta: torch.Tensor

    @property
    def val(self):
        """X_val and y_val, as ``train_model`` takes them."""
        return self.X_val, self.y_val


def create_planted_task(n_samples=256, in_features=64, out_features=10, rank=2, noise=0.1, seed=0):
    """A task with something to learn: y = x (Wᵀ + ΔW) + b + noise, where W is pretrained and ΔW has the given rank.

    X is (n_samples, in_features), y (n_samples, out_features), and as many again for validation. The directions of ΔW
    count equally: the pretrained layer's loss is about 1, each direction learned takes 1/rank of it away, and noise²
    is left.
    """
    rank = whole_number("rank", rank, 1, min(in_features, out_features))
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    def directions(size):
        """(size, rank) with orthonormal columns."""
        return torch.linalg.qr(draw(size, rank)).Q

    pretrained = nn.Linear(in_features, out_features)
    with torch.no_grad():
        pretrained.weight.copy_(draw(out_features, in_features) / in_features**0.5)
        pretrained.bias.copy_(draw(out_features) / in_features**0.5)
    delta = (out_features / rank) ** 0.5 * directions(in_features) @ directions(out_features).T
    X = draw(2 * n_samples, in_features)
    with torch.no_grad():
        y = pretrained(X) + X @ delta + noise * draw(2 * n_samples, out_features)
    return PlantedTask(pretrained, X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:], delta)


class Split(NamedTuple):
    """Examples to train on and others to test on: X (n, …) and y (n,) of each."""

    X: torch.Tensor
    y: torch.Tensor
    X_test: torch.Tensor
    y_test: torch.Tensor


# What a task does to the images, (n, 8, 8) with values from 0 to 1.
DIGIT_TASKS = {
    "upright": lambda images: images,
    "mirrored": lambda images: images.flip(-1),
    "rotated": lambda images: images.rot90(1, (-2, -1)),
    "inverted": lambda images: 1 - images,
}


def digits(task="upright", dtype=torch.float32):
    """Scikit-learn's 1,797 handwritten digits, X (n, 64) from 0 to 1 and y (n,), a quarter of them kept for testing.

    ``task`` is "upright", "mirrored", "rotated" (by 90°) or "inverted" (ink and paper swapped). The same images
    are kept for testing in every task, and the shipped DigitClassifier has not seen them.
    """
    if task not in DIGIT_TASKS:
        raise ValueError(f"task={task!r} is unknown; choose one of {', '.join(map(repr, DIGIT_TASKS))}")
    # Loaded here, so that importing lora_lab stays quick.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = DIGIT_TASKS[task](torch.tensor(bunch.images, dtype=dtype) / 16)
    labels = torch.tensor(bunch.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, stratify=bunch.target, random_state=0)
    X = images.reshape(-1, 64)
    return Split(X[train], labels[train], X[test], labels[test])
