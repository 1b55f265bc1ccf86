"""The exercises of notebook 09."""

import torch
from torch.linalg import svdvals
from torch.nn import functional as F

from .engine import Exercise
from .guesses import Guess

main_directions = Guess("directions that do most of the work", axis="x")
by_chance = Guess("the factor in random directions")
cut_to_rank = Guess("full fine-tuning, cut", ["as good", "worse", "better"])


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
    cases=[
        (torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 1),
        (_matrix(6, 5), 2),
        (_matrix(4, 7), 1),
        (3 * _matrix(5, 5, seed=1), 3),
        (1e-4 * _matrix(6, 5), 5),
    ],
    observe=lambda answer, *case: float(answer(*case)),
    hints=[
        "‖ΔW‖² is the sum of the squares of all numbers. It is also the sum of the squares of something else: see “How many directions?” above.",
        "torch.linalg.svdvals gives the singular values, largest first. Square them.",
        "s = torch.linalg.svdvals(delta), then (s[:k] ** 2).sum() / (s**2).sum()",
    ],
    misconceptions=[
        (
            lambda delta, k: svdvals(delta)[:k].sum() / svdvals(delta).sum(),
            "The singular values are to be squared: ‖ΔW‖² is the sum of their squares.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].norm() / svdvals(delta).norm(),
            "That is the share of ‖ΔW‖. The share of ‖ΔW‖² is its square, and only those shares add up to 1.",
        ),
        (
            lambda delta, k: svdvals(delta)[k:].square().sum() / svdvals(delta).square().sum(),
            "That is what is left out. Take the first k, [:k].",
        ),
        (
            lambda delta, k: svdvals(delta)[k - 1].square() / svdvals(delta).square().sum(),
            "That is the k-th direction alone. Add up the first k.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].square().sum(),
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
            lambda delta, k: svdvals(delta).square().sum() / svdvals(delta)[:k].square().sum(),
            "Upside down: divide the part by the whole.",
        ),
        (
            lambda delta, k: k / min(delta.shape),
            "That would be so if all directions counted equally. Look at the singular values.",
        ),
        (
            lambda delta, k: 100 * svdvals(delta)[:k].square().sum() / svdvals(delta).square().sum(),
            "Those are percent. Asked for is a share from 0 to 1.",
        ),
        (
            lambda delta, k: svdvals(delta)[: k + 1].square().sum() / svdvals(delta).square().sum(),
            "Those are k + 1 directions. [:k] ends before k; in a cumsum, the k-th stands at k - 1.",
        ),
        (
            lambda delta, k: svdvals(delta)[k].square() / svdvals(delta).square().sum(),
            "That is one direction alone and, counted from 0, the one after the k-th. Add up the first k.",
        ),
        (
            lambda delta, k: svdvals(delta)[-k:].square().sum() / svdvals(delta).square().sum(),
            "Those are the last k, the weakest. svdvals gives the largest first: [:k].",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].square().sum() / delta.norm(),
            "The norm below is not squared: divide by ‖ΔW‖².",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].sum().square() / svdvals(delta).sum().square(),
            "Square each singular value first, then add up: (a + b)² is not a² + b².",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].sum().square() / svdvals(delta).square().sum(),
            "Above, too, square each singular value first, then add up: (a + b)² is not a² + b².",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].sum() / delta.square().sum(),
            "Below are squares, above not: square the singular values, too.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].sum() / delta.norm(),
            "Neither is squared: it is the sum of squares, divided by ‖ΔW‖².",
        ),
        (
            lambda delta, k: svdvals(delta.T @ delta)[:k].square().sum() / svdvals(delta.T @ delta).square().sum(),
            "Those are fourth powers: the singular values of ΔWᵀΔW are squares already.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].square().sum() / svdvals(delta)[k:].square().sum(),
            "That divides the part by the rest. Divide by the sum over all.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].square().mean() / svdvals(delta).square().mean(),
            "Means forget how many there are: use sum.",
        ),
        (
            lambda delta, k: svdvals(delta)[:k].square() / svdvals(delta).square().sum(),
            "Those are the k shares one by one. Add them up.",
        ),
        (
            lambda delta, k: torch.linalg.eigvalsh(delta.T @ delta)[:k].sum() / delta.square().sum(),
            "eigvalsh gives the smallest first, svdvals the largest: those are the k weakest directions.",
        ),
    ],
    praise="What the rank-k version of the matrix keeps. One minus it, under a root, is the error left of notebook 01.",
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


def _raised(size):
    """A matrix, and what it becomes when its weakest direction is raised to the strongest: nobody new."""
    W = torch.linspace(3, 1, size).diag()
    return W, W + torch.diag(torch.tensor([0.0] * (size - 1) + [5.0]))


def _right(matrix):
    return torch.linalg.svd(matrix).Vh.T


def _best(W, W_new):
    return (torch.linalg.svd(W).U.T @ torch.linalg.svd(W_new).U).abs()


count_intruders = Exercise(
    title="Count the intruders",
    reference=count_intruders,
    cases=[
        (*(0.05 * matrix for matrix in _weights(0, 12, 4.0, 2)), 6, 0.6),
        (*_weights(1, 12, 1.0, 3), 5, 0.72),
        (*_weights(2, 10, 6.0, 3), 4, 0.55),
        (*_raised(8), 3, 0.6),
        (*_raised(3), 3, 0.3),
        (*(matrix.T.contiguous() for matrix in _weights(0, 12, 4.0, 2)), 6, 0.58),
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
            "Compare with the singular vectors of W: not with its columns, and not scaled by S. A cosine needs vectors of length 1.",
        ),
        (
            lambda W, W_new, k, t: int(((_right(W).T @ _right(W_new)[:, :k]).abs().amax(0) < t).sum()),
            "Those are the directions that it reads, the rows of Vh. Count the ones that it writes to: the columns of U.",
        ),
        (
            lambda W, W_new, k, t: int(((_right(W) @ _right(W_new).T[:, :k]).abs().amax(0) < t).sum()),
            "svd returns Vh, whose rows are directions, and not its columns. Here the columns of U are asked for.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new).T[:, :k].amax(0) < t).sum()),
            "W and W_new are swapped: that asks which old directions were lost.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k].square().amax(0) < t).sum()),
            "Those are squared cosines: use abs(), or compare with the squared threshold.",
        ),
        (
            lambda W, W_new, k, t: int(((torch.linalg.svd(W).U * torch.linalg.svd(W_new).U).sum(0)[:k] < t).sum()),
            "That compares the first with the first, and minds the sign. Compare with each old one, with abs().",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new).flip(1)[:, :k].amax(0) < t).sum()),
            "Those are the weakest directions; eigh gives the smallest first, svd the largest.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :k] < t).any(0).sum()),
            "Every direction is unlike some old one. An intruder is unlike all of them: .all(0), or the largest.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new)[:, :1].amax(0) < t).sum()),
            "That looks at the strongest direction alone. A return inside the loop ends it: go on through all k.",
        ),
        (
            lambda W, W_new, k, t: int(
                ((F.normalize(W, dim=0).T @ F.normalize(W_new, dim=0)[:, :k]).abs().amax(0) < t).sum()
            ),
            "Those are the columns of the matrices themselves. The directions are the columns of U, from torch.linalg.svd.",
        ),
        (
            lambda W, W_new, k, t: int(
                ((torch.linalg.svd(W).U.T @ torch.linalg.svd(W_new).U[:k].T).abs().amax(0) < t).sum()
            ),
            "U_new[i] is a row of U. The directions are its columns: U_new[:, i].",
        ),
        (
            lambda W, W_new, k, t: 0 * k,
            "That finds no intruder anywhere. For each new direction alone, take the largest cosine: no sum, and not one maximum for all.",
        ),
        (
            lambda W, W_new, k, t: int((_best(W, W_new - W)[:, :k].amax(0) < t).sum()),
            "Those are the directions of ΔW. Asked for are those of W_new.",
        ),
    ],
    praise="The definition is Shuttleworth's and others' of 2024. Its answer depends on k and on the threshold: say both.",
)
