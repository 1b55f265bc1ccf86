"""``Guess``: a prediction that the reader may commit to, and that stands beside the answer where this is shown."""

import html
from collections.abc import Sequence
from numbers import Real

from matplotlib.figure import Figure

from ..pictures.figures import mark_guess
from .cards import Card


class Guess:
    """A guess at a number, or at one of ``choices``, of what the words ``about`` say; optional for the reader.

    ``axis`` says on which axis of a figure a guessed number lies: "x" or "y".
    """

    def __init__(self, about, choices: Sequence[str] = (), axis=None):
        self.about, self.choices, self.axis, self.kept = about, list(choices), axis, None

    def guess(self, value):
        """Keep a guess; a card says so. For ``...`` there is nothing to keep, and nothing to say."""
        if value is ...:
            self.kept = None
            return None
        if self.choices and value not in self.choices:
            return Card("?", "One of these, please", ", ".join(map(repr, self.choices)))
        if not self.choices and (isinstance(value, bool) or not isinstance(value, Real)):
            return Card("?", "A number, please", "Without quotation marks, and without a unit.")
        self.kept = value
        return Card("?", f"Your guess: {self._said()}", "It will stand beside the answer.")

    def beside(self, shown=None):
        """What is shown, and the guess with it, if there is one: marked in a figure, written below anything else."""
        if self.kept is None:
            return shown
        if shown is None:  # printed before
            return Card("?", f"Your guess: {self._said()}", self.about.capitalize() + ".")
        if self.axis and isinstance(shown, Figure):
            mark_guess(shown, self.axis, self.kept)
            return shown
        return _Beside(shown, f"Your guess: {self._said()} ({self.about})")

    def _said(self):
        return self.kept if self.choices else f"{self.kept:,g}"


class _Beside:
    """Something shown, and one line below it."""

    def __init__(self, shown, line):
        self.shown, self.line = shown, line

    def __repr__(self):
        return f"{self.shown!r}\n{self.line}"

    def _repr_html_(self):
        own = getattr(self.shown, "_repr_mimebundle_", None)
        bundle = own() if own else {}
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        above = data.get("text/html") or f"<pre>{html.escape(repr(self.shown))}</pre>"
        edge = "border-left: 6px solid #0072B2; padding-left: 1em; margin: 0.3em 0; font-weight: bold"
        return f'{above}<div style="{edge}">{html.escape(self.line)}</div>'
