"""The idea itself: a frozen linear layer, and beside it a small trainable update of low rank.

A linear layer computes ``y = x Wᵀ + b``. LoRA leaves W alone and learns ``ΔW = s · A B`` instead, where A is
(in_features, rank) and B is (rank, out_features): rank · (in + out) numbers in place of in · out.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .checks import SCALINGS, check_settings, refuse_merging, weight_of


class LoRALayer(nn.Module):
    """The update alone: ``x ↦ s · x A B``, from (…, in_features) to (…, out_features).

    A is uniform in ±1/√in_features and B is zero, so a new layer adds exactly nothing. ``alpha=None`` means
    ``alpha = rank``, which makes the scale s equal to 1 under the usual convention "alpha/r". In training, ``dropout``
    is the share of x that the update does not see.
    """

    def __init__(
        self, in_features, out_features, rank=4, alpha=None, scaling="alpha/r", dropout=0.0, *, device=None, dtype=None
    ):
        rank, alpha, dropout = check_settings(in_features, out_features, rank, alpha, scaling, dropout, dtype)
        super().__init__()
        self.rank, self.alpha, self.scaling, self.dropout = rank, alpha, scaling, dropout
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

    def seen(self, x):
        """What the update sees of x (…, in_features): all of it but what dropout takes, in the precision of A."""
        x = x.to(self.A.dtype)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, x):
        """(…, in_features) → (…, out_features). Left to right, so that A B is never built."""
        return self.scale * (self.seen(x) @ self.A @ self.B)

    def extra_repr(self):
        sizes = f"in_features={self.A.shape[0]}, out_features={self.B.shape[1]}"
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f"{sizes}, rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling!r}{dropout}"


class LinearWithLoRA(nn.Module):
    """A pretrained linear layer, frozen, plus a LoRALayer: ``x ↦ linear(x) + s · x A B``.

    (…, in_features) → (…, out_features). The layer is wrapped, not copied, and nothing ever writes to its weight.
    ``dtype`` is the precision of A and B where it is not the layer's own. A variant of LoRA is a subclass.
    """

    fixed = ()  # what of the adapter is not trained

    def __init__(self, linear, rank=4, alpha=None, scaling="alpha/r", dropout=0.0, dtype=None):
        weight = weight_of(linear)
        sort = {"device": weight.device, "dtype": dtype or weight.dtype}
        lora = LoRALayer(*weight.T.shape, rank, alpha, scaling, dropout, **sort)
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
        return self.adapted(x)

    def adapted(self, x):
        """(…, in_features) → (…, out_features), computed with W and the update separately."""
        y, lora = self.linear(x), self.lora
        if lora.A.dtype != y.dtype:
            return (y + lora(x)).to(y.dtype)  # rounded once, at the end
        # addmm adds s · (x A) B to y in the same pass that computes it, but wants two dimensions.
        flat_x, flat_y = lora.seen(x).reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return torch.addmm(flat_y, flat_x @ lora.A, lora.B, alpha=lora.scale).view(y.shape)

    def total_weight(self):
        """W + ΔWᵀ, (out_features, in_features), in float32 or better."""
        weight, lora = weight_of(self.linear), self.lora
        precise = torch.promote_types(torch.promote_types(weight.dtype, lora.A.dtype), torch.float32)
        return torch.addmm(weight.T.to(precise), lora.A.to(precise), lora.B.to(precise), alpha=lora.scale).T

    def adapted_weight(self):
        """W + ΔWᵀ, (out_features, in_features), rounded once to W's precision."""
        return self.total_weight().to(weight_of(self.linear).dtype).contiguous()

    def adapter(self):
        """What is added to the pretrained layer, by name."""
        return {"A": self.lora.A, "B": self.lora.B}

    def merge(self):
        """Build W + ΔWᵀ beside W, so that the update costs nothing from now on. Merging anew starts from W again."""
        refuse_merging(self.linear)
        with torch.no_grad():
            self.merged = self.adapted_weight()

    def unmerge(self):
        """Compute with W and the update separately again. W was never touched, so it is the same to the bit."""
        self.merged = None

    @property
    def weight(self):
        """The weight this layer acts with, in the wrapped layer's own layout.

        For code that reaches past the forward pass, as torch's attention and transformer layers do.
        """
        if not self.enabled:
            effective = weight_of(self.linear)
        else:
            effective = self.adapted_weight() if self.merged is None else self.merged
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
