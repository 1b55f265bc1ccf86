"""The exercises of notebook 09."""

import torch

from .engine import Exercise


def share_of_the_first(delta, k):
    squares = torch.linalg.svdvals(delta).square()
    return squares[:k].sum() / squares.sum()


def _matrix(m, n, seed=0):
    random = torch.Generator().manual_seed(seed)
    # Directions of different weight: columns that shrink.
    return torch.randn(m, n, generator=random) * 0.7 ** torch.arange(n)


share_of_the_first = Exercise(
    title="How much do the first directions hold?",
    reference=share_of_the_first,
    cases=[(_matrix(6, 5), 2), (_matrix(4, 7), 1), (3 * _matrix(5, 5, seed=1), 3)],
    observe=lambda answer, *case: float(answer(*case)),
    hints=[
        "‖ΔW‖² is the sum of the squares of all numbers. It is also the sum of the squares of something else: notebook 01.",
        "torch.linalg.svdvals gives the singular values, largest first. Square them.",
        "s = torch.linalg.svdvals(delta), then (s[:k] ** 2).sum() / (s**2).sum()",
    ],
    misconceptions=[
        (
            lambda delta, k: torch.linalg.svdvals(delta)[:k].sum() / torch.linalg.svdvals(delta).sum(),
            "The singular values are to be squared: ‖ΔW‖² is the sum of their squares.",
        ),
        (
            lambda delta, k: torch.linalg.svdvals(delta)[:k].norm() / torch.linalg.svdvals(delta).norm(),
            "That is the share of ‖ΔW‖. The share of ‖ΔW‖² is its square, and only those shares add up to 1.",
        ),
        (
            lambda delta, k: (
                torch.linalg.svdvals(delta)[k:].square().sum() / torch.linalg.svdvals(delta).square().sum()
            ),
            "That is what is left out. Take the first k, [:k].",
        ),
        (
            lambda delta, k: torch.linalg.svdvals(delta)[k - 1].square() / torch.linalg.svdvals(delta).square().sum(),
            "That is the k-th direction alone. Add up the first k.",
        ),
        (
            lambda delta, k: torch.linalg.svdvals(delta)[:k].square().sum(),
            "That is how much, and not which share. Divide by the sum over all.",
        ),
        (
            lambda delta, k: delta[:k].square().sum() / delta.square().sum(),
            "Those are the first k rows. A direction is not a row: take singular values.",
        ),
        (
            lambda delta, k: delta[:, :k].square().sum() / delta.square().sum(),
            "Those are the first k columns. A direction is not a column: take singular values.",
        ),
        (
            lambda delta, k: (
                torch.linalg.svdvals(delta).square().sum() / torch.linalg.svdvals(delta)[:k].square().sum()
            ),
            "Upside down: divide the part by the whole.",
        ),
        (
            lambda delta, k: k / min(delta.shape),
            "That would be so if all directions counted equally. Look at the singular values.",
        ),
        (
            lambda delta, k: (
                100 * torch.linalg.svdvals(delta)[:k].square().sum() / torch.linalg.svdvals(delta).square().sum()
            ),
            "Those are percent. Asked for is a share from 0 to 1.",
        ),
    ],
    praise="The same measure as in notebook 01: what a rank-k version of the matrix keeps.",
)


def count_intruders(W, W_new, k, threshold):
    before, after = torch.linalg.svd(W).U, torch.linalg.svd(W_new).U[:, :k]
    return int(((before.T @ after).abs().amax(0) < threshold).sum())


def _weights(seed, size, strength, rank):
    """A matrix with a falling spectrum, and what it becomes by a strong update of low rank."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    U, V = (torch.linalg.qr(draw(size, size)).Q for _ in range(2))
    W = U * torch.linspace(3, 1, size) @ V.T
    return W, W + strength * torch.linalg.qr(draw(size, rank)).Q @ torch.linalg.qr(draw(size, rank)).Q.T


def _raised(size=8):
    """A matrix, and what it becomes when its weakest direction is raised to the strongest: nobody new."""
    W = torch.linspace(3, 1, size).diag()
    return W, W + torch.diag(torch.tensor([0.0] * (size - 1) + [5.0]))


def _best(W, W_new):
    return (torch.linalg.svd(W).U.T @ torch.linalg.svd(W_new).U).abs()


count_intruders = Exercise(
    title="Count the intruders",
    reference=count_intruders,
    cases=[
        (*_weights(0, 12, 4.0, 2), 6, 0.6),
        (*_weights(1, 12, 1.0, 3), 5, 0.7),
        (*_weights(2, 10, 6.0, 3), 4, 0.6),
        (*_raised(), 3, 0.6),
    ],
    hints=[
        "An intruder resembles none of the old directions. For one new direction: how large is its largest likeness?",
        "U holds the directions in its columns. U_old.T @ U_new[:, :k] compares each with each; a sign means nothing.",
        "likeness = (U_old.T @ U_new[:, :k]).abs(), then count the columns whose largest entry, .amax(0), is below the threshold.",
    ],
    misconceptions=[
        (
            lambda W, W_new, k, t: int(
                ((torch.linalg.svd(W).U.T @ torch.linalg.svd(W_new).U[:, :k]).amax(0) < t).sum()
            ),
            "A singular vector may as well point the other way: u and -u are the same direction. Use abs().",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new).diagonal()[:k] < t).sum()),
            "That compares the first with the first, the second with the second. Directions change places: compare with each old one.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:k, :k].amax(0) < t).sum()),
            "That looks for the old direction among the first k alone. It may stand further down: compare with all old ones.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k].amax(0) >= t).sum()),
            "Those are the directions that are still the old ones. Intruders are below the threshold.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new).amax(0) < t).sum()),
            "That looks at all new directions. Count among the k leading ones.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k].amax(1) < t).sum()),
            "That asks of each old direction whether it is still there. Ask of each new one whether it was there: the largest of its column.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k] < t).sum()),
            "That counts pairs. A direction is an intruder if its largest likeness is small.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k].mean(0) < t).sum()),
            "The mean over all old directions is small for everyone. Take the largest.",
        ),
        (
            lambda W, W_new, k, t: int(
                ((torch.linalg.svd(W).U @ torch.linalg.svd(W_new).U[:, :k]).abs().amax(0) < t).sum()
            ),
            "The directions are the columns of U: transpose the first, U_old.T @ U_new.",
        ),
        (
            lambda W, W_new, k, t: int(((W.T @ torch.linalg.svd(W_new).U[:, :k]).abs().amax(0) < t).sum()),
            "Compare with the singular vectors of W, not with its columns: they are of length 1 and at right angles.",
        ),
    ],
    praise="The definition is Shuttleworth's and others' of 2024. Its answer depends on k and on the threshold: say both.",
)
