"""The exercises of notebook 00."""

from .engine import Exercise


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
        (lambda m, n, r: r * (m + n) + n, "That counts the bias as well. The bias is frozen together with W."),
    ],
    praise="Correct: rank × (in + out). It grows with the sum of the sides where W grows with their product.",
)

rank_of_the_task = Exercise(
    title="Find the rank of the task",
    reference=3,
    hints=[
        "Leave alpha and the learning rate where they are and move the rank alone.",
        "Watch the loss after 100 steps: from which rank on does it stop getting better?",
        "At ranks 1 and 2 the curve stays far above the dashed line. At the next rank it reaches it.",
    ],
    misconceptions=[
        (1, "At rank 1 the curve flattens far above the dashed line: one direction is learned, the others are not."),
        (2, "At rank 2 the curve still flattens above the dashed line. One direction is missing."),
        (4, "Rank 4 reaches the line, but a smaller one does as well. Which is the smallest?"),
        (12, "A large rank reaches the line, too. The question is how little is enough."),
        (32, "32 is the size of the matrix: with that rank LoRA could make any change. Far less is enough here."),
    ],
    praise="Correct: the change was planted with rank 3, and a LoRA of rank 3 is the smallest that can make it.",
)
