"""The exercises of notebook 04."""

import math

from .engine import Exercise


def scale(alpha, rank, convention):
    if convention == "alpha":
        return alpha
    if convention == "alpha/sqrt(r)":
        return alpha / rank**0.5
    return alpha / rank


scale = Exercise(
    title="Three conventions",
    reference=scale,
    cases=[
        (16.0, 4, "alpha/r"),
        (16.0, 4, "alpha"),
        (16.0, 4, "alpha/sqrt(r)"),
        (3.0, 9, "alpha/sqrt(r)"),
        (6.0, 4, "alpha/r"),
    ],
    hints=[
        "The three names say the formula.",
        "Compare convention with each name and return what that name says.",
        'alpha / rank for "alpha/r", alpha for "alpha", alpha / rank**0.5 for "alpha/sqrt(r)".',
    ],
    misconceptions=[
        (lambda a, r, c: a / r, "That is alpha/r whatever the convention. Look at the third argument."),
        (
            lambda a, r, c: a,
            "That is alpha whatever the convention. Look at the third argument, with == : all three names hold the word alpha.",
        ),
        (
            lambda a, r, c: a / math.sqrt(r),
            "That is alpha/sqrt(r) whatever the convention. Look at the third argument.",
        ),
        (
            lambda a, r, c: {"alpha/r": r / a, "alpha": a}.get(c, math.sqrt(r) / a),
            "Upside down: alpha is divided by the rank, not the rank by alpha.",
        ),
        (
            lambda a, r, c: {"alpha/r": a / r, "alpha": a}.get(c, math.sqrt(a / r)),
            "The root belongs to the rank alone, not to alpha.",
        ),
        (
            lambda a, r, c: {"alpha/r": a / r, "alpha": a}.get(c, math.sqrt(a) / r),
            "The root is of the rank, not of alpha.",
        ),
        (
            lambda a, r, c: {"alpha/r": a / r, "alpha": a}.get(c, a / r / 2),
            "rank ** 1 / 2 is half of rank ** 1. The root is rank ** 0.5.",
        ),
        (
            lambda a, r, c: {"alpha/r": a // r, "alpha": a}.get(c, a / math.sqrt(r)),
            "// drops the remainder. A scale may be any number: use /.",
        ),
    ],
    praise="One name, alpha, and three meanings: read which one a library uses.",
)


def alpha_for(new_rank, alpha, rank):
    return alpha * new_rank / rank


alpha_for = Exercise(
    title="Keep the scale",
    reference=alpha_for,
    cases=[(16, 8.0, 4), (2, 8.0, 8), (6, 1.0, 4), (3, 5.0, 4)],
    hints=[
        "Write the scale before and after, under alpha/r, and set them equal.",
        "alpha / rank = new_alpha / new_rank. Solve for new_alpha.",
        "alpha * new_rank / rank",
    ],
    misconceptions=[
        (lambda n, a, r: a * n // r, "Nearly: // drops the remainder. Use /."),
        (lambda n, a, r: n * r / a, "Mind the order of the arguments: new_rank first, then alpha, then rank."),
        (
            lambda n, a, r: a,
            "With the same alpha the scale changes as the rank does: alpha/new_rank is not alpha/rank.",
        ),
        (lambda n, a, r: a * r / n, "Upside down: a larger rank divides alpha by more, so alpha has to grow with it."),
        (
            lambda n, a, r: 2 * n,
            "Twice the rank is a habit, not a law: it keeps the scale only where the scale was 2 before.",
        ),
        (lambda n, a, r: n, "alpha = rank makes the scale 1. It keeps the scale only where it was 1 before."),
        (lambda n, a, r: a * math.sqrt(n / r), "That keeps alpha/sqrt(r) the same. The question is about alpha/r."),
        (
            lambda n, a, r: a / n,
            "That is the new scale if alpha stays as it is. Which alpha makes alpha / new_rank the old alpha / rank?",
        ),
        (
            lambda n, a, r: a + n - r,
            "Alpha and rank are divided, so it is their ratio that has to stay, not their difference.",
        ),
        (lambda n, a, r: n / r, "That is the factor by which alpha has to grow. Multiply alpha by it."),
        (lambda n, a, r: a / r, "That is the scale itself. Which alpha gives the same scale at the new rank?"),
    ],
    praise="Under alpha/r, alpha has to grow in step with the rank.",
)
