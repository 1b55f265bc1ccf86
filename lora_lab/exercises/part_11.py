"""The exercises of notebook 11."""

import math

import torch
from torch import nn

from ..layer import LinearWithLoRA
from .engine import Exercise
from .guesses import Guess
from .kinds import Choice, Task, require

same_training = Guess("can plain LoRA train like rsLoRA, number for number?", ["yes", "no"])
most_learned = Guess("learns most at LoRA's rate", ["LoRA", "rsLoRA", "LoRA+", "LoRA-FA", "PiSSA", "DoRA"])
dora_time = Guess("the time of a step with DoRA, LoRA's = 1")


def twin(scale, ratio):
    return (scale * ratio) ** 0.5


twin = Exercise(
    title="The twin",
    reference=twin,
    cases=[(4, 1), (1, 16), (4, 16), (1, 1), (0.25, 1), (2, 3), (0.5, 8)],
    hints=[
        "Put the scale into A and B, half of its logarithm into each: s A B = (√s A)(√s B). What does that do to the rate at which they move?",
        "A ratio λ goes the same way: (√λ A)(B / √λ) is the same product, and then both move at √λ times A's rate.",
        "Both at once: the factors multiply. (scale * ratio) ** 0.5",
    ],
    misconceptions=[
        (
            lambda scale, ratio: scale * ratio,
            "The factor is shared by A and B, half of its logarithm each: take the root.",
        ),
        (
            lambda scale, ratio: scale**0.5 * ratio,
            "The ratio is shared by A and B like the scale: its root, too.",
        ),
        (
            lambda scale, ratio: scale * ratio**0.5,
            "The scale is shared by A and B like the ratio: its root, too.",
        ),
        (
            lambda scale, ratio: scale**0.5 + ratio**0.5,
            "One factor after the other: they multiply.",
        ),
        (
            lambda scale, ratio: scale**0.5 + ratio**0.5 - 1,
            "One factor after the other: they multiply.",
        ),
        (
            lambda scale, ratio: 1 / (scale * ratio) ** 0.5,
            "The other way round: a larger scale is like larger steps, so the twin's rate is higher.",
        ),
        (
            lambda scale, ratio: (scale / ratio) ** 0.5,
            "A higher ratio makes B faster, so the twin is faster, too: multiply.",
        ),
        (
            lambda scale, ratio: (ratio / scale) ** 0.5,
            "A larger scale makes every step count more, so the twin is faster: multiply.",
        ),
        (
            lambda scale, ratio: scale**0.5,
            "That is right for ratio 1. B's ratio counts as well.",
        ),
        (
            lambda scale, ratio: ratio**0.5,
            "That is right for scale 1. The scale counts as well.",
        ),
        (
            lambda scale, ratio: math.log(scale * ratio) / 2 + 1,
            "Half of the logarithm, yes, but the factor itself is asked for: the root.",
        ),
        (
            lambda scale, ratio: max(scale, ratio) ** 0.5,
            "Both count, and they multiply.",
        ),
    ],
    praise="So of scale, ratio, start and rate two numbers are left: how large A starts, and how fast it all goes.",
)


class LinearWithVeRA(LinearWithLoRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        self.lora.requires_grad_(False)
        nn.init.normal_(self.lora.B)
        self.d = nn.Parameter(torch.full((rank,), 0.1))
        self.b = nn.Parameter(torch.zeros(self.out_features))

    def adapted(self, x):
        return self.linear(x) + x @ self.lora.A * self.d @ self.lora.B * self.b


def _vera(wrapped):
    """A fresh layer of the learner's class around an 8 → 6 layer, and that layer."""
    torch.manual_seed(1)
    linear = nn.Linear(8, 6)
    return wrapped(linear, 3), linear


def _learning(layer):
    return {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}


def _two_vectors_learn(kind):
    layer, _ = _vera(kind)
    learning = {name: tuple(parameter.shape) for name, parameter in _learning(layer).items()}
    require(learning, "Nothing in it learns. d and b are to be nn.Parameter, each in an attribute of self.")
    matrices = [name for name, shape in learning.items() if len(shape) > 1 and min(shape) > 1]
    require(not matrices, f"{', '.join(matrices)} learns as well. A and B stay as they were drawn; d and b learn.")
    require(
        sorted(learning.values()) == [(3,), (6,)],
        f"d has rank numbers and b out_features, here (3,) and (6,); what learns has {', '.join(map(str, learning.values()))}.",
    )
    require(layer.lora.B.any(), "B is still zero, and since it does not learn the update would stay nothing. Draw it.")
    for half in "AB":
        drawn = getattr(layer.lora, half)
        require(
            drawn.unique().numel() > drawn.numel() / 2, f"{half} is not drawn at random: its numbers are much the same."
        )
    wide = kind(nn.Linear(10, 5), 2)
    shapes = sorted(tuple(parameter.shape) for parameter in _learning(wide).values())
    require(
        shapes == [(2,), (5,)],
        f"Around a layer 10 → 5, at rank 2, what learns has the shapes {shapes}: d is (2,), b is (5,).",
    )


def _begins_as_pretrained(kind):
    layer, linear = _vera(kind)
    x = torch.randn(5, 8)
    with torch.no_grad():
        off = (layer(x) - linear(x)).abs().max().item()
    require(off < 1e-6, f"It must start as the pretrained layer, and is off by {off:.2g}: which of d and b is zero?")
    layer(x).square().sum().backward()
    d, b = _vectors(layer)
    require(b.grad is not None and b.grad.any(), "b gets no gradient at the start: d must not be zero, too.")
    require(torch.allclose(d, torch.tensor(0.1)), f"d starts at {d[0].item():.2g}; asked for is 0.1 in all places.")
    with torch.no_grad():
        b.fill_(1.0)
    layer.enabled = False
    require(
        torch.equal(layer(x), linear(x)),
        "Switched off (enabled = False) it still adds something: override adapted, not forward.",
    )


def _vectors(layer):
    """d and b, by their shapes."""
    learning = list(_learning(layer).values())
    return sorted(learning, key=len)


def _computes_vera(kind):
    layer, linear = _vera(kind)
    x = torch.randn(2, 5, 8)
    d, b = _vectors(layer)
    with torch.no_grad():
        d.copy_(torch.tensor([0.5, -1.0, 2.0]))
        b.copy_(torch.randn(6))
        expected = linear(x) + ((x @ layer.lora.A * d) @ layer.lora.B * b)
        given = layer(x)
    require(given.shape == expected.shape, f"The output has shape {tuple(given.shape)}, not {tuple(expected.shape)}.")
    update, theirs = expected - linear(x), given - linear(x)
    times = ((theirs * update).sum() / update.square().sum()).item()
    if not torch.allclose(given, expected, atol=1e-5):
        require(
            not torch.allclose(theirs, times * update, atol=1e-5) or abs(times) < 1e-6,
            f"The update counts {times:.2g} times.",
        )
    require(
        torch.allclose(given, expected, atol=1e-5),
        "With other d and b it is not x A, times d, times B, times b. d stretches the rank numbers in the middle, b the outputs.",
    )


def _trains(kind):
    layer, linear = _vera(kind)
    x, before = torch.randn(20, 8), {k: v.clone() for k, v in layer.state_dict().items()}
    wanted = linear(x).detach() * 1.5
    optimizer = torch.optim.Adam(_learning(layer).values(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = [name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])]
    require(len(moved) == 2, f"Thirty steps have changed {', '.join(moved) or 'nothing'}; d and b were to move.")
    require(losses[-1] < losses[0], "Thirty steps have not made the loss smaller.")
    return f"{3 + 6} numbers learn, where LoRA has {3 * (8 + 6)}."


class _Everything(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        self.lora.requires_grad_(True)


class _PlainVectors(LinearWithLoRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        self.lora.requires_grad_(False)
        nn.init.normal_(self.lora.B)
        self.d, self.b = torch.ones(rank), torch.zeros(self.out_features)

    adapted = LinearWithVeRA.adapted


class _BStaysZero(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        nn.init.zeros_(self.lora.B)


class _DZero(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        nn.init.zeros_(self.d)


class _BOne(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        nn.init.ones_(self.b)


class _Swapped(LinearWithLoRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        self.lora.requires_grad_(False)
        nn.init.normal_(self.lora.B)
        self.d = nn.Parameter(torch.ones(self.in_features))
        self.b = nn.Parameter(torch.zeros(self.out_features))

    def adapted(self, x):
        return self.linear(x) + (x * self.d) @ self.lora.A @ self.lora.B * self.b


class _Added(LinearWithVeRA):
    def adapted(self, x):
        return self.linear(x) + (x @ self.lora.A + self.d) @ self.lora.B * self.b


class _ScalesW(LinearWithVeRA):
    def adapted(self, x):
        return self.linear(x) + (self.linear(x) + x @ self.lora.A * self.d @ self.lora.B) * self.b


class _Twice(LinearWithVeRA):
    def adapted(self, x):
        return self.linear(x) + 2 * (x @ self.lora.A * self.d @ self.lora.B * self.b)


class _AllOnes(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        nn.init.ones_(self.lora.B)


class _DOne(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        nn.init.ones_(self.d)


class _ForRankThree(LinearWithVeRA):
    def __init__(self, linear, rank):
        super().__init__(linear, rank)
        self.b = nn.Parameter(torch.zeros(2 * rank))


class _Forward(LinearWithVeRA):
    def forward(self, x):
        return self.adapted(x)


class _WithoutD(LinearWithVeRA):
    def adapted(self, x):
        return self.linear(x) + x @ self.lora.A @ self.lora.B * self.b


LinearWithVeRA = Task(
    title="VeRA",
    reference=LinearWithVeRA,
    stages={
        "two vectors learn, and nothing else": _two_vectors_learn,
        "it starts as the pretrained layer, and can leave": _begins_as_pretrained,
        "it adds x A, times d, times B, times b": _computes_vera,
        "it trains": _trains,
    },
    hints=[
        "super().__init__(linear, rank) makes A and B. Freeze both, draw B (it starts at zero), and make two nn.Parameter: d of rank numbers, b of self.out_features.",
        "One of the two vectors starts at zero, so that nothing is added; the other must not, or neither would ever get a gradient.",
        "def adapted(self, x): return self.linear(x) + x @ self.lora.A * self.d @ self.lora.B * self.b",
    ],
    misconceptions=[
        (_Everything, "lora.A, lora.B learns as well. A and B stay as they were drawn; d and b learn."),
        (_PlainVectors, "Nothing in it learns. d and b are to be nn.Parameter"),
        (_BStaysZero, "B is still zero, and since it does not learn the update would stay nothing. Draw it."),
        (_DZero, "b gets no gradient at the start: d must not be zero, too."),
        (_BOne, "It must start as the pretrained layer, and is off by"),
        (_Swapped, "d has rank numbers and b out_features, here (3,) and (6,); what learns has"),
        (_Added, "With other d and b it is not x A, times d, times B, times b."),
        (_ScalesW, "With other d and b it is not x A, times d, times B, times b."),
        (_Twice, "The update counts 2 times."),
        (_AllOnes, "B is not drawn at random: its numbers are much the same."),
        (_DOne, "d starts at 1; asked for is 0.1 in all places."),
        (_ForRankThree, "Around a layer 10 → 5, at rank 2, what learns has the shapes [(2,), (4,)]"),
        (_Forward, "Switched off (enabled = False) it still adds something"),
        (_WithoutD, "With other d and b it is not x A, times d, times B, times b."),
    ],
    praise="That is VeRA, but for one thing: there all layers of a size share one A and one B, which a seed can draw again. (To be merged and saved, ours would need a total_weight and an adapter of its own.)",
)

which_table = Choice(
    title="Which comparison would you trust?",
    reference=("c", 2),
    choices={
        "a": "All methods at 0.0002, a usual rate for LoRA, five seeds, five data sets.",
        "b": "Each method at the rate that its own authors recommend, one seed, five data sets.",
        "c": "Each method at the best of six rates of its own, chosen on validation data, three seeds, one data set.",
        "d": "Each method at the best of six rates, chosen on the test data, three seeds, five data sets.",
    },
    reasons={
        1: "Many seeds make the intervals narrow.",
        2: "No method is judged by a rate that suits another, and the choice does not see the test.",
        3: "With the same rate for all, nothing but the method differs.",
        4: "The authors know best what their method needs.",
    },
    hints=[
        "What would plain LoRA and its twin with a scale of 4, one and the same method, get in each table?",
        "A rate is part of a method's setting and not of the task. And what is chosen by looking at the test is no longer measured by it.",
        "It is c, and it has a weakness, too: one data set.",
    ],
    misconceptions=[
        (
            "a",
            "LoRA and its twin with a scale of 4 are one method, and at one rate they would differ in that table. More seeds make it differ more surely.",
        ),
        (
            "b",
            "Recommended for other models and other data. Between two such rates lies a factor of ten, and that is measured along with the method.",
        ),
        (
            "d",
            "The best of six by the test is too good by luck, and more so the more a method jumps about. Choose on other data.",
        ),
        (
            ("c", 1),
            "Right comparison, other reason: narrow intervals around an unfair difference do not make it fair.",
        ),
        (
            ("c", 3),
            "Right comparison, other reason: in c the rates differ, and that is its strength.",
        ),
        (
            ("c", 4),
            "Right comparison, other reason: in c nobody is asked; each rate is searched.",
        ),
    ],
    praise="And then ask about its one data set: what holds there may not hold elsewhere.",
)
