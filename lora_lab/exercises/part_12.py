"""The exercises of notebook 12."""

from numbers import Real

import torch

from ..budget import FOUR_BITS, LLAMA, step_memory
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require, require_plan, require_whole_numbers

steps_lost = Guess("of A's numbers do not move in a step at 0.0001, in percent")
prose_after = Guess("the loss on prose in four bits")
small_update = Guess("of a tenth of the update is left, rounded again", ["most", "half", "hardly any"])
whole_model = Guess("GiB for a step of full fine-tuning, 7 billion numbers")


def bits_per_weight(block, group):
    return 4 + 8 / block + 32 / (block * group)


bits_per_weight = Exercise(
    title="Count the bits",
    reference=bits_per_weight,
    cases=[(64, 256), (32, 256), (64, 1), (128, 64), (4096, 16), (2, 2)],
    hints=[
        "Take one block of `block` weights, and count everything that is kept for it. Then divide by the number of weights.",
        "A block has 4 bits for each weight and 8 for its scale. The 32 bits are shared by `group` blocks.",
        "4 + 8 / block + 32 / (block * group)",
    ],
    misconceptions=[
        (
            lambda block, group: 4 + 32 / block,
            "That is with a scale of 32 bits for each block. Here it has 8, and 32 are shared by a group.",
        ),
        (lambda block, group: 4 + 8 / block, "The scales' own scale is missing: 32 bits for each group of blocks."),
        (
            lambda block, group: 4 + 8 / block + 32 / group,
            "A group has `group` blocks, each of `block` weights: the 32 bits are shared by all of those.",
        ),
        (lambda block, group: 4 + 8 / block + 32, "The 32 bits are for a whole group of blocks, not for each weight."),
        (lambda block, group: 4 + 8 + 32 / (block * group), "The 8 bits are for a whole block, not for each weight."),
        (lambda block, group: 4 + 8 / block + 32 / block, "The 32 bits are for a group of blocks, not for each block."),
        (
            lambda block, group: 4 + (8 + 32) / (block * group),
            "The 8 bits are for each block; only the 32 are for a group.",
        ),
        (
            lambda block, group: 4 * block + 8 + 32 / group,
            "That is a whole block. Asked for are the bits of one weight: divide by block.",
        ),
        (lambda block, group: 0.5 + 1 / block + 4 / (block * group), "Those are bytes; bits are asked for."),
        (
            lambda block, group: 16 + 8 / block + 32 / (block * group),
            "Sixteen levels are told apart by 4 bits, since 2⁴ = 16.",
        ),
        (
            lambda block, group: 4 + 8 // block + 32 // (block * group),
            "// drops what is behind the point, which is all there is. Divide with /.",
        ),
        (
            lambda block, group: 4 + 8 * block + 32 * block * group,
            "Larger blocks share their scale among more weights: divide by block, don't multiply.",
        ),
        (lambda block, group: 4, "That is without the scales."),
    ],
    praise="At QLoRA's 64 and 256: 4.127.",
)


def pack(places):
    return places[0::2] * 16 + places[1::2]


def unpack(packed):
    return torch.stack([packed // 16, packed % 16], dim=1).flatten()


def _packs(pack, unpack):
    places = torch.tensor([0, 15, 7, 1, 15, 15, 3, 8], dtype=torch.uint8)
    given = places.clone()
    kept = pack(given)
    require(torch.equal(given, places), "pack has changed the places that it was given. Make a new tensor.")
    require(isinstance(kept, torch.Tensor), f"pack returns something of type {type(kept).__name__}, not a tensor.")
    require(kept.dtype == torch.uint8, f"pack returns numbers of type {kept.dtype}; a byte is torch.uint8.")
    require(kept.dim() == 1, f"pack returns the shape {tuple(kept.shape)}. One dimension: (n / 2,).")
    require(
        kept.numel() == 4,
        f"Of 8 places pack makes {kept.numel()} bytes. Two places share a byte: 4 are asked for.",
    )


def _comes_back(pack, unpack):
    for places in (torch.arange(16, dtype=torch.uint8), torch.randint(16, (200,)).to(torch.uint8)):
        kept = pack(places.clone())
        pack(torch.zeros(2, dtype=torch.uint8))  # whatever it keeps elsewhere is gone now
        back = unpack(kept)
        require(
            isinstance(back, torch.Tensor), f"unpack returns something of type {type(back).__name__}, not a tensor."
        )
        require(
            back.shape == places.shape,
            f"From {len(places)} places come back {tuple(back.shape)}. One dimension, as before: (n,).",
        )
        if sorted(back.tolist()) == sorted(places.tolist()) and not torch.equal(back.long(), places.long()):
            require(False, "The places come back in another order: which of the two is the high half of the byte?")
        require(not back.is_floating_point(), f"unpack gives numbers of type {back.dtype}: divide with //, not with /.")
        wrong = (back.long() != places.long()).nonzero().flatten().tolist()
        if wrong:
            was, now = places[wrong[0]].item(), back[wrong[0]].item()
            require(
                False,
                f"The places do not come back as they were: number {wrong[0]} goes in as {was}, and out comes {now}.",
            )


def _every_pair(pack, unpack):
    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).to(torch.uint8)
    for pair in pairs:
        back = unpack(pack(pair.clone())).long()
        require(torch.equal(back, pair.long()), f"The pair {pair.tolist()} comes back as {back.tolist()}.")
    return "All 256 pairs come back."


pack_and_unpack = Task(
    title="Two in a byte",
    reference=(pack, unpack),
    stages={
        "pack makes half as many bytes": _packs,
        "unpack gives all places back, in order": _comes_back,
        "for every pair": _every_pair,
    },
    hints=[
        "A byte holds 256 different numbers, and there are 16 × 16 pairs. Of two digits of ours one makes a number: 4 and 2 are 4 · 10 + 2.",
        "The first of a pair times 16, plus the second. places[0::2] are all firsts, places[1::2] all seconds.",
        "Back: packed // 16 is the first, packed % 16 the second. torch.stack([first, second], dim=1).flatten() puts them in order.",
    ],
    misconceptions=[
        ((lambda places: places, lambda packed: packed), "Of 8 places pack makes 8 bytes."),
        ((lambda places: places[0::2], unpack), "The places do not come back as they were:"),
        ((lambda places: places[0::2] + places[1::2], unpack), "The places do not come back as they were:"),
        (
            (
                lambda places: places[0::2] * 15 + places[1::2],
                lambda packed: torch.stack([packed // 15, packed % 15], dim=1).flatten(),
            ),
            "The places do not come back as they were:",
        ),
        (
            (lambda places: places[0::2].long() * 16 + places[1::2], unpack),
            "pack returns numbers of type torch.int64; a byte is torch.uint8.",
        ),
        (
            (pack, lambda packed: torch.stack([packed % 16, packed // 16], dim=1).flatten()),
            "The places come back in another order",
        ),
        ((pack, lambda packed: torch.cat([packed // 16, packed % 16])), "The places come back in another order"),
        (
            (pack, lambda packed: torch.stack([packed // 16, packed % 16]).flatten()),
            "The places come back in another order",
        ),
        ((pack, lambda packed: torch.stack([packed // 16, packed % 16], dim=1)), "From 16 places come back (8, 2)."),
        ((pack, lambda packed: packed // 16), "From 16 places come back (8,)."),
        ((pack, lambda packed: packed.tolist()), "unpack returns something of type list, not a tensor."),
        (
            (pack, lambda packed: torch.stack([packed / 16, packed % 16], dim=1).flatten()),
            "unpack gives numbers of type torch.float32: divide with //, not with /.",
        ),
        ((lambda places: pack(places).view(-1, 1), unpack), "pack returns the shape (4, 1). One dimension: (n / 2,)."),
        (
            (lambda places: places[0::2].mul_(16) + places[1::2], unpack),
            "pack has changed the places that it was given. Make a new tensor.",
        ),
        ((lambda places: places.tolist(), unpack), "pack returns something of type list, not a tensor."),
    ],
    praise="That is all that packing is. The rest of a four-bit layer is a table of sixteen numbers and a scale.",
)


def plan():
    return {"weight_bits": FOUR_BITS, "rank": 16, "pieces": 4, "length": 1024, "checkpointing": True}


ASKED = {"weight_bits", "rank", "pieces", "length", "checkpointing"}


def _is_a_plan(given):
    require_plan(given, ASKED)
    require(str(given["checkpointing"]) in ("True", "False"), "checkpointing is True or False.")
    require_whole_numbers(given, ("rank", "pieces", "length"))
    bits = given["weight_bits"]
    require(
        isinstance(bits, Real) and any(abs(bits - kind) < 0.01 for kind in (FOUR_BITS, 8, 16, 32)),
        f"There is no format of {bits!r} bits here: 32, 16, 8, or FOUR_BITS = {FOUR_BITS:.3f}, scales included.",
    )


def _learns_enough(given):
    tokens = given["pieces"] * given["length"]
    require(given["rank"] >= 16, f"Rank {given['rank']} is less than the 16 that are asked for.")
    require(
        tokens >= 4096,
        f"{given['pieces']} pieces of {given['length']} are {tokens:,} tokens a step; asked for are 4,096.",
    )
    require(given["length"] >= 1024, f"Pieces of {given['length']} tokens are too short: 1,024 at least.")


def _fits(given):
    parts = {part: size / 2**30 for part, size in step_memory(LLAMA["13B"], **given).items()}
    lora = parts["gradients"]
    parts = {
        "base": parts["weights"] - lora,
        "adapter with all that it needs": 4 * lora,
        "activations": parts["activations"],
    }
    said = ", ".join(f"{part} {size:.1f}" for part, size in parts.items())
    together, largest = sum(parts.values()), max(parts, key=parts.get)
    require(together <= 20, f"Too much is taken by the {largest}: together {together:.1f} GiB ({said}).")
    return f"{together:.1f} GiB: {said}."


def _plan(**changes):
    return lambda: plan.reference() | changes


plan = Task(
    title="Thirteen billion on one card",
    reference=plan,
    run=True,
    stages={
        "a plan that says all five": _is_a_plan,
        "rank 16, pieces of 1,024 tokens, 4,096 tokens a step": _learns_enough,
        "at most 20 GiB": _fits,
    },
    hints=[
        "Print step_memory(LLAMA['13B'], …) in GiB for a first plan. Which of the four parts is too large?",
        "In 16 bits the weights alone take 24 GiB. And without checkpointing each block keeps everything it has computed.",
        '{"weight_bits": FOUR_BITS, "rank": 16, "pieces": 4, "length": 1024, "checkpointing": True}',
    ],
    misconceptions=[
        (_plan(weight_bits=16), "Too much is taken by the base:"),
        (_plan(weight_bits=32), "Too much is taken by the base:"),
        (_plan(checkpointing=False), "Too much is taken by the activations:"),
        (_plan(rank=4), "Rank 4 is less than the 16 that are asked for."),
        (_plan(pieces=1), "1 pieces of 1024 are 1,024 tokens a step; asked for are 4,096."),
        (_plan(pieces=32, length=128), "Pieces of 128 tokens are too short: 1,024 at least."),
        (_plan(weight_bits=4), "There is no format of 4 bits here"),
        (_plan(weight_bits=0.5), "There is no format of 0.5 bits here"),
        (_plan(pieces=4.0), "pieces=4.0 is not a whole number from 1 up."),
        (_plan(rank=1024), "Too much is taken by the adapter with all that it needs:"),
        (_plan(weight_bits="nf4"), "There is no format of 'nf4' bits here"),
        (lambda: {"weight_bits": FOUR_BITS, "rank": 16}, "The plan does not say checkpointing, length, pieces."),
        (lambda: (FOUR_BITS, 16, 4, 1024, True), "Return a dictionary; this is of type tuple."),
        (_plan(lr=0.0003), "The plan has lr, which is not asked for."),
        (_plan(checkpointing="yes"), "checkpointing is True or False."),
    ],
    praise="On a card of 24 GB that leaves room for the driver and for what a library copies on the way.",
)
