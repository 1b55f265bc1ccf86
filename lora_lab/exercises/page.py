"""The page at the end of the capstone: what was measured on one's own adapter, and words that say no more than that."""

import html
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..find import lora_layers, lora_parameters
from ..material.models import TinyGPT, windows
from ..material.texts import held_out
from ..pictures.tables import table
from ..training import evaluate
from .cards import Card
from .engine import is_stub

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"


@dataclass
class Measured:
    """What was measured on an adapter: ``rows``, ``{what: (base, adapted)}``, and facts about it; as a table."""

    rows: dict[str, tuple[float, float]]
    facts: dict[str, str]
    base_writes: str
    adapter_writes: str

    def __repr__(self):
        return f"{self.losses()!r}\n\n{self.facts_table()!r}"

    def _repr_html_(self):
        return f"{self.losses().html()}<br>{self.facts_table().html()}"

    def losses(self):
        """The losses before and after, as a table."""
        return table({name: list(pair) for name, pair in self.rows.items()}, ["nats", "base", "adapter"])

    def facts_table(self):
        """What else is known, as a table."""
        return table({name: [value] for name, value in self.facts.items()}, ["", "your adapter"])

    def numbers(self):
        """Every number that was measured, as it is written."""
        return set(re.findall(NUMBER, repr(self)))


def measure(text, split, adapt, try_rates, turn_down, publish, fetch, limit=0.5):
    """Take a text through the five steps, and measure the adapter that comes back from its file.

    ``limit`` is what the prose may cost, in nats. A card says which steps are missing, as long as some are.
    """
    steps = {"split": split, "adapt": adapt, "try_rates": try_rates, "turn_down": turn_down}
    missing = [name for name, step in (steps | {"publish": publish, "fetch": fetch}).items() if is_stub(step)]
    if missing:
        return Card("…", "Not attempted yet", f"Still to be written: {', '.join(missing)}.")
    to_learn, to_choose, held = split(text)
    tried = try_rates(adapt, to_learn, to_choose)
    lr = min(tried, key=tried.get)
    model = adapt(to_learn, lr)
    prose = held_out("prose")
    half = len(prose) // 2  # one to set the dial by, the other to report on
    strength = turn_down(model, prose[:half], limit)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapter"
        publish(model, folder)
        there, base = fetch(folder), TinyGPT.pretrained()
        size = sum(path.stat().st_size for path in folder.glob("*"))
        read = _as_peft_reads_it(folder, there)
    kinds = {"held out": held, "learned from": to_learn[: len(held)], "prose": prose[half:]}
    rows = {name: tuple(evaluate(m, *windows(part, 64)) for m in (base, there)) for name, part in kinds.items()}
    numbers = sum(parameter.numel() for parameter in lora_parameters(there).values())
    facts = {
        "text": f"{len(text):,} characters, {len(held):,} of them held out",
        "learning rate": f"{lr:g}, of {', '.join(f'{rate:g}' for rate in sorted(tried))}",
        "strength": f"{strength:g}, for a limit of {limit:g} nats",
        "LoRA": f"{len(lora_layers(there))} layers, {numbers:,} numbers",
        "file": f"{size:,} bytes",
        "PEFT": read,
    }
    return Measured(rows, facts, base.write(held[:12]), there.write(held[:12]))


def _as_peft_reads_it(folder, there):
    """Whether PEFT reads a folder and answers as our own model does, in words."""
    try:
        from peft import PeftModel
    except ImportError:
        return "not installed here, so not tried"
    X = windows(held_out("names")[:300], 64)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(TinyGPT.pretrained(), folder).eval()
    with torch.no_grad():
        return (
            "reads it, with the same outputs"
            if torch.allclose(theirs(X), there(X), atol=1e-3)
            else "reads it otherwise"
        )


class Page:
    """A page about an adapter, to print or to put beside its file."""

    def __init__(self, title, words, measured):
        self.title, self.words, self.measured = title, words, measured

    def __repr__(self):
        return f"{self.title}\n\n{self.words}\n\n{self.measured!r}"

    def _repr_html_(self):
        style = "max-width: 46em; padding: 1em 2em; background: white; color: #222222; border-radius: 8px"
        said = html.escape(self.words).replace("\n\n", "<p>")
        texts = {"The base writes": self.measured.base_writes, "With the adapter": self.measured.adapter_writes}
        writing = "".join(
            f"<h3>{who}</h3><pre style='white-space: pre-wrap'>{html.escape(text)}</pre>" for who, text in texts.items()
        )
        body = f"<h2>{html.escape(self.title)}</h2><p>{said}</p>{self.measured._repr_html_()}{writing}"
        return f"<div style='{style}'>{body}</div>"

    def save(self, path):
        """Write the page into an HTML file that any browser opens and prints; return its path."""
        path = Path(path)
        head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(self.title)}</title>"
        path.write_text(f"{head}<body style='font-family: sans-serif'>{self._repr_html_()}</html>", encoding="utf-8")
        return path


def page(title, words, measured):
    """The page, if its words say only what was measured; else a card that says what they lack."""
    if title is ... or words is ...:
        said = "Give it a title, and say in words what it is, from what was measured."
        return Card("…", "Not attempted yet", said)
    if not isinstance(measured, Measured):
        return Card("…", "Not measured yet", "The five steps come first, and measure(…).")
    if not isinstance(title, str) or not isinstance(words, str):
        return Card("✗", "Not yet", "The title and the words are texts, in quotation marks.")
    found = re.findall(NUMBER, words)
    strange = [number for number in found if number not in measured.numbers()]
    if len(words.split()) < 25:
        said = "At least 25 words: what it was made from, what it does better, what it costs, and what it is not for."
    elif not found:
        said = "There is no number in your words. How much better is it, and what does it cost?"
    elif strange:
        said = f"Your words say {', '.join(strange)}, which stands in no measurement. Round as the tables do."
    else:
        return Page(title, words, measured)
    return Card("✗", "Not yet", said)
