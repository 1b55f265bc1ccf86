"""Which trainings notebooks 10 to 12 compare: a plan for each part, and the kinds of LoRA in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from ..find import lora_parameters
from ..variants import LinearWithDoRA, LinearWithLoRAFA, LinearWithPiSSA, lora_plus
from .adapters import CONTENDERS, SEEDS

PARTS = ("rates", "family", "bits", "places", "tales", "matrices", "alpha", "batch", "mixing", "capacity")
RANKS = (1, 4, 16)
# Full fine-tuning, which has no rank, wants rates some ten times lower.
RATES = {**dict.fromkeys(RANKS, (0.001, 0.003, 0.01)), None: (0.0001, 0.0003, 0.001)}


def plain_adam(model):
    """Adam as the course uses it, ready for the parameters and a rate."""
    return partial(torch.optim.Adam, fused=True)


def _coarse_adam(model):
    """Adam, after each of whose steps A and B are rounded to numbers that bfloat16 has; all else stays as it is."""

    def adam(parameters, lr):
        optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
        optimizer.register_step_post_hook(lambda *_: round_to_bfloat16(model))
        return optimizer

    round_to_bfloat16(model)
    return adam


def round_to_bfloat16(model):
    """Round every A (in, rank) and B (rank, out) to the nearest number that bfloat16 can hold."""
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.copy_(parameter.bfloat16())


@dataclass(frozen=True)
class Kind:
    """One of the family: what ``replace_linear_with_lora`` is told, which Adam takes the steps, beside what it goes."""

    settings: dict = field(default_factory=dict)
    step: Callable = plain_adam
    four_bits: bool = False


KINDS = {
    "full": Kind(),
    "LoRA": Kind(),
    "rsLoRA": Kind({"scaling": "alpha/sqrt(r)"}),
    "LoRA+": Kind(step=lora_plus),
    "LoRA-FA": Kind({"layer": LinearWithLoRAFA}),
    "LoRA-FA, half": Kind({"layer": LinearWithLoRAFA}),
    "PiSSA": Kind({"layer": LinearWithPiSSA}),
    "DoRA": Kind({"layer": LinearWithDoRA}),
    "QLoRA": Kind(four_bits=True),
    "coarse LoRA": Kind(step=_coarse_adam),
}
# All of the race train some 221,000 numbers of the same matrices: rank 16, and 32 for LoRA-FA, which trains B alone;
# "half" is a control at its rank of 16. Where rates are missing, the part "rates" has them.
_RACE = {"LoRA": (16, (0.0003, 0.002, 0.03)), "full": (None, (0.003, 0.01))}
_RACE |= {"rsLoRA": (16, (0.0003, 0.001, 0.003, 0.01)), "LoRA+": (16, (0.0001, 0.0003, 0.001, 0.003, 0.01))}
_RACE |= {"LoRA-FA": (32, (0.0003, 0.001, 0.003, 0.01, 0.03)), "LoRA-FA, half": (16, (0.001, 0.003, 0.01, 0.03))}
_RACE |= {"PiSSA": (16, (0.0001, 0.0003, 0.001, 0.003, 0.01)), "DoRA": (16, (0.0003, 0.001, 0.003, 0.01))}
_BITS = {"QLoRA": (0.001, 0.003, 0.01), "coarse LoRA": (0.0001, 0.0003, 0.001, 0.003), "LoRA": (0.0001,)}


def contender(rank):
    """How LoRA of a rank, in all matrices of the blocks, is called here, and full fine-tuning (None)."""
    return f"r{rank}" if rank else "full"


def trainings(part):
    """The trainings of a part: ``{name: options of train}``."""
    both, slower = (16, None), {16: 1, None: 10}
    if part == "rates":
        grid = [(k, lr, seed) for seed in SEEDS for k in RATES for lr in RATES[k]]
        return {
            f"{contender(k)} {lr} seed {seed}": {"rank": k, "rate": lr, "seed": seed, "stages": 3}
            for k, lr, seed in grid
        }
    if part == "family":
        grid = [(kind, rank, lr, seed) for seed in SEEDS for kind, (rank, rates) in _RACE.items() for lr in rates]
        return {
            f"{kind} {lr} seed {seed}": {"rank": rank, "rate": lr, "seed": seed, "stages": 3, "kind": kind}
            for kind, rank, lr, seed in grid
        }
    if part == "bits":
        grid = [(kind, lr, seed) for seed in SEEDS for kind, rates in _BITS.items() for lr in rates]
        return {
            f"{kind} {lr} seed {seed}": {"rank": 16, "rate": lr, "seed": seed, "stages": 3, "kind": kind}
            for kind, lr, seed in grid
        }
    if part == "tales":
        return {f"{contender(k)} {lr}": {"rank": k, "rate": lr} for k in both for lr in RATES[k]}
    if part == "places":  # those of notebook 08's budget, from two more seeds than its search
        grid = [(place, k, lr, seed) for place, k in CONTENDERS[:4] for lr in RATES[1] for seed in (1, 2)]
        return {
            f"{place}-r{k} {lr} seed {seed}": {"rank": k, "rate": lr, "seed": seed, "place": place}
            for place, k, lr, seed in grid
        }
    if part == "matrices":
        return {f"full {lr}": {"rank": None, "rate": lr, "matrices": True} for lr in RATES[None]}
    if part == "alpha":  # a scale of 16 / r, as in the study of Thinking Machines, and not of 1
        grid = [(k, lr) for k in (1, 4) for lr in (0.0003, 0.001, 0.003, 0.01)]
        return {f"{contender(k)} {lr}": {"rank": k, "rate": lr, "alpha": 16} for k, lr in grid}
    if part == "batch":
        sizes = {4: (0.0003, 0.001, 0.003, 0.01), 64: (0.003, 0.01, 0.03)}
        grid = [(k, size, lr / slower[k]) for k in both for size, rates in sizes.items() for lr in rates]
        return {f"{contender(k)} {size} {lr:g}": {"rank": k, "rate": lr, "batch": size} for k, size, lr in grid}
    if part == "mixing":
        grid = [(k, lr, s) for k, lr in ((16, 0.003), (None, 0.0003), (None, 0.001)) for s in (0.0, 0.1, 0.3)]
        return {f"{contender(k)} {lr} {share}": {"rank": k, "rate": lr, "share": share} for k, lr, share in grid}
    if part == "capacity":
        rates = {1: (0.01, 0.003), 4: (0.01, 0.003), 16: (0.003, 0.001), None: (0.001, 0.0003)}
        grid = [(k, lr, 4000, 6400) for k in rates for lr in rates[k]]  # the first of each pair was no worse here
        grid += [(k, tried[0], letters, 6400) for letters in (1000, 16000) for k, tried in rates.items()]
        grid += [(1, 0.01, 4000, 25600), (16, 0.003, 16000, 25600)]  # four times as long: is it time that they lack?
        return {
            f"{contender(k)} {lr} {letters} {pieces}": {"rank": k, "rate": lr, "pieces": pieces, "letters": letters}
            for k, lr, letters, pieces in grid
        }
    raise ValueError(f"there is no part {part!r}")
