"""What people ask for, checked once and in the same words: what it is, what was given, and what would do.

Numbers first, then the settings of a LoRA and the layers that it can go into.
"""

import math
import operator
from numbers import Real

import torch
from torch import nn


def whole_number(name, value, low=1, high=math.inf, hint=""):
    """The value as an int from ``low`` to ``high``, numpy's included; else ValueError. True is no number."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        span = f"from {low} up" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r} is not a whole number {span}{hint and '; ' + hint}")
    return number


def positive_number(name, value, hint=""):
    """The value as a float above zero and finite, numpy's numbers included; else ValueError."""
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"{name}={value!r} is not a positive number{hint and '; ' + hint}")
    return float(value)


def finite_number(name, value, hint=""):
    """The value as a float, neither infinite nor NaN, numpy's numbers included; else ValueError."""
    if not _is_finite(value):
        raise ValueError(f"{name}={value!r} is not a finite number{hint and '; ' + hint}")
    return float(value)


def _is_finite(value):
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# The three conventions in the wild for the scale s, each by its name.
SCALINGS = {
    "alpha/r": lambda alpha, rank: alpha / rank,
    "alpha": lambda alpha, rank: alpha,
    "alpha/sqrt(r)": lambda alpha, rank: alpha / math.sqrt(rank),
}


def check_settings(in_features, out_features, rank=4, alpha=None, scaling="alpha/r", dropout=0.0, dtype=None):
    """Rank as an int, alpha and dropout as floats if all settings fit an in_features → out_features layer."""
    limit = min(in_features, out_features)
    hint = (
        f"the layer is {in_features}→{out_features}, and beyond the smaller of its two sides a product A B has no more "
        "rank to give"
    )
    rank = whole_number("rank", rank, 1, limit, hint)
    alpha = float(rank) if alpha is None else positive_number("alpha", alpha, "leave it out for alpha = rank")
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r} is unknown; choose one of {', '.join(map(repr, SCALINGS))}")
    if finite_number("dropout", dropout, "try 0.1") < 0 or dropout >= 1:
        raise ValueError(f"dropout={dropout!r} is not a share from 0 up to, but not including, 1; try 0.1")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype!r} is no floating-point type of torch; try torch.float32")
    return rank, alpha, float(dropout)


def weight_of(layer):
    """A linear layer's weight, seen as (out_features, in_features); TypeError for a layer that can't be adapted.

    GPT-2's Conv1D, a linear layer in spite of its name, stores its weight as (in_features, out_features). A layer that
    keeps its weight in another form says what it amounts to with ``dense_weight()``.
    """
    kind = type(layer).__name__
    if hasattr(layer, "adapted_weight"):
        raise TypeError("this layer already has LoRA; take it out with remove_lora(model) before adding another")
    if isinstance(layer, nn.LazyLinear):
        raise TypeError(f"{kind} does not know its size yet; send one batch through the model first")
    if hasattr(layer, "dense_weight"):
        return layer.dense_weight()
    if kind == "Conv1D" and hasattr(layer, "nf"):
        return layer.weight.T
    # A subclass with a forward pass of its own (a quantised layer, say) may not compute x Wᵀ + b at all.
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return layer.weight
    raise TypeError(f"a layer of type {kind} can't be adapted; LoRA goes into nn.Linear and transformers' Conv1D")


def refuse_merging(layer):
    """ValueError for a layer that keeps its weight in another form: a sum with an update would not have that form."""
    if hasattr(layer, "dense_weight"):
        raise ValueError(
            f"a {type(layer).__name__} keeps its weight in fewer bits, which W + ΔW would not fit into. Leave LoRA "
            "beside it, or make plain layers first with dequantize_linear_layers(model), which take the full memory"
        )
