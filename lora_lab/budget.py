"""How much memory a training takes, by formula: for models that are too large to measure here.

``memory_ledger`` measures the same four parts on a model that fits. The formula counts what torch keeps in any case;
what it leaves out is named in ``step_memory``.
"""

from dataclasses import dataclass

from .checks import positive_number, whole_number

# What a weight takes in four bits: NF4 in blocks of 64, a byte for a block's scale, 4 more for 256 scales.
FOUR_BITS = 4 + 8 / 64 + 32 / (64 * 256)
LORA_BITS = 32  # of A and B, their gradients and Adam's two means


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer: as many blocks as ``depth``, keys and values ``keys`` wide, a ``hidden`` MLP layer.

    A ``gated`` MLP has three matrices and root-mean-square norms without a bias, as Llama has; else it is TinyGPT's,
    with biases and learned places for ``context`` characters.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    vocabulary: int
    keys: int
    gated: bool = True
    context: int = 0

    def matrices(self):
        """(in, out) of every linear layer in a block."""
        attention = [(self.width, self.width), *[(self.width, self.keys)] * 2, (self.width, self.width)]
        up = [(self.width, self.hidden)] * (1 + self.gated)
        return [*attention, *up, (self.hidden, self.width)]

    def in_blocks(self):
        """How many numbers the linear layers of all blocks have."""
        return self.depth * sum(m * n for m, n in self.matrices())

    def elsewhere(self):
        """How many numbers the embeddings, the head, norms and biases have."""
        return self.outside() + self.small_in_blocks()

    def outside(self):
        """How many numbers lie outside all blocks: embeddings, head and the last norm."""
        last_norm = self.width * (1 if self.gated else 2)
        return (2 * self.vocabulary + self.context) * self.width + last_norm

    def small_in_blocks(self):
        """How many numbers the norms and biases of all blocks have."""
        norms = 2 * self.width * (1 if self.gated else 2)
        return self.depth * (norms + (0 if self.gated else self.hidden + self.width))

    def of_lora(self, rank):
        """How many numbers LoRA of a rank has in all linear layers of the blocks."""
        return self.depth * rank * sum(m + n for m, n in self.matrices())

    def kept(self, rank):
        """How many numbers a block keeps of each token for the backward pass, with LoRA of a rank in all its layers.

        What goes into the norms and comes out, queries, keys, values and what was gathered, what goes into the MLP's
        nonlinearity and comes out, x A of every layer, and what the norms and the attention divide by.
        """
        mlp = (4 if self.gated else 2) * self.hidden
        statistics = self.heads + (2 if self.gated else 4)
        return 6 * self.width + 2 * self.keys + mlp + rank * len(self.matrices()) + statistics


TINY_GPT = Shape(192, 4, 6, 768, 96, keys=192, gated=False, context=256)
# As in the configurations that were published with the models.
LLAMA = {
    "7B": Shape(4096, 32, 32, 11008, 32000, keys=4096),
    "13B": Shape(5120, 40, 40, 13824, 32000, keys=5120),
    "70B": Shape(8192, 80, 64, 28672, 32000, keys=1024),
}


def step_memory(shape, rank, pieces, length, *, weight_bits=16, other_bits=16, checkpointing=False):
    """Bytes for one step of Adam with LoRA in all layers of the blocks: ``{"weights": …, "activations": …}``.

    The batch is ``pieces`` of ``length`` tokens. Weights of the blocks are kept in ``weight_bits``, A and B, their
    gradients and Adam's two means in 32 bits, all else in ``other_bits``. With ``checkpointing`` each block keeps its
    input alone and computes the rest again. Not counted: what the driver takes, a weight while it is unpacked, and what
    a library copies on the way.
    """
    tokens = whole_number("pieces", pieces) * whole_number("length", length)
    for name, bits in (("weight_bits", weight_bits), ("other_bits", other_bits)):
        positive_number(name, bits, "try 16")
    lora = shape.of_lora(whole_number("rank", rank)) * LORA_BITS / 8
    block = shape.kept(rank)
    kept = shape.depth * shape.width + block if checkpointing else shape.depth * block
    weights = shape.in_blocks() * weight_bits / 8 + shape.elsewhere() * other_bits / 8
    return {
        "weights": weights + lora,
        "gradients": lora,
        "optimizer": 2 * lora,
        "activations": tokens * (kept + shape.vocabulary) * other_bits / 8,
    }


def memory_of_a_card(shape, rank, cards, engine, pieces, length, *, weight_bits=16, other_bits=16, checkpointing=False):
    """Bytes on each of several cards for a step of ``pieces`` a card, as ``step_memory`` has them and by its settings.

    With the engine "ddp" each card has a copy of everything, with "fsdp" a shard of everything but its activations, and
    "gathered" beside them, whole: the block at work, the next one, which is fetched meanwhile, and what lies outside.
    """
    cards = whole_number("cards", cards)
    bits = {"weight_bits": weight_bits, "other_bits": other_bits}
    parts = step_memory(shape, rank, pieces, length, **bits, checkpointing=checkpointing)
    if _is_sharded(engine):
        shards = {part: size / cards for part, size in parts.items() if part != "activations"}
        block = (shape.in_blocks() * weight_bits + shape.of_lora(rank) * LORA_BITS) / shape.depth
        parts |= shards | {"gathered": (2 * block + shape.outside() * other_bits) / 8}
    return parts


def sent_by_a_card(shape, rank, cards, engine, *, weight_bits=16, other_bits=16):
    """Bytes that each of several cards in a ring sends to the next in one step of LoRA in all layers of the blocks.

    With "ddp" LoRA's gradients are summed: they go round twice. With "fsdp" all weights go round once on the way
    forward, those of the blocks once more on the way back, and LoRA's gradients once. A rank of None is full
    fine-tuning, whose gradients are all of them.
    """
    ring = 1 - 1 / whole_number("cards", cards)
    lora = 0 if rank is None else shape.of_lora(whole_number("rank", rank)) * LORA_BITS / 8
    blocks = shape.in_blocks() * weight_bits / 8 + shape.small_in_blocks() * other_bits / 8 + lora
    outside = shape.outside() * other_bits / 8
    gradients = blocks + outside if rank is None else lora
    return ring * (2 * blocks + outside + gradients if _is_sharded(engine) else 2 * gradients)


def _is_sharded(engine):
    if engine not in ("ddp", "fsdp"):
        raise ValueError(f"engine={engine!r} is unknown; choose 'ddp' for copies or 'fsdp' for shards")
    return engine == "fsdp"
