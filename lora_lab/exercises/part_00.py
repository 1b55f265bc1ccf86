"""The exercises of notebook 00."""

from ..material.data import create_planted_task
from .engine import Exercise
from .guesses import Guess

trained_numbers = Guess("numbers that are trained")


def lora_parameters(in_features, out_features, rank):
    return rank * (in_features + out_features)


lora_parameters = Exercise(
    title="Count what a LoRA trains",
    reference=lora_parameters,
    cases=[(64, 10, 4), (768, 768, 8), (10, 300, 1), (5, 7, 3)],
    hints=[
        "A has one number for each pair of an input and a direction. How many directions are there?",
        "A is in_features × rank and B is rank × out_features. Count both.",
        "in_features · rank + rank · out_features, which is rank · (in_features + out_features).",
    ],
    misconceptions=[
        (
            lambda m, n, r: m * n,
            "That is the size of the frozen W. Training touches only A and B, which are far thinner.",
        ),
        (lambda m, n, r: m * r, "That is A alone. B learns too, and has rank × out_features numbers."),
        (lambda m, n, r: r * n, "That is B alone. A learns too, and has in_features × rank numbers."),
        (
            lambda m, n, r: m * r * r * n,
            "The sizes of A and B add up: they are two matrices beside each other in memory.",
        ),
        (
            lambda m, n, r: r * m * n,
            "A and B are never multiplied out into rank matrices of full size; count the two as they are.",
        ),
        (
            lambda m, n, r: m * n + r * (m + n),
            "That counts W as well. W is frozen: it is there, but it is not trained.",
        ),
        (
            lambda m, n, r: r * m + n,
            "Rank multiplies both sides. Are the parentheses missing in rank * (in_features + out_features)?",
        ),
        (lambda m, n, r: 4 * (m + n), "4 is one layer's rank. The function gets the rank as an argument: use it."),
        (lambda m, n, r: 192, "192 is the number for the layer above. The function has to work for any layer."),
        (lambda m, n, r: r * (m + n) + n, "That counts the bias as well. The bias is frozen together with W."),
    ],
    praise="Rank × (in + out). It grows with the sum of the sides where W grows with their product.",
)


def mystery_task():
    """A task of 32 → 32 whose planted rank is for the learner to find."""
    return create_planted_task(256, in_features=32, out_features=32, rank=5, noise=0.1, seed=3)


rank_of_the_task = Exercise(
    title="Find the rank of the task",
    reference=5,
    hints=[
        "Leave alpha and the learning rate where they are and move the rank alone.",
        "Watch the loss after 100 steps: from which rank on does it stop getting better?",
        "At ranks 3 and 4 the curve stays far above the dashed line. At the next rank it reaches it.",
    ],
    misconceptions=[
        (1, "At rank 1 the curve flattens far above the dashed line: one direction is learned, the others are not."),
        (2, "At rank 2 the curve still flattens far above the dashed line. Some directions are missing."),
        (3, "3 was the rank of the task before. This one is new: at rank 3 the curve stays above the dashed line."),
        (4, "Close: at rank 4 the curve still flattens above the dashed line. One direction is missing."),
        *(
            (rank, "That rank reaches the line, but a smaller one does as well. Which is the smallest?")
            for rank in range(6, 33)
        ),
    ],
    praise="The change was planted with rank 5, and a LoRA of rank 5 is the smallest that can make it.",
)
