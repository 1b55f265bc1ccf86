"""The exercises of notebook 02."""

import copy
import math

import torch
from torch import nn

from .engine import Exercise


def lora_forward(x, W, b, A, B, scale):
    return x @ W.T + b + scale * (x @ A @ B)


def _layer_case(rows, m, n, rank, scale):
    random = torch.Generator().manual_seed(rows)
    shapes = ((rows, m), (n, m), (n,), (m, rank), (rank, n))
    x, W, b, A, B = (torch.randn(*shape, generator=random) for shape in shapes)
    return x, W, b, A.requires_grad_(), B.requires_grad_(), scale


lora_forward = Exercise(
    title="The forward pass",
    reference=lora_forward,
    cases=[_layer_case(5, 6, 4, 2, 2.0), _layer_case(3, 4, 4, 1, 0.5)],
    hints=[
        "Two paths run side by side from x and are added at the end.",
        "The frozen path is a linear layer's: x @ W.T + b. The other goes through A first, then through B.",
        "x @ W.T + b + scale * (x @ A @ B)",
    ],
    misconceptions=[
        (
            lambda x, W, b, A, B, s: x @ W.T + b + x @ A @ B,
            "The scale is missing: it multiplies the path through A and B.",
        ),
        (
            lambda x, W, b, A, B, s: s * (x @ W.T + b + x @ A @ B),
            "The scale belongs to the path through A and B alone; the frozen layer stays as it was.",
        ),
        (
            lambda x, W, b, A, B, s: s * (x @ W.T + b) + x @ A @ B,
            "The scale is on the wrong path: it multiplies the path through A and B, and the frozen layer stays as it was.",
        ),
        (
            lambda x, W, b, A, B, s: x @ W.T + b + s * (A @ B),
            "A @ B is the change of the weight. x has to go through it: x @ A @ B.",
        ),
        (
            lambda x, W, b, A, B, s: x @ (W.T + s * A @ B + b),
            "The bias is added after x has been multiplied: outside the parentheses.",
        ),
        (
            lambda x, W, b, A, B, s: x @ W.T + s * (x @ A @ B),
            "The bias b is missing. It is frozen, but it still takes part.",
        ),
        (
            lambda x, W, b, A, B, s: x @ W.T + b + s * s * (x @ A @ B),
            "The scale counts twice. Apply it once, to x @ A or to the product.",
        ),
        (
            lambda x, W, b, A, B, s: x @ W.T + b + s / A.shape[1] * (x @ A @ B),
            "The scale is alpha/rank already. Don't divide by the rank again.",
        ),
        (lambda x, W, b, A, B, s: s * (x @ A @ B), "That is the update alone. Add what the frozen layer computes."),
        (
            lambda x, W, b, A, B, s: x @ W.T + b,
            "That is the frozen layer alone. Add scale times the path through A and B.",
        ),
        (lambda x, W, b, A, B, s: x @ W.T + b - s * (x @ A @ B), "The update is added, not subtracted."),
        (
            lambda x, W, b, A, B, s: x @ W.T + b + (x @ A @ B) / s,
            "The update is multiplied by the scale, not divided. Alpha was divided by the rank already.",
        ),
    ],
    praise="Computed from left to right, A @ B itself need never be built.",
)


def freeze(linear):
    linear.weight.requires_grad = False
    linear.bias.requires_grad = False


def _freeze_weight(linear):
    linear.weight.requires_grad = False


def _freeze_and_zero(linear):
    linear.requires_grad_(False)
    linear.weight.zero_()


def _drop_the_bias(linear):
    linear.weight.requires_grad = False
    linear.bias = None


def _freeze_a_copy(linear):
    return copy.deepcopy(linear).requires_grad_(False)


def _observe_freezing(answer):
    linear = nn.Linear(6, 4)
    before = copy.deepcopy(linear.state_dict())
    returned = answer(linear)
    trainable = [name for name, parameter in linear.named_parameters() if parameter.requires_grad]
    after = linear.state_dict()
    kept = all(torch.equal(after[name], before[name]) for name in before if name in after)
    froze_another = isinstance(returned, nn.Module) and not any(p.requires_grad for p in returned.parameters())
    return {
        "the list of parameters that still take a gradient": str(trainable),
        "the list of parameters that are there": str(list(after)),
        "it that the numbers were kept": kept,
        "it that another layer was frozen": bool(trainable) and froze_another,
    }


freeze = Exercise(
    title="Freeze the layer",
    reference=freeze,
    observe=_observe_freezing,
    hints=[
        "Every parameter of a torch layer carries a switch that says whether it takes a gradient.",
        "The switch is requires_grad. How many parameters has a linear layer?",
        "linear.requires_grad_(False) turns off all of them, the bias too.",
    ],
    misconceptions=[
        (
            _freeze_weight,
            "The weight is frozen and the bias is not: linear.bias still takes a gradient. It is the notes' own mistake.",
        ),
        (
            lambda linear: linear.bias.requires_grad_(False),
            "The bias is frozen and the weight, the part that matters most, is not.",
        ),
        (
            lambda linear: linear.eval(),
            "Nothing is frozen: weight and bias still take a gradient. (== only asks, = sets; linear.requires_grad = False only hangs an attribute on the module, .data and .detach() are other tensors, eval() is about dropout.) Switch off requires_grad of each parameter.",
        ),
        (_drop_the_bias, "The bias is gone. Freezing keeps every parameter and only stops its gradient."),
        (_freeze_a_copy, "The copy is frozen. The layer that you were given still learns."),
        (
            _freeze_and_zero,
            "Frozen, but no longer what was pretrained: its numbers were changed. Freezing keeps every one.",
        ),
    ],
    praise="Weight and bias keep their numbers and take no gradient.",
)


def new_A_and_B(in_features, out_features, rank):
    bound = 1 / math.sqrt(in_features)
    A = torch.empty(in_features, rank).uniform_(-bound, bound)
    B = torch.zeros(rank, out_features)
    return A, B


def _observe_start(answer, m, n, rank):
    A, B = answer(m, n, rank)
    if not isinstance(A, torch.Tensor):
        raise TypeError
    return {
        "the shape of A": str(tuple(A.shape)),
        "the shape of B": str(tuple(B.shape)),
        "the size of A's numbers": _filling(A.detach(), m, n, rank),
        "the start of B": "not zero" if B.any() else "zero",
    }


def _filling(A, m, n, rank):
    """How A is filled, in words: uniform or Gaussian are both right, if the size is that of ±1/√in_features."""
    size = A.square().mean().sqrt().item()
    if size == 0:
        return "zero"
    if (A >= 0).all() or (A <= 0).all():
        return "one sign"
    if 0.3 < size * math.sqrt(m) < 1.7:
        return "that of ±1/√in_features"
    if abs(size * math.sqrt(3 * n) - 1) < 0.2:
        return "that of ±1/√out_features"
    if abs(size * math.sqrt(3 * rank) - 1) < 0.2:
        return "that of ±1/√rank"
    return f"{'less' if size * math.sqrt(m) < 1 else 'more'} than that of ±1/√in_features"


def _start(A, B):
    return lambda m, n, r: (A(m, r), B(r, n))


def _uniform(m, r):
    return (2 * torch.rand(m, r) - 1) / math.sqrt(m)


new_A_and_B = Exercise(
    title="Where A and B start",
    reference=new_A_and_B,
    cases=[(64, 10, 4), (400, 30, 8)],
    observe=_observe_start,
    hints=[
        "Before the first step the adapted layer must compute exactly what the pretrained layer does.",
        "For that one of the two must be zero. If both are, neither ever receives a gradient.",
        "A uniform in ±1/√in_features, of shape (in_features, rank); B zero, of shape (rank, out_features).",
    ],
    misconceptions=[
        (
            _start(torch.zeros, torch.zeros),
            "With both at zero neither receives a gradient: nothing is ever learned. One of them must be random.",
        ),
        (
            _start(_uniform, torch.randn),
            "With B random as well, the adapter changes the model before the first step: it wrecks what was pretrained.",
        ),
        (
            _start(torch.randn, torch.randn),
            "With both random the adapter changes the model before the first step: it wrecks what was pretrained. And A is too large.",
        ),
        (
            _start(torch.zeros, torch.randn),
            "That would train, too, but the other way round is the convention: A random, B zero.",
        ),
        (
            _start(torch.randn, torch.zeros),
            "A is too large: with in_features inputs, numbers of size 1 make x @ A of size √in_features. Stay within ±1/√in_features.",
        ),
        (
            _start(lambda m, r: 1e-3 * _uniform(m, r), torch.zeros),
            "A is too small: B's gradient goes through A, so the first steps would barely move. Fill ±1/√in_features.",
        ),
        (
            _start(lambda m, r: (2 * torch.rand(m, r) - 1) / math.sqrt(r), torch.zeros),
            "The bound is 1/√rank here. On an (in, rank) tensor torch's Kaiming helper reads the rank as the number of inputs; it is in_features.",
        ),
        (
            lambda m, n, r: (math.sqrt(m / n) * _uniform(m, r), torch.zeros(r, n)),
            "The bound is 1/√out_features here. A takes in x, which has in_features numbers: 1/√in_features.",
        ),
        (lambda m, n, r: (torch.zeros(r, n), _uniform(m, r)), "A and B are in the wrong order: return A, B."),
        (
            _start(lambda m, r: torch.rand(m, r) / math.sqrt(m), torch.zeros),
            "All of A has one sign, so its directions are nearly the same. Spread it over both sides of 0: ±1/√in_features.",
        ),
        (
            _start(lambda m, r: _uniform(m, r).T, lambda r, n: torch.zeros(n, r)),
            "These are PEFT's orientations, (rank, in) and (out, rank). In this course A is (in, rank) and B (rank, out).",
        ),
    ],
    praise="B at zero keeps the model as it was, A at random lets B learn in the first step.",
)
