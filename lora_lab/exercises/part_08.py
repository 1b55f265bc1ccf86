"""The exercises of notebook 08."""

import torch

from .engine import Exercise


def next_character(logits, temperature):
    return (logits / temperature).softmax(-1)


_LOGITS = torch.tensor([2.0, 1.0, 0.0, -2.5])
_ROWS = torch.tensor([[0.5, 2.0, -1.0], [3.0, -2.0, 0.0]])

next_character = Exercise(
    title="The temperature",
    reference=next_character,
    cases=[(_LOGITS, 0.5), (_LOGITS, 2.0), (_ROWS, 0.7)],
    hints=[
        "Softmax turns logits into probabilities: positive numbers that add up to 1. Where does the temperature act?",
        "A low temperature makes the differences between logits larger, before softmax. The characters are in the last dimension.",
        "(logits / temperature).softmax(-1)",
    ],
    misconceptions=[
        (
            lambda logits, temperature: (logits * temperature).softmax(-1),
            "That is the other way round: a low temperature would make the model bolder. Divide by the temperature.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1) / temperature,
            "Those no longer add up to 1. Divide the logits, before softmax.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1),
            "The temperature does nothing here. Divide the logits by it.",
        ),
        (
            lambda logits, temperature: logits / temperature,
            "Those are the divided logits. Softmax makes probabilities of them.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp(),
            "Those are positive, but don't add up to 1: divide by their sum, or use softmax.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp() / (logits / temperature).exp().sum(),
            "That adds up to 1 over everything. With several rows, each row is a distribution of its own: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits / temperature).softmax(0),
            "Softmax went over the first dimension. The characters are in the last one: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits.softmax(-1) / temperature).softmax(-1),
            "Softmax was applied twice. Divide the logits, then apply it once.",
        ),
        (
            lambda logits, temperature: (logits / temperature).log_softmax(-1),
            "Those are logarithms of probabilities. Use softmax.",
        ),
        (
            lambda logits, temperature: (logits / temperature).argmax(-1),
            "That is the likeliest character alone. Asked for are the probabilities of all.",
        ),
        (
            lambda logits, temperature: (logits / temperature).sigmoid(),
            "A sigmoid looks at each character alone, and the sum is not 1. Use softmax.",
        ),
        (
            lambda logits, temperature: torch.multinomial((logits / temperature).softmax(-1), 1),
            "That draws a character. Asked for are the probabilities from which it is drawn.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1) ** (1 / temperature),
            "The proportions are right, but they don't add up to 1: divide by their sum.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp() / (logits / temperature).exp().sum(-1),
            "The sums have lost their dimension, so rows and sums don't line up: sum(-1, keepdim=True).",
        ),
        (
            lambda logits, temperature: logits / temperature / (logits / temperature).sum(-1, keepdim=True),
            "Logits can be negative, and so can their sum: take exp before you divide, or use softmax.",
        ),
        (
            lambda logits, temperature: (logits[-1] / temperature).softmax(-1),
            "That takes the last number, or the last row, of the logits. All of them are wanted: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits / temperature).softmax(-1).amax(-1),
            "That is the largest probability alone. Asked for are all of them.",
        ),
    ],
    praise="At 0.01 the likeliest wins nearly always; at 100 all are nearly alike. TinyGPT.write does exactly this.",
)


def largest_rank(shapes, budget):
    per_rank = sum(inputs + outputs for inputs, outputs in shapes)
    return budget // per_rank


_QV = [(192, 192)] * 8
_MLP = [(192, 768), (768, 192)] * 4

largest_rank = Exercise(
    title="The rank that a budget buys",
    reference=largest_rank,
    cases=[([(3, 4), (16, 2)], 50), ([(10, 20)], 110), ([(10, 20)], 20), (_QV, 55_296), (_MLP, 55_296), (_QV, 500_000)],
    hints=[
        "How many numbers do A and B hold in one layer, for each unit of rank?",
        "A is (in, r) and B is (r, out): r · (in + out) numbers. Add that up over the layers.",
        "budget // sum(inputs + outputs for inputs, outputs in shapes)",
    ],
    misconceptions=[
        (
            lambda shapes, budget: budget // sum(a * b for a, b in shapes),
            "in · out is the size of W. A and B hold r · (in + out) numbers.",
        ),
        (
            lambda shapes, budget: budget // (shapes[0][0] + shapes[0][1]),
            "That pays for one layer. The budget has to do for all of them.",
        ),
        (
            lambda shapes, budget: budget // sum(a for a, b in shapes),
            "That counts A alone. B holds r · out numbers more.",
        ),
        (
            lambda shapes, budget: budget // sum(b for a, b in shapes),
            "That counts B alone. A holds r · in numbers more.",
        ),
        (
            lambda shapes, budget: budget / sum(a + b for a, b in shapes),
            "A rank is a whole number: round down, with //.",
        ),
        (
            lambda shapes, budget: -(-budget // sum(a + b for a, b in shapes)),
            "Rounding up goes beyond the budget. Round down.",
        ),
        (
            lambda shapes, budget: round(budget / sum(a + b for a, b in shapes)),
            "Rounding to the nearest can go beyond the budget. Round down, with //.",
        ),
        (
            lambda shapes, budget: sum(budget // (a + b) for a, b in shapes),
            "That spends the whole budget once for each layer, and adds up the ranks. All layers share one budget and one rank.",
        ),
        (
            lambda shapes, budget: min(budget // (a + b) for a, b in shapes),
            "That gives each layer the whole budget. All layers share it: add up in + out first.",
        ),
        (
            lambda shapes, budget: budget // len(shapes) // max(a + b for a, b in shapes),
            "That gives each layer an equal part, and the largest decides. They need unequal parts: add up in + out first.",
        ),
        (
            lambda shapes, budget: budget // (len(shapes) * sum(shapes[0])),
            "That takes all layers to be shaped like the first. Add up in + out over the layers.",
        ),
        (
            lambda shapes, budget: budget // sum(a + b for a, b in shapes) + 1,
            "That is the first rank that no longer fits: one less.",
        ),
        (
            lambda shapes, budget: (budget - 1) // sum(a + b for a, b in shapes),
            "The budget may be spent to the last number: <=, not <.",
        ),
        (
            lambda shapes, budget: budget // (2 * sum(a + b for a, b in shapes)),
            "in + out has A and B in it already: no factor 2.",
        ),
        (
            lambda shapes, budget: int((budget / sum(a + b for a, b in shapes)) ** 0.5),
            "The size grows with the rank, not with its square.",
        ),
        (
            lambda shapes, budget: max(1, budget // sum(a + b for a, b in shapes)),
            "Rank 1 may cost more than there is: then it is 0.",
        ),
        (
            lambda shapes, budget: min(64, budget // sum(a + b for a, b in shapes)),
            "The budget may pay for more than that: don't stop at a fixed rank.",
        ),
        (
            lambda shapes, budget: sum(a + b for a, b in shapes),
            "That is the price of one unit of rank. How many of them does the budget pay for?",
        ),
    ],
    praise="One unit of rank in q and v costs 3,072 numbers here, everywhere 13,824.",
)
