"""The models of the course, small enough to read and to train on a laptop, with the weights that ship with them."""

import math
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from ..checks import positive_number, whole_number

WEIGHTS = Path(__file__).parent / "weights"
ADAPTERS = ("code", "names", "tales")
STUDY = WEIGHTS / "study"  # adapters to compare with one another
# What TinyGPT reads and writes: the newline and printable ASCII. A character's number is its place here.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
NUMBERS = {character: number for number, character in enumerate(ALPHABET)}


class _Shipped(nn.Module):
    """A model whose trained weights come with the package."""

    @classmethod
    def pretrained(cls):
        """The model with the weights that ``lora_lab.material.pretrain`` made, ready to use. Nothing is downloaded."""
        model = cls()
        model.load_state_dict(safetensors.torch.load_file(cls.weights_file()))  # half precision becomes float32
        return model.eval()

    @classmethod
    def weights_file(cls):
        """Where the shipped weights lie."""
        return WEIGHTS / f"{cls.__name__}.safetensors"


class DigitClassifier(_Shipped):
    """Three linear layers that name a handwritten digit: 64 pixels → 256 → 256 → 10 classes, (n, 64) → (n, 10)."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 256)
        self.fc2 = nn.Linear(256, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        """(n, 64) → (n, 10)."""
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


class TinyGPT(_Shipped):
    """A GPT of 1.9 million parameters that reads and writes characters: (n, length) → (n, length, 96).

    At each place its 96 outputs say which character may come next. ``context`` is the longest text it can look back on.
    """

    def __init__(self, width=192, depth=4, heads=6, context=256, dropout=0.0):
        super().__init__()
        self.context = context
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.places = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET), bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Each block adds twice to the stream; the smaller start keeps the sum of all blocks in bounds.
                last = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if last else 0.02)

    def forward(self, tokens, memories=None):
        """(n, length) whole numbers → (n, length, 96).

        With ``memories``, a list for each block that starts out empty, one more token a call goes on from all before.
        """
        start = memories[0][0].shape[2] if memories and memories[0] else 0
        end = start + tokens.shape[1]
        if end > self.context:
            raise ValueError(
                f"a text of {end} characters is longer than the {self.context} that this model can look "
                f"back on; cut it, as windows(text, length={self.context}) does"
            )
        x = self.dropout(self.characters(tokens) + self.places.weight[start:end])
        for i, block in enumerate(self.blocks):
            x = block(x, memories and memories[i])
        return self.head(self.norm(x))

    @torch.no_grad()
    def write(self, prompt, length=200, temperature=0.7, seed=0):
        """Go on from ``prompt`` by ``length`` characters and return both. A low temperature keeps to the likeliest."""
        if not prompt:
            raise ValueError("the prompt is empty; give at least one character to go on from, if only a newline")
        positive_number("temperature", temperature, "try 0.7, or 0.01 for no surprises")
        random = torch.Generator().manual_seed(seed)
        tokens = new = encode(prompt)
        memories = [[] for _ in self.blocks]
        for _ in range(length):
            if len(tokens) > self.context:
                # Each place of the window is now another one than before, so that nothing remembered holds.
                new, memories = tokens[-self.context :], None
            logits = self(new[None].to(self.head.weight.device), memories)[0, -1].cpu()
            if not logits.isfinite().all():
                raise ValueError("the model's outputs are NaN or infinite: its training diverged; start anew, lower lr")
            new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=random)
            tokens = torch.cat([tokens, new])
        return decode(tokens)


class Block(nn.Module):
    """One layer of a transformer: attend, then think. Each adds to the stream x, (n, length, width)."""

    def __init__(self, width, heads, dropout=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory=None):
        """(n, length, width) → the same. ``memory`` is the attention's."""
        x = x + self.dropout(self.attention(self.norm1(x), memory))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Attention(nn.Module):
    """Each place gathers from the places before it what its query asks for: (n, length, width) → the same."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x, memory=None):
        """(n, length, width) → the same.

        A list ``memory`` keeps the keys and values of all places so far: they need not be made anew for each character.
        """
        n, length, width = x.shape
        q, k, v = (project(x).view(n, length, self.heads, -1).transpose(1, 2) for project in (self.q, self.k, self.v))
        if memory:
            k, v = torch.cat([memory[0], k], 2), torch.cat([memory[1], v], 2)
        if memory is not None:
            memory[:] = k, v
        # A single new place looks back on all that there are; of several, each on those before it.
        gathered = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        return self.o(gathered.transpose(1, 2).reshape(n, length, width))


def shipped_adapter(name):
    """The folder of one of the adapters that come with TinyGPT: "code", "names" or "tales"."""
    if name not in ADAPTERS:
        raise ValueError(f"there is no adapter {name!r}; choose one of {', '.join(map(repr, ADAPTERS))}")
    return WEIGHTS / "adapters" / name


def encode(text):
    """Text as the numbers that TinyGPT reads: a tensor of shape (length,)."""
    foreign = sorted(set(text) - set(ALPHABET))
    if foreign:
        raise ValueError(
            f"TinyGPT knows newlines and printable ASCII only, and this text has {foreign[0]!r}"
            + f" and {len(foreign) - 1} other{'s' * (len(foreign) > 2)}" * (len(foreign) > 1)
            + "; clean it with own_text(text)"
        )
    return torch.tensor([NUMBERS[character] for character in text], dtype=torch.long)


def decode(tokens):
    """The text that numbers of shape (length,) stand for."""
    return "".join(ALPHABET[token] for token in tokens.tolist())


def windows(text, length=128, n=None, seed=0):
    """Pieces of a text to learn from: X (n, length), and y (n, length), which is one character further on.

    ``n`` of them, from places drawn by ``seed``, or with None the whole text piece after piece, less a rest too short.
    """
    length = whole_number("length", length)
    n = None if n is None else whole_number("n", n)
    if not isinstance(text, str):
        raise TypeError(f"the text is a {type(text).__name__}, not a string; split_by_file joins a dictionary of texts")
    tokens = encode(text)
    if len(tokens) <= length:
        raise ValueError(f"the text has {len(tokens)} characters, but one piece takes {length} + 1; give a longer text")
    if n is None:
        starts = torch.arange(0, len(tokens) - length, length)
    else:
        starts = torch.randint(len(tokens) - length, (n,), generator=torch.Generator().manual_seed(seed))
    pieces = tokens[starts[:, None] + torch.arange(length + 1)]
    return pieces[:, :-1], pieces[:, 1:]
