"""The exercises of notebook 01."""

import math

import torch

from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

patterns_needed = Guess("patterns that are needed")
best_by_8 = Guess("best approximated", ["start", "end", "change", "noise"])
percent_of_layer = Guess("the adapter, in percent of the layer 64 → 10")


def keep(U, S, Vh, rank):
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def _falling(m, n):
    """A matrix (m, n) whose first patterns are stronger than its last."""
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(m))
    return matrix * 0.7 ** torch.arange(n)


def _decomposed(matrix, rank):
    return (*torch.linalg.svd(matrix, full_matrices=False), rank)


keep = Exercise(
    title="The best approximation of rank r",
    reference=keep,
    cases=[
        _decomposed(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), 1),
        *(_decomposed(_falling(m, n), rank) for m, n, rank in ((6, 6, 2), (8, 5, 3), (4, 7, 1), (5, 4, 4))),
    ],
    hints=[
        "The three factors multiply back to the matrix. Keep the same number of terms from each.",
        "The terms are U's columns, S's numbers and Vh's rows, the largest first.",
        "U[:, :rank] times S[:rank] column by column, then @ Vh[:rank].",
    ],
    misconceptions=[
        (
            lambda U, S, Vh, r: (U[:, : r + 1] * S[: r + 1]) @ Vh[: r + 1],
            "One term too many: [:rank] already holds rank of them.",
        ),
        (
            lambda U, S, Vh, r: (U[:, : r - 1] * S[: r - 1]) @ Vh[: r - 1],
            "One term too few: [:rank] holds rank of them, counted from 0.",
        ),
        (
            lambda U, S, Vh, r: (U[:, :r] * S[:r]) @ Vh[:, :r].T,
            "Vh is transposed already: its rows are the directions. Take Vh[:rank].",
        ),
        (
            lambda U, S, Vh, r: U[:, :r] @ Vh[:r],
            "The singular values S are missing: without them every direction counts the same.",
        ),
        (
            lambda U, S, Vh, r: (U[:, -r:] * S[-r:]) @ Vh[-r:],
            "That keeps the last terms. They are sorted, the largest first, and the largest matter.",
        ),
        (
            lambda U, S, Vh, r: U[:, :r] @ S[:r] @ Vh[:r],
            "S is a list of numbers, not a matrix: scale the columns of U by it, U[:, :rank] * S[:rank], or use torch.diag.",
        ),
        (
            lambda U, S, Vh, r: (U[:r].T * S[:r]) @ Vh[:r],
            "U's directions are its columns: U[:, :rank], where U[:rank] takes rows.",
        ),
        (
            lambda U, S, Vh, r: (U * S) @ Vh,
            "That is the whole matrix again: all terms are kept. Keep the first rank of them.",
        ),
        (
            lambda U, S, Vh, r: (U[:, :r] * S[:r] ** 2) @ Vh[:r],
            "The singular values count twice. Scale U or Vh by them, not both.",
        ),
        (
            lambda U, S, Vh, r: S[:r].sum() * U[:, :r] @ Vh[:r],
            "Each direction has a singular value of its own; their sum does not belong to all of them.",
        ),
        (
            lambda U, S, Vh, r: (U[:, r - 1 : r] * S[r - 1]) @ Vh[r - 1 : r],
            "That is the one term number rank. Keep all the terms up to it.",
        ),
        (
            lambda U, S, Vh, r: ((U[:, :r] * S[:r]) @ Vh[:r]).T,
            "That is the transpose: U belongs on the left, Vh on the right.",
        ),
    ],
    praise="The first terms of the SVD, and no matrix of that rank comes nearer.",
)


def largest_rank_that_saves(m, n):
    return (m * n - 1) // (m + n)


largest_rank_that_saves = Exercise(
    title="The largest rank that saves",
    reference=largest_rank_that_saves,
    cases=[(64, 10), (768, 768), (12, 30), (6, 3), (16, 10), (1000, 1), (2, 2), (4096, 4096)],
    hints=[
        "At the break-even rank A and B are together exactly as large as the matrix. Which whole rank comes before it?",
        "Rounding down is right unless the break-even rank is a whole number: there, A and B are not smaller but equal.",
        "rank · (m + n) must be at most m · n - 1, so it is (m * n - 1) // (m + n).",
    ],
    misconceptions=[
        (
            lambda m, n: m * n // (m + n),
            "Nearly: where the break-even rank is a whole number, as for 768 × 768, A and B are as large as the matrix and not smaller.",
        ),
        (
            lambda m, n: m * n / (m + n),
            "That is the break-even rank itself. A rank is a whole number, and it has to lie below.",
        ),
        (
            lambda m, n: round(m * n / (m + n)),
            "Rounding may go up, to a rank at which the adapter is larger than the matrix.",
        ),
        (
            lambda m, n: math.ceil(m * n / (m + n)),
            "That is the first rank that no longer saves. The last one that does comes before it.",
        ),
        (
            lambda m, n: min(m, n),
            "That is the largest rank that the matrix can have. The adapter is larger than the layer long before that.",
        ),
        (
            lambda m, n: min(m, n) // 2,
            "That is near the truth for a square matrix alone. For m × n, solve rank · (m + n) < m · n.",
        ),
        (
            lambda m, n: m * n / m + n,
            "Parentheses are missing: m * n / m + n is n + n. The sum m + n is what m * n is divided by.",
        ),
        (
            lambda m, n: 1 if m * n > m + n else None,
            "That is the first rank that saves. A return inside the loop ends it: go on to the last one that does.",
        ),
        (
            lambda m, n: m * n / (m + n) - 1,
            "A rank is a whole number: the largest one below the break-even rank, which is not always one less.",
        ),
        (
            lambda m, n: max(1, (m * n - 1) // (m + n)),
            "Where not even rank 1 is smaller than the matrix, as for 1000 × 1, no rank saves: return 0.",
        ),
        (lambda m, n: (m + n) // (m * n), "That is upside down: solve rank · (m + n) < m · n for the rank."),
    ],
    praise="Up to this rank the adapter is smaller than the layer.",
)


def compress(matrix, budget):
    m, n = matrix.shape
    rank = budget // (m + n)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank], Vh[:rank]


def _pair(compress, matrix, budget):
    """What an answer makes of a matrix, if it is two matrices that can be multiplied to one of its shape."""
    before, made = matrix.clone(), compress(matrix, budget)
    require(torch.equal(matrix, before), "It writes into matrix, which belongs to somebody else.")
    require(made is not None, "It returns nothing; is the return missing?")
    pair = isinstance(made, (tuple, list)) and len(made) == 2 and all(isinstance(half, torch.Tensor) for half in made)
    require(pair, "Return two matrices: left (m, r) and right (r, n).")
    left, right = made
    m, n = matrix.shape
    fits = left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0] and (len(left), right.shape[1]) == (m, n)
    require(
        fits,
        f"For a matrix {m} × {n} and a budget of {budget} it gives {tuple(left.shape)} and {tuple(right.shape)}. "
        f"Asked for are ({m}, r) and (r, {n}), with one r.",
    )
    numbers = left.numel() + right.numel()
    require(numbers <= budget, f"Both together have {numbers} numbers, and the budget is {budget}.")
    return left, right


def _keeps_to_the_budget(compress):
    for (m, n), budget in (((20, 30), 260), ((30, 12), 126), ((8, 8), 47), ((6, 4), 32)):
        left, right = _pair(compress, _falling(m, n), budget)
        numbers = left.numel() + right.numel()
        require(
            numbers > budget - (m + n),
            f"Rank {left.shape[1]} has {numbers} numbers, and with a budget of {budget} one rank more would fit.",
        )


def _comes_nearest(compress):
    for (m, n), budget in (((20, 30), 260), ((30, 12), 126), ((8, 8), 47), ((6, 4), 32)):
        matrix = _falling(m, n)
        left, right = _pair(compress, matrix, budget)
        made = left @ right
        off = ((made - matrix).norm() / matrix.norm()).item()
        left, right = _best(matrix, budget)
        least = ((left @ right - matrix).norm() / matrix.norm()).item()
        other_left, other_right = _best(matrix - matrix.mean(0), budget)
        centred = torch.allclose(made, other_left @ other_right, atol=1e-3)
        require(
            not centred, "That is the best of the matrix without the mean of each column. Nothing is to be centred."
        )
        require(
            off <= 1.001 * least + 1e-5,
            f"{100 * off:.0f} % of a matrix {m} × {n} is missing, and with these numbers {100 * least:.0f} % would do. "
            "Which terms of the SVD are the strongest, and do the singular values count once?",
        )


def _works_at_the_ends(compress):
    matrix = _falling(6, 4)
    left, right = _pair(compress, matrix, 9)
    require(
        left.shape[1] == 0, "With a budget of 9 not even rank 1 fits a matrix 6 × 4: r is 0, and the product is zero."
    )
    left, right = _pair(compress, matrix, 1000)
    off = (left @ right - matrix).abs().max().item()
    require(off < 1e-4, "With a budget of 1000 nothing of a matrix 6 × 4 need be missing.")
    require(left.shape[1] <= 4, f"A matrix 6 × 4 has 4 patterns, and this gives it {left.shape[1]}.")


_best = compress


def _of_rank(rank):
    """An answer that has chosen its rank in another way."""
    return lambda matrix, budget: _best(matrix, rank(*matrix.shape, budget) * sum(matrix.shape))


def _columns_of_v(matrix, budget):
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    rank = budget // sum(matrix.shape)
    return U[:, :rank] * S[:rank], V[:, :rank].T


def _centred(matrix, budget):
    return _best(matrix - matrix.mean(0), budget)


def _both_scaled(matrix, budget):
    left, right = _best(matrix, budget)
    return left, left.norm(dim=0)[:, None] * right


def _at_least_one(matrix, budget):
    return _best(matrix, max(budget, sum(matrix.shape)))


def _the_last(matrix, budget):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = budget // sum(matrix.shape)
    return U[:, -rank:] * S[-rank:], Vh[-rank:]


compress = Task(
    title="A matrix for a budget",
    reference=compress,
    stages={
        "two matrices, and as many numbers as the budget allows": _keeps_to_the_budget,
        "no two matrices of that size come nearer": _comes_nearest,
        "it works where the budget is too small, or larger than needed": _works_at_the_ends,
    },
    hints=[
        "What does one rank more cost, in numbers of left and right together? So how many ranks does the budget buy?",
        "Then it is keep, before it is multiplied out: which factor takes the singular values is up to you.",
        "rank = budget // (m + n), and U[:, :rank] * S[:rank], Vh[:rank]. A slice ends where the matrix ends.",
    ],
    misconceptions=[
        (
            _of_rank(lambda m, n, budget: budget // (m + n) + 1),
            "Both together have 300 numbers, and the budget is 260.",
        ),
        (
            _of_rank(lambda m, n, budget: budget // (m * n)),
            "Rank 0 has 0 numbers, and with a budget of 260 one rank more would fit.",
        ),
        (_of_rank(lambda m, n, budget: budget // 2 // (m + n)), "Rank 2 has 100 numbers"),
        (lambda matrix, budget: (lambda left, right: left @ right)(*_best(matrix, budget)), "Return two matrices"),
        (_columns_of_v, "For a matrix 20 × 30 and a budget of 260 it gives (20, 5) and (5, 20)."),
        (_centred, "That is the best of the matrix without the mean of each column."),
        (_both_scaled, "269 % of a matrix 20 × 30 is missing, and with these numbers 12 % would do."),
        (_the_last, "100 % of a matrix 20 × 30 is missing, and with these numbers 12 % would do."),
        (_at_least_one, "Both together have 10 numbers, and the budget is 9."),
    ],
    praise="That is what a LoRA is stored as, and how a trained change is cut down to one.",
)
