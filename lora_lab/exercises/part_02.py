"""The exercises of notebook 02."""

import copy
import math

import torch
from torch import nn

from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

loss_at_start = Guess("the loss of NotesLayer")
first_gradient = Guess("gets a gradient", ["A", "B", "both", "neither"])
times_as_many = Guess("times as many multiplications")


def freeze(linear):
    linear.requires_grad_(False)


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


def _weight_and_bias(linear):
    linear.weight.requires_grad = False
    linear.bias.requires_grad = False


def _observe_freezing(answer, linear):
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
    cases=[(nn.Linear(6, 4),), (nn.Linear(6, 4, bias=False),)],
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
            _weight_and_bias,
            "Right for a layer that has a bias. With nn.Linear(…, bias=False) it is None: run over linear.parameters(), or freeze the whole layer at once.",
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
        "what an optimizer would take": str([name for name, half in (("A", A), ("B", B)) if half.is_leaf]),
    }


def _filling(A, m, n, rank):
    """How A is filled, in words: uniform or Gaussian are both right, if the size is that of ±1/√in_features."""
    size = A.square().mean().sqrt().item()
    if A.isnan().any():
        return "NaN, from memory that nobody has filled (torch.empty)"
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


class LoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bound = 1 / math.sqrt(linear.in_features)
        self.A = nn.Parameter(torch.empty(linear.in_features, rank).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))
        self.scale = alpha / rank

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A @ self.B)


def _built(LoRALinear, bias=True, alpha=6):
    """A layer 6 → 4 of rank 3, and the pretrained layer that it was made from."""
    linear = nn.Linear(6, 4, bias=bias)
    layer = LoRALinear(linear, 3, alpha)
    require(
        isinstance(layer, nn.Module),
        "It is no module: class LoRALinear(nn.Module). torch finds parameters in modules only.",
    )
    return layer, linear


def _halves(layer):
    """What learns in a layer 6 → 4 of rank 3, as A (6, 3) and B (3, 4), however it is stored."""
    learning = [p for p in layer.parameters() if p.requires_grad]
    found = {tuple(p.shape): p for p in learning}
    A, B = (found.get(shape, found.get(shape[::-1])) for shape in ((6, 3), (3, 4)))
    return learning, [
        half if half is None or half.shape == shape else half.T for half, shape in ((A, (6, 3)), (B, (3, 4)))
    ]


def _holds_its_pieces(LoRALinear):
    layer, linear = _built(LoRALinear)
    learning, (A, B) = _halves(layer)
    require(learning, "Nothing in it learns. A and B are to be nn.Parameter, each in an attribute of self.")
    for name, pretrained in linear.named_parameters():
        learns = any(p.shape == pretrained.shape and torch.equal(p, pretrained) for p in learning)
        require(not learns, f"The pretrained {name} still learns: freeze the layer, weight and bias.")
    require(
        A is not None and B is not None and len(learning) == 2,
        f"For 6 → 4 and rank 3, A is (6, 3) and B (3, 4), and nothing else learns. What learns here: {[tuple(p.shape) for p in learning]}.",
    )
    free = [name for name, pretrained in linear.named_parameters() if pretrained.requires_grad]
    require(
        not free,
        f"The layer that was given still learns: {', '.join(free)}. Wrap that layer itself and freeze it, not a copy.",
    )
    require(A.any() or B.any(), "A and B both start at zero, so neither would ever get a gradient.")
    require(
        A.any(), "A starts at zero and B at random. That would start right, too; the convention is the other way round."
    )
    require(not B.any(), "B does not start at zero, so the layer would not start as the pretrained one.")
    times = A.detach().square().mean().sqrt().item() * math.sqrt(3 * 6)
    require(
        0.3 < times < 2.9,
        f"A's numbers are {times:.2g} times as large as those that are spread over ±1/√in_features, as in exercise 2.",
    )


def _starts_as_pretrained(LoRALinear):
    for bias in (True, False):
        layer, linear = _built(LoRALinear, bias)
        for x in (torch.randn(5, 6), torch.randn(2, 3, 6)):
            _agree(layer(x), linear(x), "Before training it must give what the pretrained layer gives", x)


def _agree(actual, expected, sentence, x):
    shape = " × ".join(map(str, x.shape))
    require(
        isinstance(actual, torch.Tensor), f"forward gives no tensor but {type(actual).__name__}; is the return missing?"
    )
    require(
        actual.shape == expected.shape,
        f"For x ({shape}) the output has shape {tuple(actual.shape)}, and {tuple(expected.shape)} is right.",
    )
    off = (actual - expected).abs().max().item()
    require(off < 1e-5, f"{sentence}. For x ({shape}) it is off by {off:.2g}.")


def _adds_the_update(LoRALinear):
    for alpha in (6, 1.5):
        layer, linear = _built(LoRALinear, alpha=alpha)
        _, (A, B) = _halves(layer)
        with torch.no_grad():
            A.normal_(), B.normal_()
        x = torch.randn(5, 6)
        update, product = layer(x) - linear(x), x @ A @ B
        require(
            update.abs().max() > 1e-6,
            f"With alpha {alpha:g} and rank 3 what A and B hold makes no difference: is s zero (// instead of /), or A B computed once and for all in __init__?",
        )
        times = ((update * product).sum() / product.square().sum()).item()
        if torch.allclose(update, times * product, atol=1e-4):
            require(
                abs(times - alpha / 3) < 1e-3,
                f"With alpha {alpha:g} and rank 3 the update counts {times:.3g} times. s is alpha / rank, {alpha / 3:g}.",
            )
        _agree(layer(x), linear(x) + alpha / 3 * product, "It must give linear(x) + s · x A B", x)


def _learns(LoRALinear):
    layer, linear = _built(LoRALinear)
    below = torch.randn(5, 6, requires_grad=True)
    layer(below).sum().backward()
    expected = linear.weight.sum(0).expand(5, 6)  # B is still zero
    require(
        below.grad is not None and torch.allclose(below.grad, expected, atol=1e-5),
        "What lies below this layer gets no gradient through W. Frozen is what does not change; no_grad() cuts the way.",
    )
    layer.zero_grad()
    before = copy.deepcopy(linear.state_dict())
    learning, (A, B) = _halves(layer)
    start, optimizer = [half.detach().clone() for half in (A, B)], torch.optim.SGD(learning, lr=0.1)
    x, y = torch.randn(20, 6), torch.randn(20, 4)
    losses = []
    for _ in range(5):
        loss = (layer(x) - y).square().mean()
        require(loss.requires_grad, "The output carries no gradient: .data, .detach() or no_grad() in forward?")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for name, half, then in (("A", A, start[0]), ("B", B, start[1])):
        require(not torch.equal(half, then), f"Five steps have not changed {name}: does the gradient reach it?")
    require(losses[-1] < losses[0], "Five steps have not lowered the loss.")
    kept = all(torch.equal(linear.state_dict()[name], value) for name, value in before.items())
    require(kept, "The pretrained numbers have changed in training.")
    return f"Loss {losses[0]:.2f} → {losses[-1]:.2f} in five steps, W untouched."


_Right = LoRALinear


class _BiasLeftFree(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        linear.bias.requires_grad_(True)


class _PlainTensors(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A, self.B = torch.randn(linear.in_features, rank), torch.zeros(rank, linear.out_features)

    def forward(self, x):
        return self.linear(x) + x @ self.A @ self.B


class _BothRandom(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        nn.init.normal_(self.B)


class _TooLarge(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        nn.init.constant_(self.A, 1.0)


class _BiasTwice(_Right):
    def forward(self, x):
        return super().forward(x) + (0 if self.linear.bias is None else self.linear.bias)


class _NeedsABias(_Right):
    def forward(self, x):
        return x @ self.linear.weight.T + self.linear.bias + self.scale * (x @ self.A @ self.B)


class _WholeNumbers(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        self.scale = alpha // rank


class _AlphaAlone(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        self.scale = alpha


class _ScalesAll(_Right):
    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A @ self.B) * (1 + self.linear.weight.mean())


class _ProductKept(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        self.delta = (self.scale * self.A @ self.B).detach()

    def forward(self, x):
        return self.linear(x) + x @ self.delta


class _Detached(_Right):
    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.data @ self.B.data)


class _ADetached(_Right):
    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.detach() @ self.B)


class _WrapsACopy(_Right):
    def __init__(self, linear, rank, alpha):
        super().__init__(copy.deepcopy(linear), rank, alpha)


class _NoGradThroughW(_Right):
    def forward(self, x):
        with torch.no_grad():
            frozen = self.linear(x)
        return frozen + self.scale * (x @ self.A @ self.B)


class _NoReturn(_Right):
    def forward(self, x):
        self.linear(x) + self.scale * (x @ self.A @ self.B)


LoRALinear = Task(
    title="The layer as a class",
    reference=LoRALinear,
    stages={
        "it holds the frozen layer, and an A and a B that learn": _holds_its_pieces,
        "it starts as the pretrained layer": _starts_as_pretrained,
        "it adds s · x A B, with s = alpha / rank": _adds_the_update,
        "it learns, and the pretrained numbers stay": _learns,
    },
    hints=[
        "Two exercises are behind you: freeze, and where A and B start. In __init__, put their results into self.",
        "super().__init__() first. Then self.linear = linear, frozen, self.A = nn.Parameter(…), self.B = nn.Parameter(…), and the scale. Which stage is the first that fails?",
        "forward returns self.linear(x) + self.scale * (x @ self.A @ self.B). The frozen layer brings its bias, if it has one.",
    ],
    misconceptions=[
        (_BiasLeftFree, "The pretrained bias still learns: freeze the layer, weight and bias."),
        (_PlainTensors, "Nothing in it learns. A and B are to be nn.Parameter, each in an attribute of self."),
        (_BothRandom, "B does not start at zero, so the layer would not start as the pretrained one."),
        (_TooLarge, "A's numbers are 4.2 times as large"),
        (_BiasTwice, "Before training it must give what the pretrained layer gives. For x (5 × 6) it is off by"),
        (_NeedsABias, "It raises TypeError: unsupported operand type(s) for +: 'Tensor' and 'NoneType'."),
        (_WholeNumbers, "With alpha 1.5 and rank 3 what A and B hold makes no difference: is s zero (// instead of /)"),
        (_AlphaAlone, "With alpha 6 and rank 3 the update counts 6 times. s is alpha / rank, 2."),
        (_ScalesAll, "With alpha 6 and rank 3 the update counts"),
        (_ProductKept, "With alpha 6 and rank 3 what A and B hold makes no difference"),
        (_Detached, "The output carries no gradient: .data, .detach() or no_grad() in forward?"),
        (_ADetached, "Five steps have not changed A: does the gradient reach it?"),
        (_WrapsACopy, "The layer that was given still learns: weight, bias."),
        (_NoGradThroughW, "What lies below this layer gets no gradient through W."),
        (_NoReturn, "forward gives no tensor but NoneType; is the return missing?"),
    ],
    praise="That is LinearWithLoRA, but for what a package has to check.",
)
