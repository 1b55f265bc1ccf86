"""The exercises of notebook 14."""

import torch

from ..budget import FOUR_BITS, LLAMA, memory_of_a_card, sent_by_a_card
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require, require_plan, require_whole_numbers

sent_by_lora = Guess("of what full fine-tuning sends, LoRA sends, in percent")
swap_or_gather = Guess("the faster one for 8 rows with 8 adapters", ["swapping", "one batch"])
after_dare = Guess("the loss on names, nine tenths dropped at random and the rest made larger")


def bytes_a_step(numbers, cards):
    return 2 * (cards - 1) * 4 * numbers / cards


bytes_a_step = Exercise(
    title="Round the ring",
    reference=bytes_a_step,
    cases=[(110592, 2), (110592, 4), (1000, 1), (12, 3), (1_843_968, 8)],
    hints=[
        "How many bytes has one of the parts, and how often does a card pass one on?",
        "A part has numbers / cards numbers of 4 bytes.",
        "2 * (cards - 1) * 4 * numbers / cards",
    ],
    misconceptions=[
        (
            lambda numbers, cards: 4 * numbers,
            "That is the size of the gradients. How often do they go round, and in parts of what size?",
        ),
        (
            lambda numbers, cards: (cards - 1) * 4 * numbers / cards,
            "That is the first time round, after which each card has one part of the sum. The parts go round a second time.",
        ),
        (
            lambda numbers, cards: 2 * (cards - 1) * 4 * numbers,
            "A card passes on one part at a time, numbers / cards of them, not all.",
        ),
        (
            lambda numbers, cards: (cards - 1) * 4 * numbers,
            "That is everything, sent to everybody. In the ring a card passes on one part at a time, twice round.",
        ),
        (lambda numbers, cards: 2 * (cards - 1) * numbers / cards, "That counts numbers; one in float32 has 4 bytes."),
        (
            lambda numbers, cards: 2 * 4 * numbers,
            "Each round has cards − 1 steps, not cards: what a card begins with it need not be sent.",
        ),
        (
            lambda numbers, cards: 2 * (cards - 1) * 4 * numbers / cards * cards,
            "That is all cards together. Asked for is what one of them sends.",
        ),
        (
            lambda numbers, cards: 2 * (cards + 1) * 4 * numbers / cards,
            "A part that has been passed on cards − 1 times has been everywhere.",
        ),
        (
            lambda numbers, cards: 2 * (cards - 1) * 8 * numbers / cards,
            "A number in float32 has 4 bytes, 32 bits.",
        ),
    ],
    praise="However many cards there are, each sends less than twice the gradients.",
)


def many(x, A, B, which):
    return x @ A[which] @ B[which]


_R = torch.Generator().manual_seed(0)
_X = torch.randn(4, 3, 6, generator=_R)
_A, _B = torch.randn(3, 6, 2, generator=_R), torch.randn(3, 2, 5, generator=_R)

many = Exercise(
    title="Every row another adapter",
    reference=many,
    cases=[
        (_X, _A, _B, torch.tensor([0, 2, 1, 2])),
        (_X, _A, _B, torch.tensor([1, 1, 1, 1])),
        (_X[:1], _A, _B, torch.tensor([2])),
    ],
    hints=[
        "A[which] takes for each row the A that it wants: (rows, in, rank). That is the gather.",
        "@ multiplies matrices, row by row, where the first dimensions agree: (rows, tokens, in) @ (rows, in, rank).",
        "x @ A[which] @ B[which]",
    ],
    misconceptions=[
        (lambda x, A, B, which: x @ A[which[0]] @ B[which[0]], "All rows get the first row's adapter."),
        (lambda x, A, B, which: x @ A[0] @ B[0], "All rows get adapter 0. Which one does each want?"),
        (
            lambda x, A, B, which: torch.stack([x[i] @ A[i % 3] @ B[i % 3] for i in range(len(x))]),
            "Row i gets adapter i. It wants adapter which[i].",
        ),
        (lambda x, A, B, which: x @ A[which] @ B[which.flip(0)], "A and B of a row must come from the same adapter."),
        (
            lambda x, A, B, which: x @ A.sum(0) @ B.sum(0),
            "That adds all adapters up, and each row wants one.",
        ),
        (
            lambda x, A, B, which: sum(x @ A[k] @ B[k] for k in range(len(A))),
            "Every row gets all adapters at once. It wants one.",
        ),
        (lambda x, A, B, which: x @ A[which], "That is x A. B is missing."),
        (
            lambda x, A, B, which: (x @ A[which] @ B[which]).mean(1),
            "A row has several tokens, and each keeps its own output: (rows, tokens, out).",
        ),
    ],
    praise="That is what engines for thousands of adapters do, with a program of their own for the card.",
)


def elected(first, second):
    total = first + second
    both = torch.stack([first, second])
    agree = (both.sign() == total.sign()) & (both != 0)
    return (both * agree).sum(0) / agree.sum(0).clamp(min=1)


_FIRST = torch.tensor([[3.0, -2.0, 0.0, 1.0], [0.5, 0.0, -4.0, 2.0]])
_SECOND = torch.tensor([[1.0, 5.0, 2.0, -1.0], [-3.0, 0.0, -2.0, 0.0]])

elected = Exercise(
    title="A vote at each place",
    reference=elected,
    cases=[(_FIRST, _SECOND), (_SECOND, _FIRST), (_FIRST, _FIRST), (_FIRST, torch.zeros(2, 4))],
    hints=[
        "At each place look at the sum: its sign is what is elected. Who has the other sign, or nothing to say, is left out.",
        "both = torch.stack([first, second]) and agree = (both.sign() == (first + second).sign()) & (both != 0).",
        "(both * agree).sum(0) / agree.sum(0).clamp(min=1): the mean of those that agree, and 0 where nobody does.",
    ],
    misconceptions=[
        (lambda first, second: first + second, "That is the sum. TIES takes the mean of those that agree."),
        (
            lambda first, second: (first + second) / 2,
            "That is the mean of both, also where one of them disagrees or is zero.",
        ),
        (
            lambda first, second: torch.where(first.sign() == second.sign(), (first + second) / 2, 0.0),
            "Where they disagree the larger one wins, and where one is zero the other one counts alone.",
        ),
        (
            lambda first, second: torch.where(first.abs() >= second.abs(), first, second),
            "That takes the larger one everywhere. Where both agree, it is their mean.",
        ),
        (
            lambda first, second: torch.where(first.sign() == (first + second).sign(), first, 0.0),
            "Only first may vote here. second has a voice, too.",
        ),
        (
            lambda first, second: (
                torch.stack([first, second]) * (torch.stack([first, second]).sign() == (first + second).sign())
            ).sum(0),
            "Those that agree are added up. TIES takes their mean: divide by how many they are.",
        ),
        (
            lambda first, second: (
                (torch.stack([first, second]) * (torch.stack([first, second]).sign() == (first + second).sign())).sum(0)
                / 2
            ),
            "Divided by two everywhere. Where one is left out, the other one counts in full.",
        ),
    ],
    praise="The one that disagrees is not averaged away: it is left out.",
)


def plan():
    return {"cards": 4, "engine": "ddp", "weight_bits": FOUR_BITS, "pieces": 4}


ASKED = {"cards", "engine", "weight_bits", "pieces"}
ROOM, WIRE = 72, 100  # GiB on a card for a step, GB that a card may send in it


def _is_a_plan(given):
    require_plan(given, ASKED)
    require(given["engine"] in ("ddp", "fsdp"), f"engine is 'ddp' or 'fsdp', not {given['engine']!r}.")
    require_whole_numbers(given, ("cards", "pieces"))
    bits = given["weight_bits"]
    require(bits in (FOUR_BITS, 16), f"weight_bits is 16 or FOUR_BITS here, not {bits!r}.")


def _has_enough(given):
    require(given["cards"] <= 4, f"There are 4 cards, and the plan takes {given['cards']}.")
    tokens = given["cards"] * given["pieces"] * 2048
    require(
        tokens >= 32768,
        f"{given['cards']} × {given['pieces']} pieces of 2,048 are {tokens:,} tokens a step; asked for are 32,768.",
    )


def _fits(given):
    options = {"weight_bits": given["weight_bits"], "checkpointing": True}
    cards = given["cards"], given["engine"]
    parts = memory_of_a_card(LLAMA["70B"], 16, *cards, given["pieces"], 2048, **options)
    needed = sum(parts.values()) / 2**30
    largest = max(parts, key=parts.get)
    tokens = given["cards"] * given["pieces"] * 2048
    require(
        needed <= ROOM,
        f"A card would need {needed:.0f} GiB, most of it for the {largest}, with {given['pieces']} pieces on each card, "
        f"{tokens:,} tokens a step.",
    )
    sent = sent_by_a_card(LLAMA["70B"], 16, *cards, weight_bits=given["weight_bits"]) / 1e9
    require(sent <= WIRE, f"Each card would send {sent:.0f} GB a step.")
    return f"{needed:.0f} GiB on each card, and each sends {sent:.1f} GB a step."


def _plan(**changes):
    return lambda: plan.reference() | changes


plan = Task(
    title="Seventy billion on four cards",
    reference=plan,
    run=True,
    stages={
        "a plan that says all four": _is_a_plan,
        "at most 4 cards, at least 32,768 tokens a step": _has_enough,
        f"at most {ROOM} GiB on a card, and {WIRE} GB sent": _fits,
    },
    hints=[
        "In 16 bits the weights are 128 GiB. A copy of that fits on no card of 80 GB: share them, or keep them in four bits.",
        "4 cards with 4 pieces of 2,048 tokens each are 32,768 tokens.",
        "What is shared is sent round in every step. sent_by_a_card says how much; in four bits it is a quarter.",
        '{"cards": 4, "engine": "ddp", "weight_bits": FOUR_BITS, "pieces": 4}',
    ],
    misconceptions=[
        (_plan(weight_bits=16), "A card would need"),
        (_plan(cards=1, pieces=16), "A card would need"),
        (_plan(weight_bits=16, engine="fsdp"), "Each card would send 208 GB a step."),
        (_plan(pieces=1), "4 × 1 pieces of 2,048 are 8,192 tokens a step; asked for are 32,768."),
        (_plan(cards=64), "There are 4 cards, and the plan takes 64."),
        (_plan(weight_bits=4), "weight_bits is 16 or FOUR_BITS here, not 4."),
        (_plan(engine="zero"), "engine is 'ddp' or 'fsdp', not 'zero'."),
        (_plan(pieces=4.0), "pieces=4.0 is not a whole number from 1 up."),
        (_plan(rank=16), "The plan has rank, which is not asked for."),
        (lambda: {"cards": 8, "engine": "fsdp"}, "The plan does not say pieces, weight_bits."),
        (lambda: (8, "fsdp", 16, 4), "Return a dictionary; this is of type tuple."),
    ],
    praise="Copies send LoRA's gradients alone; shards send all weights, and leave more room. With four bits both will do.",
)
