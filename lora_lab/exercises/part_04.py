"""The exercises of notebook 04."""

import math

import torch

from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

how_far_apart = Guess("times the smallest s")
bend = Guess("the rank at which the loss bends", axis="x")
gradient_at_256 = Guess("the gradient of B at rank 256")


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


def resize(A, B, alpha, new_rank):
    rank = A.shape[1]
    if new_rank > rank:
        fresh = torch.empty(len(A), new_rank - rank).uniform_(-1, 1) / math.sqrt(len(A))
        A = torch.cat([A, fresh], dim=1)
        B = torch.cat([B, torch.zeros(new_rank - rank, B.shape[1])])
    else:
        U, S, Vh = torch.linalg.svd(A @ B, full_matrices=False)
        A, B = U[:, :new_rank] * S[:new_rank], Vh[:new_rank]
    return A, B, alpha * new_rank / rank


def _trained(m, n, rank):
    return torch.randn(m, rank) * 0.5 ** torch.arange(rank), torch.randn(rank, n)


def _resized(resize, A, B, alpha, new_rank):
    """What an answer gives, if it is an A and a B of the new rank, and a number."""
    before = A.clone(), B.clone()
    made = resize(A, B, alpha, new_rank)
    kept = torch.equal(A, before[0]) and torch.equal(B, before[1])
    require(kept, "It writes into A or B, which belong to somebody else.")
    require(made is not None, f"From rank {A.shape[1]} to {new_rank} it returns nothing; is a return missing there?")
    require(isinstance(made, (tuple, list)) and len(made) == 3, "Return three things: A, B and alpha.")
    new_A, new_B, new_alpha = made
    shapes = [(len(A), new_rank), (new_rank, B.shape[1])]
    found = [tuple(half.shape) if isinstance(half, torch.Tensor) else type(half).__name__ for half in (new_A, new_B)]
    require(
        found == shapes,
        f"From rank {A.shape[1]} to {new_rank}, A and B are to be {shapes[0]} and {shapes[1]}. It gives {found[0]} and {found[1]}.",
    )
    return new_A, new_B, float(new_alpha)


def _keeps_the_scale(resize):
    for rank, new_rank, alpha in ((2, 5, 4.0), (4, 2, 8.0), (3, 3, 1.0)):
        *_, new_alpha = _resized(resize, *_trained(8, 6, rank), alpha, new_rank)
        require(
            abs(new_alpha / new_rank - alpha / rank) < 1e-6,
            f"From rank {rank} to {new_rank} the scale was {alpha / rank:g} and is {new_alpha / new_rank:g} now: "
            f"alpha {alpha:g} has become {new_alpha:g}. Which alpha keeps it?",
        )


def _grows(resize):
    for rank, new_rank in ((2, 5), (3, 4), (3, 3)):
        A, B = _trained(8, 6, rank)
        new_A, new_B, _ = _resized(resize, A, B, 4.0, new_rank)
        off = ((new_A @ new_B - A @ B).norm() / (A @ B).norm()).item()
        require(
            off < 1e-4,
            f"From rank {rank} to {new_rank} A B has changed by {100 * off:.0f} %. It is to stay what it was.",
        )


def _can_learn_more(resize):
    for rank, new_rank in ((2, 5), (3, 4)):
        new_A, new_B, _ = _resized(resize, *_trained(8, 6, rank), 4.0, new_rank)
        dead = [k for k in range(new_rank) if new_A[:, k].abs().max() < 1e-4 and new_B[k].abs().max() < 1e-4]
        require(
            not dead,
            f"From rank {rank} to {new_rank} {len(dead)} of the new directions have zero in A and in B, so neither "
            "half gets a gradient and they never learn. Where do A and B start?",
        )
        waiting = [k for k in range(new_rank) if new_B[k].abs().max() < 1e-6]
        sizes = [new_A[:, k].square().mean().sqrt().item() * math.sqrt(3 * len(new_A)) for k in waiting]
        require(
            max(sizes, default=1) < 3,
            f"The new columns of A are up to {max(sizes, default=1):.2g} times as large as those that are spread over ±1/√in_features: B's first steps would be too large.",
        )
        directions = (
            torch.linalg.matrix_rank(new_A, rtol=1e-3).item() + torch.linalg.matrix_rank(new_B, rtol=1e-3).item()
        )
        require(directions > new_rank, "The new columns of A are copies of one another: they would all learn the same.")


def _shrinks(resize):
    for rank, new_rank in ((4, 2), (6, 1)):
        A, B = _trained(8, 6, rank)
        new_A, new_B, _ = _resized(resize, A, B, 8.0, new_rank)
        U, S, Vh = torch.linalg.svd(A @ B, full_matrices=False)
        best = U[:, :new_rank] * S[:new_rank] @ Vh[:new_rank]
        times = ((new_A @ new_B * best).sum() / best.square().sum()).item()
        scaled = torch.allclose(new_A @ new_B, times * best, atol=1e-3) and abs(times - 1) > 0.01
        require(
            not scaled,
            f"From rank {rank} to {new_rank} A B is {times:.3g} times what it should be: alpha carries the scale already, and A B has none of it.",
        )
        least = (S[new_rank:].norm() / S.norm()).item()
        off = ((new_A @ new_B - A @ B).norm() / S.norm()).item()
        require(
            off < least + 1e-3,
            f"From rank {rank} to {new_rank} {100 * off:.0f} % of A B is missing, and the best of that rank lacks {100 * least:.0f} %. "
            "The first columns of A are not the strongest directions of A B: what is?",
        )


_right = resize


def _same_alpha(A, B, alpha, new_rank):
    return (*_right(A, B, alpha, new_rank)[:2], alpha)


def _alpha_upside_down(A, B, alpha, new_rank):
    return (*_right(A, B, alpha, new_rank)[:2], alpha * A.shape[1] / new_rank)


def _scaled_too(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    return new_A * A.shape[1] / new_rank, new_B, new_alpha


def _random_both(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    fresh = max(new_rank - A.shape[1], 0)
    return new_A, torch.cat([new_B[: new_rank - fresh], torch.randn(fresh, B.shape[1])]), new_alpha


def _zeros_both(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    return torch.cat([new_A[:, : A.shape[1]], 0 * new_A[:, A.shape[1] :]], dim=1), new_B, new_alpha


def _one_new_column(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    fresh = max(new_rank - A.shape[1], 0)
    ones = torch.full((len(A), fresh), 0.2)
    return torch.cat([new_A[:, : new_rank - fresh], ones], dim=1), new_B, new_alpha


def _too_large(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    fresh = max(new_rank - A.shape[1], 0)
    return torch.cat([new_A[:, : new_rank - fresh], 3 * torch.randn(len(A), fresh)], dim=1), new_B, new_alpha


def _first_columns(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    return (A[:, :new_rank], B[:new_rank], new_alpha) if new_rank < A.shape[1] else (new_A, new_B, new_alpha)


def _scale_inside(A, B, alpha, new_rank):
    new_A, new_B, new_alpha = _right(A, B, alpha, new_rank)
    return (new_A * alpha / A.shape[1], new_B, new_alpha) if new_rank < A.shape[1] else (new_A, new_B, new_alpha)


def _nothing_at_the_same_rank(A, B, alpha, new_rank):
    return None if new_rank == A.shape[1] else _right(A, B, alpha, new_rank)


def _starts_anew(A, B, alpha, new_rank):
    return torch.randn(len(A), new_rank), torch.zeros(new_rank, B.shape[1]), alpha * new_rank / A.shape[1]


resize = Task(
    title="Another rank for a trained LoRA",
    reference=resize,
    stages={
        "the scale stays": _keeps_the_scale,
        "larger: A B stays what it was": _grows,
        "larger: what is new can learn": _can_learn_more,
        "smaller: the best of that rank": _shrinks,
    },
    hints=[
        "Alpha first: that is the exercise before. Then the larger rank: which new columns of A and rows of B change nothing in A B?",
        "Notebook 02 started A at random and B at zero, and the same is right for what is new. For a smaller rank, notebook 01 knows the best approximation of A @ B.",
        "Larger: torch.cat([A, fresh], dim=1) and torch.cat([B, zeros]). Smaller: U, S, Vh of A @ B, and U[:, :r] * S[:r] with Vh[:r].",
    ],
    misconceptions=[
        (_same_alpha, "From rank 2 to 5 the scale was 2 and is 0.8 now: alpha 4 has become 4."),
        (_alpha_upside_down, "From rank 2 to 5 the scale was 2 and is 0.32 now"),
        (_scaled_too, "From rank 2 to 5 A B has changed by 60 %."),
        (_random_both, "From rank 2 to 5 A B has changed by"),
        (_zeros_both, "From rank 2 to 5 3 of the new directions have zero in A and in B"),
        (_one_new_column, "The new columns of A are copies of one another"),
        (_too_large, "The new columns of A are up to"),
        (_first_columns, "From rank 4 to 2"),
        (_scale_inside, "From rank 4 to 2 A B is 2 times what it should be"),
        (_nothing_at_the_same_rank, "From rank 3 to 3 it returns nothing; is a return missing there?"),
        (_starts_anew, "From rank 2 to 5 A B has changed by 100 %."),
        (lambda A, B, alpha, new_rank: _right(A, B, alpha, new_rank)[:2], "Return three things: A, B and alpha."),
        (lambda A, B, alpha, new_rank: (A, B, alpha), "From rank 2 to 5, A and B are to be (8, 5) and (5, 6)."),
    ],
    praise="A trained LoRA can be given more room, or cut to size, without starting anew.",
)
