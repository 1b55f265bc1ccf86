"""A text file as pieces of tokens: the first nine tenths to learn from, the last tenth held out."""

from dataclasses import dataclass

import torch

from ..material.models import ALPHABET
from ..material.texts import own_text, read_text

MOST_HELD_OUT = 64  # pieces: enough for a loss to two digits, and measured again and again


@dataclass(frozen=True)
class Pieces:
    """A text's tokens (n,) to draw pieces from, and pieces that are held out, (m, length)."""

    tokens: torch.Tensor
    held_out: torch.Tensor
    length: int

    def batch(self, step, size, seed=0):
        """The pieces of a step, (size, length), from places drawn by the step: the same whoever asks, and when."""
        places = torch.Generator().manual_seed(1_000_003 * seed + step)
        starts = torch.randint(len(self.tokens) - self.length + 1, (size, 1), generator=places)
        return self.tokens[starts + torch.arange(self.length)]


def read_pieces(path, tokenizer, length):
    """The text of a file as Pieces; an error says what is wrong with the file, or that it is too short."""
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{str(path)!r} is empty; there is nothing to learn from")
    if set(tokenizer.get_vocab()) == set(ALPHABET):  # TinyGPT's: what it does not know it would leave out unsaid
        text = own_text(text, shortest=1, longest=len(text))
    tokens = torch.tensor(tokenizer(text, verbose=False).input_ids, dtype=torch.long)
    if not len(tokens):
        raise ValueError("the model's folder has no tokenizer: nothing of the text became a token")
    least = 10 * length
    if len(tokens) < least:
        raise ValueError(
            f"{str(path)!r} has {len(tokens):,} tokens, and at least {least:,} are needed, ten pieces of {length}; "
            "give a longer text, or shorter pieces with --length"
        )
    kept = max(length, len(tokens) // 10)
    held_out = tokens[-kept:][: kept // length * length].view(-1, length)
    return Pieces(tokens[:-kept], held_out[:MOST_HELD_OUT], length)
