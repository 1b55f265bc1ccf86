"""The exercises of notebook 01."""

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
            lambda U, S, Vh, r: U[:, :r] @ Vh[:r],
            "The singular values S are missing: without them every direction counts the same.",
        ),
        (
            lambda U, S, Vh, r: (U[:, -r:] * S[-r:]) @ Vh[-r:],
            "That keeps the last terms. They are sorted, the largest first, and the largest matter.",
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
    praise="Correct: the first terms of the SVD, and no matrix of that rank comes nearer.",
)


def break_even(m, n):
    return m * n / (m + n)


break_even = Exercise(
    title="The break-even rank",
    reference=break_even,
    cases=[(64, 10), (768, 768), (1000, 1), (12, 30)],
    hints=[
        "At which rank are A and B together as large as the matrix?",
        "Solve rank · (m + n) = m · n for the rank.",
        "m · n / (m + n), which need not be a whole number.",
    ],
    misconceptions=[
        (
            lambda m, n: min(m, n),
            "That is the largest rank that the matrix can have. The adapter is larger than the layer long before that.",
        ),
        (
            lambda m, n: min(m, n) / 2,
            "That is right for a square matrix alone. For m × n, solve rank · (m + n) = m · n.",
        ),
        (
            lambda m, n: (m + n) / 2,
            "That is the mean of the sides. Set rank · (m + n) equal to m · n and solve for the rank.",
        ),
        (lambda m, n: (m + n) / (m * n), "That is upside down: solve rank · (m + n) = m · n for the rank."),
        (lambda m, n: m * n // (m + n), "Leave the remainder in: the break-even rank need not be a whole number."),
        (
            lambda m, n: m * n,
            "That is how many numbers the matrix has. By how many does the adapter grow with each rank?",
        ),
    ],
    praise="Correct. Below this rank the adapter is smaller than the layer, above it larger.",
)
