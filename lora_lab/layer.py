"""The idea itself: a frozen linear layer, and beside it a small trainable update of low rank.

A linear layer computes ``y = x Wᵀ + b``. LoRA leaves W alone and learns ``ΔW = s · A B`` instead, where A is
(in_features, rank) and B is (rank, out_features): rank · (in + out) numbers in place of in · out.
"""

import math
import operator
from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

# The three conventions in the wild for the scale s, each by its name.
SCALINGS = {
    "alpha/r": lambda alpha, rank: alpha / rank,
    "alpha": lambda alpha, rank: alpha,
    "alpha/sqrt(r)": lambda alpha, rank: alpha / math.sqrt(rank),
}


class LoRALayer(nn.Module):
    """The update alone: ``x ↦ s · x A B``, from (…, in_features) to (…, out_features).

    A is uniform in ±1/√in_features and B is zero, so a new layer adds exactly nothing. ``alpha=None`` means
    ``alpha = rank``, which makes the scale s equal to 1 under the usual convention "alpha/r".
    """

    def __init__(self, in_features, out_features, rank=4, alpha=None, scaling="alpha/r", *, device=None, dtype=None):
        rank, alpha = check_settings(in_features, out_features, rank, alpha, scaling)
        super().__init__()
        self.rank, self.alpha, self.scaling = rank, alpha, scaling
        self.strength = 1.0  # a dial for a trained update: 0 is the pretrained model, 1 the adapted one
        self.A = nn.Parameter(torch.empty(in_features, rank, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(rank, out_features, device=device, dtype=dtype))
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.A, -bound, bound)

    @property
    def scale(self):
        """The number s that multiplies A B: what the convention makes of alpha and rank, times the strength."""
        return self.strength * SCALINGS[self.scaling](self.alpha, self.rank)

    def delta(self):
        """The whole update ΔW = s · A B, of shape (in_features, out_features). Training never needs it."""
        return self.scale * (self.A @ self.B)

    def forward(self, x):
        """(…, in_features) → (…, out_features). Left to right, so that A B is never built."""
        return self.scale * (x @ self.A @ self.B)

    def extra_repr(self):
        sizes = f"in_features={self.A.shape[0]}, out_features={self.B.shape[1]}"
        return f"{sizes}, rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling!r}"


class LinearWithLoRA(nn.Module):
    """A pretrained linear layer, frozen, plus a LoRALayer: ``x ↦ linear(x) + s · x A B``.

    The layer is wrapped, not copied, and nothing ever writes to its weight. Shapes: (…, in_features) →
    (…, out_features), as before.
    """

    def __init__(self, linear, rank=4, alpha=None, scaling="alpha/r"):
        weight = weight_of(linear)
        out_features, in_features = weight.shape
        lora = LoRALayer(in_features, out_features, rank, alpha, scaling, device=weight.device, dtype=weight.dtype)
        super().__init__()
        self.linear = linear.requires_grad_(False)  # the bias too
        self.lora = lora
        self.enabled = True
        # W + ΔWᵀ while merged, (out_features, in_features). Not part of the state dict: W, A and B are all there is.
        self.register_buffer("merged", None, persistent=False)
        self.train(linear.training)

    def forward(self, x):
        """(…, in_features) → (…, out_features)."""
        if not self.enabled:
            return self.linear(x)
        if self.merged is not None:
            return F.linear(x, self.merged, self.linear.bias)
        y = self.linear(x)
        lora = self.lora
        # addmm adds s · (x A) B to y in the same pass that computes it, but wants two dimensions.
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return torch.addmm(flat_y, flat_x @ lora.A, lora.B, alpha=lora.scale).view(y.shape)

    def merge(self):
        """Build W + ΔWᵀ beside W, so that the update costs nothing from now on. Merging anew starts from W again."""
        weight = weight_of(self.linear)
        precise = torch.promote_types(weight.dtype, torch.float32)  # bfloat16 is rounded once, at the end
        with torch.no_grad():
            lora = self.lora
            delta = torch.addmm(weight.T.to(precise), lora.A.to(precise), lora.B.to(precise), alpha=lora.scale)
            self.merged = delta.T.to(weight.dtype).contiguous()

    def unmerge(self):
        """Compute with W and the update separately again. W was never touched, so it is the same to the bit."""
        self.merged = None

    @property
    def weight(self):
        """The weight this layer acts with, in the wrapped layer's own layout.

        For code that reaches past the forward pass, as torch's attention and transformer layers do.
        """
        effective = weight_of(self.linear)
        if self.enabled:
            effective = effective + self.lora.delta().T if self.merged is None else self.merged
        return effective if isinstance(self.linear, nn.Linear) else effective.T

    @property
    def bias(self):
        """The wrapped layer's bias (out_features,), or None."""
        return self.linear.bias

    @property
    def in_features(self):
        return self.lora.A.shape[0]

    @property
    def out_features(self):
        return self.lora.B.shape[1]


def weight_of(layer):
    """A linear layer's weight, seen as (out_features, in_features); TypeError for a layer that can't be adapted.

    GPT-2's Conv1D, a linear layer in spite of its name, stores its weight as (in_features, out_features).
    """
    kind = type(layer).__name__
    if isinstance(layer, LinearWithLoRA):
        raise TypeError("this layer already has LoRA; take it out with remove_lora(model) before adding another")
    if isinstance(layer, nn.LazyLinear):
        raise TypeError(f"{kind} does not know its size yet; send one batch through the model first")
    if kind == "Conv1D" and hasattr(layer, "nf"):
        return layer.weight.T
    # A subclass with a forward pass of its own (a quantised layer, say) may not compute x Wᵀ + b at all.
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return layer.weight
    raise TypeError(f"a layer of type {kind} can't be adapted; LoRA goes into nn.Linear and transformers' Conv1D")


def check_settings(in_features, out_features, rank=4, alpha=None, scaling="alpha/r"):
    """Rank as an int and alpha as a float if they fit an in_features → out_features layer; else ValueError."""
    limit = min(in_features, out_features)
    try:
        whole = operator.index(rank)
    except TypeError:
        raise ValueError(f"rank={rank!r} is not a whole number; choose 1 to {limit}") from None
    if isinstance(rank, bool) or not 1 <= whole <= limit:
        raise ValueError(
            f"rank={rank!r} does not fit a {in_features}→{out_features} layer: choose 1 to {limit}, "
            "the smaller of its two sides, beyond which a product A B has no more rank to give"
        )
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r} is unknown; choose one of {', '.join(map(repr, SCALINGS))}")
    alpha = whole if alpha is None else alpha
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha!r} is not a positive number; leave it out for alpha = rank")
    return whole, float(alpha)
