"""Comparing what an answer gives with what is right, and saying in one sentence how the two differ."""

from dataclasses import dataclass, field
from numbers import Real

import torch


@dataclass
class Fault:
    """Stands for the result of an answer that gave none, and is never right. ``where`` is the answer's own line."""

    message: str
    where: str = field(default="", compare=False)


def difference(actual, expected):
    """One sentence on how a result differs from the expected one: kind, shape, dtype, gradient, sign, scale, value."""
    if isinstance(actual, Fault):
        return actual.message + actual.where
    if actual is None:
        return "it returns nothing; is the return missing?"
    if isinstance(expected, dict):  # what an exercise has observed, by name
        name = next(name for name in expected if not same(actual[name], expected[name]))
        return f"{name} is {actual[name]}, but {expected[name]} is right"
    if isinstance(expected, (tuple, list)):
        if not isinstance(actual, (tuple, list)):
            return f"it gives {describe(actual)}, but {len(expected)} things are asked for"
        if len(actual) != len(expected):
            return f"it gives {len(actual)} things, but {len(expected)} are asked for"
        i = next(i for i, (a, e) in enumerate(zip(actual, expected, strict=True)) if not same(a, e))
        return f"of the {len(expected)} results, number {i + 1} is off: {difference(actual[i], expected[i])}"
    a, e = tensor(actual), tensor(expected)
    if a is None or e is None:
        return f"it gives {describe(actual)}, but {describe(expected)} is right"
    if a.shape != e.shape:
        if e.dim() == 0:
            return f"one number is asked for, and it gives {describe(actual)}"
        turned = " Is it transposed?" if e.dim() == 2 and a.shape == e.T.shape else ""
        return f"the result has shape {tuple(a.shape)}, but {tuple(e.shape)} is right.{turned}"
    if isinstance(actual, torch.Tensor) and isinstance(expected, torch.Tensor):
        if actual.dtype != expected.dtype:
            return f"the result is of type {actual.dtype}, but {expected.dtype} is right"
        if torch.allclose(a, e) and actual.requires_grad != expected.requires_grad:
            missing = "carries no gradient, so nothing could learn from it" if expected.requires_grad else ""
            return f"the numbers are right, but the result {missing or 'still requires a gradient'}"
    if e.any() and torch.allclose(a, -e, rtol=1e-4, atol=1e-6):
        return "the sign is reversed, everything else is right"
    if a.numel() == 1:
        if isinstance(expected, int) and a.item() != round(a.item()):
            return f"a whole number is asked for, and it gives {a.item():.6g}"
        return f"it gives {a.item():.6g}, but {e.item():.6g} is right"
    ratio = ((a * e).sum() / (e * e).sum()).item()
    if ratio > 0 and torch.allclose(a, ratio * e, rtol=1e-3, atol=1e-6):
        return f"everything is {max(ratio, 1 / ratio):.4g} times too {'large' if ratio > 1 else 'small'}"
    off = ~torch.isclose(a, e, rtol=1e-4, atol=1e-6)
    place = tuple(off.nonzero()[0].tolist())
    first = f"the first at {list(place)}: {a[place]:.4g} instead of {e[place]:.4g}"
    return f"{int(off.sum())} of {e.numel()} numbers are off, {first}"


def same(actual, expected):
    """Whether a result is the expected one: in shape, type, gradient and, but for rounding, in its numbers."""
    if isinstance(actual, Fault) or isinstance(expected, Fault):
        return False
    if isinstance(expected, dict):
        return isinstance(actual, dict) and same(list(actual.values()), list(expected.values()))
    if isinstance(expected, (tuple, list)):
        alike = isinstance(actual, (tuple, list)) and len(actual) == len(expected)
        return alike and all(same(a, e) for a, e in zip(actual, expected, strict=True))
    a, e = tensor(actual), tensor(expected)
    if a is None or e is None:
        return type(actual) is type(expected) and actual == expected
    if (
        isinstance(actual, torch.Tensor)
        and isinstance(expected, torch.Tensor)
        and (actual.requires_grad != expected.requires_grad or actual.dtype != expected.dtype)
    ):
        return False
    return a.shape == e.shape and torch.allclose(a, e, rtol=1e-4, atol=1e-6)


def fails_alike(actual, wrong):
    """Whether a known wrong answer fails with the same words."""
    return isinstance(actual, Fault) and actual == wrong


def tensor(value):
    """Numbers and tensors as one kind, to be compared; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach().double()
    if isinstance(value, Real) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def describe(value):
    """What a value is, in a few words: a tensor of some shape, a function, a number."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, torch.nn.Module):
        return f"a module of type {type(value).__name__}"
    if type(value) in (tuple, list) and 0 < len(value) <= 4:
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(describe, value))}"
    return "a function" if callable(value) else _short(value)


def kind(value):
    """What a value is, without saying which."""
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        describe(value)
        if isinstance(value, (torch.Tensor, torch.nn.Module))
        else f"a value of type {type(value).__name__}"
    )


def labelled(name, value):
    """An argument as the learner reads it: ``rank=4``, ``x (5 × 6)``."""
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        return f"{name} ({' × '.join(map(str, value.shape))})"
    if isinstance(value, torch.nn.Module):
        return f"a {name}"
    return f"{name}={_short(value)}"


def _short(value):
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        return f"a {' × '.join(map(str, value.shape))} tensor"
    try:
        text = repr(value.item() if isinstance(value, torch.Tensor) else value)
    except Exception:  # an object that can't even be printed
        text = ""
    return text if 0 < len(text) <= 40 else f"an object of type {type(value).__name__}"
