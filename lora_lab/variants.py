"""The family: variants of LoRA, each a class that overrides what differs, or an optimizer.

A variant has another form (DoRA), another start (PiSSA), another step (LoRA-FA, LoRA+) or another scale (rsLoRA: that
is ``scaling="alpha/sqrt(r)"`` and needs nothing here). A class goes in by ``replace_linear_with_lora(…, layer=…)``.
"""

import torch
from torch import nn

from .checks import SCALINGS, positive_number, weight_of
from .find import lora_layers
from .layer import LinearWithLoRA, LoRALayer


class LinearWithDoRA(LinearWithLoRA):
    """Another form: the direction of each row of W + ΔWᵀ is LoRA's, its length a trained number, ``magnitude`` (out,).

    The rows' lengths count as constants in the backward pass, as in the paper and in PEFT.
    """

    def __init__(self, linear, *settings, **named):
        super().__init__(linear, *settings, **named)
        self.magnitude = nn.Parameter(_lengths(self._direction()).to(self.lora.A.dtype))

    def adapter(self):
        return super().adapter() | {"magnitude": self.magnitude}

    def adapted(self, x):
        """(…, in_features) → (…, out_features): LoRA's output, each of its numbers stretched; the bias is not."""
        y = super().adapted(x)
        without_bias = y if self.bias is None else y - self.bias
        return (y + (self._stretch(self._direction()) - 1) * without_bias).to(y.dtype)

    def total_weight(self):
        total = super().total_weight()
        return total * self._stretch(total.detach())[:, None]

    def _direction(self):
        """W + ΔWᵀ (out_features, in_features), a constant."""
        with torch.no_grad():
            return super().total_weight()

    def _stretch(self, direction):
        """By how much each row is longer than the direction's: (out_features,). The strength dial acts on it, too."""
        magnitude, strength = self.magnitude, self.lora.strength
        if strength != 1:
            own = _lengths(weight_of(self.linear).detach().to(direction.dtype))
            magnitude = torch.lerp(own.to(magnitude.dtype), magnitude, strength)
        return magnitude / _lengths(direction).to(magnitude.dtype)


class LinearWithPiSSA(LinearWithLoRA):
    """Another start: A and B begin as the ``rank`` largest parts of W itself, and what they were then is taken off.

    ``x ↦ linear(x) + s · (x A B − x A0 B0)``. The authors subtract A0 B0 from W instead, which costs less and leaves a
    model that no other adapter fits; here W stays as it was.
    """

    fixed = ("A0", "B0")

    def __init__(self, linear, *settings, **named):
        super().__init__(linear, *settings, **named)
        lora, weight = self.lora, weight_of(linear).detach()
        if not weight.isfinite().all():
            raise ValueError("the weight contains NaN or infinity, so it has no largest parts to start from")
        U, S, Vh = torch.linalg.svd(weight.float().T, full_matrices=False)  # of (in, out), as A B is
        root = (S[: lora.rank] / lora.scale).sqrt()
        self.start = LoRALayer(*weight.T.shape, lora.rank, lora.alpha, lora.scaling).to(lora.A)
        with torch.no_grad():
            for own in (lora, self.start):
                own.A.copy_(U[:, : lora.rank] * root)
                own.B.copy_(root[:, None] * Vh[: lora.rank])
        self.start.requires_grad_(False)

    def adapter(self):
        return super().adapter() | {"A0": self.start.A, "B0": self.start.B}

    def adapted(self, x):
        """(…, in_features) → (…, out_features). Two products and then their difference: at the start exactly zero."""
        y, seen = self.linear(x), self.lora.seen(x)
        change = seen @ self.lora.A @ self.lora.B - seen @ self.start.A @ self.start.B
        return (y + self.lora.scale * change).to(y.dtype)

    def total_weight(self):
        change = _product(self.lora) - _product(self.start)
        return weight_of(self.linear) + self.lora.scale * change.T

    def as_lora(self):
        """Plain LoRA of twice the rank, (A | A0) times (B over −B0): what other programs can load."""
        lora, start = self.lora, self.start
        rank = 2 * lora.rank
        alpha = rank * SCALINGS[lora.scaling](lora.alpha, lora.rank)
        nothing = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")  # this layer is not touched
        plain = LinearWithLoRA(nothing, rank, alpha, dropout=lora.dropout)
        plain.linear, plain.lora.strength = self.linear, lora.strength
        plain.lora.A = nn.Parameter(torch.cat([lora.A, start.A], dim=1).detach())
        plain.lora.B = nn.Parameter(torch.cat([lora.B, -start.B]).detach())
        return plain


class LinearWithLoRAFA(LinearWithLoRA):
    """Another step: A stays as it was drawn, and only B learns. So x, which A's gradient wants, need not be kept.

    A file of it is a file of plain LoRA: loaded again, A learns as well.
    """

    fixed = ("A",)

    def __init__(self, linear, *settings, **named):
        super().__init__(linear, *settings, **named)
        self.lora.A.requires_grad_(False)


def _lengths(weight):
    """How long the rows of a weight (out_features, in_features) are, to divide by: a row of zeros counts as tiny."""
    return weight.contiguous().norm(dim=1).clamp(min=1e-30)


def _product(lora):
    """A B, (in_features, out_features), in float32 or better."""
    precise = torch.promote_types(lora.A.dtype, torch.float32)
    return lora.A.to(precise) @ lora.B.to(precise)


def lora_plus(model, ratio=16):
    """LoRA+, another step, for ``train_model(…, optimizer=lora_plus(model))``: every B at ``ratio`` times the rate."""
    ratio = positive_number("ratio", ratio, "the paper has 16")
    faster = {id(layer.lora.B) for layer in lora_layers(model).values()}

    def adam(parameters, lr):
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if id(p) not in faster], "lr": lr},
            {"params": [p for p in parameters if id(p) in faster], "lr": lr * ratio},
        ]
        return torch.optim.Adam([group for group in groups if group["params"]], fused=True)

    return adam
