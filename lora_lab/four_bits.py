"""Fewer bits: weights as sixteen levels and a scale for each block, and a linear layer that keeps them packed.

A weight is cut into blocks, each block divided by its largest number, and each quotient replaced by the nearest of
sixteen levels from −1 to 1. What is kept is the level's place, half a byte, and the blocks' scales, which are rounded
to a byte themselves (QLoRA calls it double quantization, and takes floating point; here it is the logarithm).
"""

import torch
from torch import nn
from torch.nn import functional as F

from .checks import weight_of, whole_number
from .find import adapted_layers, linear_layers, listed, refuse_tied, select_layers

SCALES_IN_A_GROUP = 256  # blocks whose scales are kept as parts of the largest among them
_STEPS = 16  # a byte says by how many sixteenths of a halving a scale is below it: 2 % at most from what it was


def nf4_levels():
    """NormalFloat4: sixteen levels (16,) that normally distributed numbers use about equally often, zero among them.

    They are quantiles of the normal distribution, eight of the positive half and seven of the negative, and zero,
    divided by the largest.
    """
    edge = (29 / 30 + 31 / 32) / 2  # between the outermost of 15 and of 16 equal shares, each in the middle of its own
    positive = torch.special.ndtri(torch.linspace(edge, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(edge, 0.5, 8, dtype=torch.float64)[:-1])
    return _scaled([*positive, 0.0, *negative])


def _scaled(levels):
    """Levels in order, the largest 1."""
    levels = torch.tensor(sorted(map(float, levels)), dtype=torch.float64)
    return (levels / levels.max()).float()


_FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # a sign, two bits for the power of two, one for what comes behind the point
# The formats of four bits by their names: levels (16,) or (15,) from −1 to 1. int4 keeps the sixteenth for nothing.
LEVELS = {
    "nf4": nf4_levels(),
    "fp4": _scaled([sign * level for level in _FP4 for sign in (1, -1)]),
    "int4": _scaled(range(-7, 8)),
}


_TABLE = torch.stack([F.pad(levels, (0, 16 - len(levels)), value=1.0) for levels in LEVELS.values()])


def levels_of(form):
    """The levels of a format (16,), by its name; ValueError for another name."""
    if form not in LEVELS:
        raise ValueError(f"there is no format {form!r}; choose one of {', '.join(map(repr, LEVELS))}")
    return LEVELS[form]


def quantize(weight, form="nf4", block=64):
    """A weight of any shape as places among the levels, (blocks, block), and one scale for each block, (blocks,).

    The last block is filled up with zeros.
    """
    block = whole_number("block", block, 2, hint="try 64")
    if block % 2:
        raise ValueError(f"block={block} is odd, and two numbers share a byte; try 64")
    flat = F.pad(weight.detach().float().flatten(), (0, -weight.numel() % block)).view(-1, block)
    if not flat.isfinite().all():
        raise ValueError("the weight contains NaN or infinity, which no level stands for")
    scales = flat.abs().amax(dim=1)
    levels = levels_of(form).to(flat.device)
    between = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(flat / scales.clamp(min=1e-30)[:, None], between), scales


def dequantize(places, scales, shape, levels):
    """The weight of a shape that places (blocks, block) among levels (16,) and scales (blocks,) stand for."""
    numbers = levels.to(scales.device)[places.long()] * scales[:, None]
    return numbers.flatten()[: shape.numel()].view(shape)


def rounded(weight, form="nf4", block=64):
    """A weight of any shape as it comes back from four bits, in its own precision; the scales are not rounded."""
    return dequantize(*quantize(weight, form, block), weight.shape, levels_of(form)).to(weight.dtype)


class Linear4bit(nn.Linear):
    """A frozen linear layer, (…, in_features) → (…, out_features), that keeps half a byte for each weight.

    The whole weight exists for the moment of a product only, in the forward pass and again in the backward pass. LoRA
    goes beside it like beside any other; merging is refused, since the sum would no longer be of four bits.
    """

    def __init__(self, linear, form="nf4", block=64):
        weight = weight_of(linear)
        places, scales = quantize(weight, form, block)
        nn.Module.__init__(self)  # nn.Linear's own would make a weight of full size
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        packed = places.to(torch.uint8)
        groups = F.pad(scales, (0, -len(scales) % SCALES_IN_A_GROUP)).view(-1, SCALES_IN_A_GROUP)
        largest = groups.amax(dim=1).clamp(min=1e-30)
        below = -_STEPS * (groups / largest[:, None]).log2()
        self.register_buffer("packed", packed[:, ::2] * 16 + packed[:, 1::2])  # (blocks, block / 2)
        self.register_buffer("scales", below.round().clamp(max=255).to(torch.uint8).flatten()[: len(scales)])
        # As bytes, since model.half() would round them.
        self.register_buffer("largest", largest.view(torch.uint8))  # (4 groups,)
        self.register_buffer("number", torch.tensor(list(LEVELS).index(form), dtype=torch.uint8))  # of the format
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        self.train(linear.training)

    def dense_weight(self):
        """The weight (out_features, in_features) that the bits stand for, made anew each time."""
        places = torch.stack([self.packed // 16, self.packed % 16], dim=-1).flatten(1)
        largest = self.largest.view(torch.float32).repeat_interleave(SCALES_IN_A_GROUP)[: len(self.scales)]
        scales = largest * 2.0 ** (-self.scales.float() / _STEPS)
        levels = _TABLE.to(self.number.device)[self.number.long()]
        shape = torch.Size([self.out_features, self.in_features])
        return dequantize(places, scales, shape, levels).to(self.dtype)

    @property
    def weight(self):
        """The same, by the name that other code knows."""
        return self.dense_weight()

    def forward(self, x):
        """(…, in_features) → (…, out_features)."""
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias

    def extra_repr(self):
        """What it is, for printing."""
        form, block = list(LEVELS)[self.number], 2 * self.packed.shape[1]
        return f"{super().extra_repr()}, form={form!r}, block={block}"

    def _apply(self, fn, recurse=True):
        """Where the model goes to another precision, so does the weight that is made of the bits."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)


class _Product(torch.autograd.Function):
    """x Wᵀ with a weight that is not kept: between forward and backward only its bits are there."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer, ctx.dtype = layer, x.dtype
        return x @ layer.dense_weight().T

    @staticmethod
    def backward(ctx, gradient):  # under autocast in another precision than x
        return (gradient @ ctx.layer.dense_weight().to(gradient.dtype)).to(ctx.dtype), None


def quantize_linear_layers(model, targets=None, exclude=(), form="nf4"):
    """Put a Linear4bit in the place of linear layers; return their names. LoRA goes in afterwards.

    ``targets`` and ``exclude`` are as in ``replace_linear_with_lora``. What they held in full precision is gone.
    """
    if isinstance(model, nn.Linear):
        raise ValueError("the model is itself a linear layer; Linear4bit(model) packs it")
    if adapted := adapted_layers(model):
        raise ValueError(
            f"this model has LoRA in {listed(adapted)}; take it out with remove_lora(model), or put it in afterwards"
        )
    names = select_layers(model, targets, exclude)
    layers, packed = {name: model.get_submodule(name) for name in names}, {}
    refuse_tied(model, layers, "packing would take it apart. Leave the layer out with exclude")
    for name, layer in layers.items():
        try:
            packed[name] = Linear4bit(layer, form)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for name, layer in packed.items():
        model.set_submodule(name, layer)
    return names


def dequantize_linear_layers(model):
    """Put plain linear layers, of the numbers that the bits stand for, in the place of all Linear4bit.

    Returns their names. LoRA beside them stays, and can be merged from then on.
    """
    names = [name for name, layer in linear_layers(model).items() if name and isinstance(layer, Linear4bit)]
    if not names:
        raise ValueError("no part of this model is a layer of four bits, made by quantize_linear_layers(model)")
    adapted = adapted_layers(model)
    for name in names:
        packed = adapted[name].linear if name in adapted else model.get_submodule(name)
        plain = nn.Linear(packed.in_features, packed.out_features, device="meta", bias=False)
        plain.weight, plain.bias = nn.Parameter(packed.dense_weight(), requires_grad=False), packed.bias
        if name in adapted:
            adapted[name].linear = plain.train(packed.training)
        else:
            model.set_submodule(name, plain.train(packed.training))
    return names
