"""Comparing what an answer gives with what is right, and saying in one sentence how the two differ."""

import math
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
            short = len(repr(actual)) + len(repr(expected)) <= 160
            shown = f": {actual!r} instead of {expected!r}" if short else ""
            return f"it gives {_count(len(actual))}, but {len(expected)} are asked for{shown}"
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
    if a.isnan().any() and not e.isnan().any():
        return "NaN is in the result: from 0/0 or ∞ − ∞, a logarithm or root below zero, or memory never filled"
    if e.any() and torch.allclose(a, -e, rtol=1e-4, atol=1e-6):
        return "the sign is reversed, everything else is right"
    if isinstance(expected, int) and a.numel() == 1:
        if a.item() != round(a.item()):
            return f"a whole number is asked for, and it gives {a.item():.6g}"
        if isinstance(actual, float) and a == e:
            return f"the number is right, but {actual} is a fraction to Python; a whole number comes of // or int( )"
    relation = _relation(a, e)
    if a.numel() == 1:
        said = f"; {relation}" if relation and not isinstance(expected, int) else ""
        return f"it gives {a.item():.6g}, but {e.item():.6g} is right{said}"
    if relation:
        return relation
    off = ~torch.isclose(a, e, rtol=1e-4, atol=1e-6)
    place = tuple(off.nonzero()[0].tolist())
    first = f"the first at {list(place)}: {a[place]:.4g} instead of {e[place]:.4g}"
    return f"{int(off.sum())} of {e.numel()} numbers are off, {first}"


def _relation(a, e):
    """What makes all of one tensor of all of the other, in words, where something simple does; else empty."""

    def alike(one, other):
        return torch.allclose(one, other, rtol=1e-4, atol=1e-6)

    if not e.any():
        return ""
    ratio = ((a * e).sum() / (e * e).sum()).item()
    if ratio > 0 and torch.allclose(a, ratio * e, rtol=1e-3, atol=1e-6):
        times = max(ratio, 1 / ratio)
        simple = a.numel() > 1 or (times > 1.5 and abs(times - round(times)) < 1e-3 * times)
        if abs(times - 1 / math.log(2)) < 1e-3:
            return "that is in bits: log2 where log is meant"
        if simple:
            return f"everything is {times:.4g} times too {'large' if ratio > 1 else 'small'}"
    known = {
        "its root": e.abs().sqrt(),
        "its square": e.square(),
        "one minus it": 1 - e,
        "one divided by it": 1 / e,
    }
    for name, value in known.items():
        if alike(a, value) and not alike(e, value):
            return f"that is {name}"
    return ""


def _count(number):
    return f"{number} thing" + "s" * (number != 1)


def same(actual, expected):
    """Whether a result is the expected one: in shape, type, gradient and, but for rounding, in its numbers."""
    if isinstance(actual, Fault) or isinstance(expected, Fault):
        return False
    if isinstance(expected, dict):
        return isinstance(actual, dict) and same(list(actual.values()), list(expected.values()))
    if isinstance(expected, (tuple, list)):
        alike = isinstance(actual, (tuple, list)) and len(actual) == len(expected)
        return alike and all(same(a, e) for a, e in zip(actual, expected, strict=True))
    if isinstance(expected, int) and isinstance(actual, float):
        return False
    a, e = tensor(actual), tensor(expected)
    if a is None or e is None:
        return type(actual) is type(expected) and actual == expected
    if (
        isinstance(actual, torch.Tensor)
        and isinstance(expected, torch.Tensor)
        and (actual.requires_grad != expected.requires_grad or actual.dtype != expected.dtype)
    ):
        return False
    return a.shape == e.shape and torch.allclose(a, e, rtol=1e-4, atol=1e-6, equal_nan=True)


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
        kind = "" if value.dtype == torch.float32 else f" and type {str(value.dtype).removeprefix('torch.')}"
        return f"a tensor of shape {tuple(value.shape)}{kind}"
    if isinstance(value, torch.nn.Module):
        return f"a module of type {type(value).__name__}"
    if type(value) in (tuple, list) and 0 < len(value) <= 4:
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(describe, value))}"
    return "a function" if callable(value) else _short(value)


def kind(value):
    """What a value is, without saying which."""
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(kind, value))}"
    if isinstance(value, (torch.Tensor, torch.nn.Module)):
        return describe(value)
    return "a number" if isinstance(value, Real) else f"a value of type {type(value).__name__}"


def labelled(name, value):
    """An argument as the learner reads it: ``rank=4``, ``x (5 × 6)``, ``y=[[1, 2], [3, 4]]``."""
    if isinstance(value, torch.Tensor) and value.numel() > 6:
        return f"{name} ({' × '.join(map(str, value.shape))})"
    if isinstance(value, torch.nn.Module):
        return f"{name}={value!r}" if not list(value.children()) else f"a {name}"
    return f"{name}={_short(value)}"


def _short(value):
    try:
        if isinstance(value, torch.Tensor):
            text = _numbers(value.tolist()) if value.numel() <= 6 else ""
            return text or f"a {' × '.join(map(str, value.shape))} tensor"
        text = repr(value)
    except Exception:  # an object that can't even be printed
        text = ""
    return text if 0 < len(text) <= 80 else f"an object of type {type(value).__name__}"


def _numbers(values):
    """Nested lists of numbers, with four digits each."""
    return f"[{', '.join(map(_numbers, values))}]" if isinstance(values, list) else f"{values:.4g}"
