"""The exercises of notebook 01."""

import math

import torch

from .engine import Exercise


def keep(U, S, Vh, rank):
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def _decomposed(m, n, rank):
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(m))
    return (*torch.linalg.svd(matrix, full_matrices=False), rank)


keep = Exercise(
    title="The best approximation of rank r",
    reference=keep,
    cases=[_decomposed(6, 6, 2), _decomposed(8, 5, 3), _decomposed(4, 7, 1)],
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
    cases=[(64, 10), (768, 768), (12, 30), (6, 3), (16, 10), (1000, 1)],
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
        (lambda m, n: (m + n) // (m * n), "That is upside down: solve rank · (m + n) < m · n for the rank."),
    ],
    praise="Up to this rank the adapter is smaller than the layer.",
)
