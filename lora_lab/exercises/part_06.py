"""The exercises of notebook 06."""

import torch

from .engine import Exercise


def merged(W, A, B, scale):
    return W + scale * (A @ B).T


def _layer(m, n, rank, scale):
    random = torch.Generator().manual_seed(m)
    W, A, B = (torch.randn(*shape, generator=random) for shape in ((n, m), (m, rank), (rank, n)))
    return W, A, B, scale


merged = Exercise(
    title="Merge by hand",
    reference=merged,
    cases=[_layer(6, 4, 2, 2.0), _layer(5, 5, 3, 0.5)],
    hints=[
        "Merging adds the update to the weight. Do the two have the same shape?",
        "A @ B is (in, out), and torch keeps W as (out, in).",
        "W + scale * (A @ B).T",
    ],
    misconceptions=[
        (
            lambda W, A, B, s: W + s * (A @ B),
            "A @ B is (in, out) and W is (out, in): transpose it, once. Where the layer is square nothing complains, and the result is wrong.",
        ),
        (
            lambda W, A, B, s: W + s * (A @ B).reshape(W.shape),
            "reshape pours the numbers row by row into the new shape and mixes inputs with outputs. To turn a matrix, use .T.",
        ),
        (lambda W, A, B, s: W + (A @ B).T, "The scale is missing: the update is s · A B."),
        (lambda W, A, B, s: s * (A @ B).T, "That is the update alone. Add it to W."),
        (lambda W, A, B, s: W - s * (A @ B).T, "Subtracting takes an update out again. Merging adds it."),
        (lambda W, A, B, s: s * (W + (A @ B).T), "The scale belongs to the update alone; W stays as it is."),
        (
            lambda W, A, B, s: W.T + s * (A @ B),
            "The numbers are right and lie in (in, out). torch wants the merged weight as (out, in), like W.",
        ),
        (
            lambda W, A, B, s: W + s / A.shape[1] * (A @ B).T,
            "The scale is alpha/rank already. Don't divide by the rank again.",
        ),
        (
            lambda W, A, B, s: W @ (s * (A @ B).T),
            "The update is added to the weight, not multiplied with it.",
        ),
    ],
    praise="Added once, it costs nothing ever after. (B.T @ A.T is the same thing.)",
)


def add_adapters(A1, B1, A2, B2):
    return torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0)


def _two(m, n, first, second):
    random = torch.Generator().manual_seed(n)
    shapes = ((m, first), (first, n), (m, second), (second, n))
    return tuple(torch.randn(*shape, generator=random) for shape in shapes)


def _observe_sum(answer, A1, B1, A2, B2):
    A, B = answer(A1, B1, A2, B2)
    product = A @ B
    return {"the shape of A @ B": str(tuple(product.shape)), "A @ B": _judge(product, A1, B1, A2, B2)}


def _judge(product, A1, B1, A2, B2):
    """What a product is, in words: the sum of the two updates, or one of its usual substitutes."""
    first, second = A1 @ B1, A2 @ B2
    known = {
        "A1 @ B1 + A2 @ B2": first + second,
        "half of A1 @ B1 + A2 @ B2": (first + second) / 2,
        "A1 @ B1 alone": first,
        "A2 @ B2 alone": second,
        "A1 @ B1 - A2 @ B2": first - second,
    }
    if A1.shape == A2.shape:
        known["(A1 + A2) @ (B1 + B2)"] = (A1 + A2) @ (B1 + B2)
        known["(A1 + A2) @ (B1 + B2), a quarter of it"] = (A1 + A2) @ (B1 + B2) / 4
        known["A1 @ B2 + A2 @ B1"] = A1 @ B2 + A2 @ B1
    for name, value in known.items():
        if product.shape == value.shape and torch.allclose(product, value, atol=1e-4):
            return name
    return "something else"


add_adapters = Exercise(
    title="Add two adapters",
    reference=add_adapters,
    cases=[_two(6, 5, 2, 2), _two(7, 4, 2, 3)],
    observe=_observe_sum,
    hints=[
        "The sum of a rank-2 and a rank-3 update has rank 5. How wide must the new A be?",
        "Put A1 and A2 beside each other. Which columns of A meet which rows of B in A @ B?",
        "torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0)",
    ],
    misconceptions=[
        (
            lambda A1, B1, A2, B2: (A1 + A2, B1 + B2),
            "(A1 + A2) @ (B1 + B2) holds A1 @ B2 and A2 @ B1 as well, which mean nothing. And it fails where the ranks differ.",
        ),
        (
            lambda A1, B1, A2, B2: ((A1 + A2) / 2, (B1 + B2) / 2),
            "Averaging A and B is not averaging the updates: the product mixes A1 with B2 and A2 with B1. And it fails where the ranks differ.",
        ),
        (lambda A1, B1, A2, B2: (A1, B1), "That is the first adapter alone."),
        (lambda A1, B1, A2, B2: (A2, B2), "That is the second adapter alone."),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=1), torch.cat([B2, B1], dim=0)),
            "The order differs: with A1 beside A2, the rows of B1 must stand above those of B2.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0) / 2),
            "That is the average of the two updates: half of each. Asked for is their sum.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2]), torch.cat([B1, B2])),
            "Without dim, torch.cat puts rows below rows. That is right for B; A grows by columns, dim=1.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.stack([A1, A2]), torch.stack([B1, B2])),
            "stack makes a new axis, so A @ B is two updates and nothing adds them. cat joins along an axis that is there.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=0), torch.cat([B1, B2], dim=1)),
            "The wrong sides: A grows by columns, dim=1, and B by rows, dim=0. In A @ B columns of A meet rows of B.",
        ),
    ],
    praise="Ranks add up, and the sum is exact.",
)
