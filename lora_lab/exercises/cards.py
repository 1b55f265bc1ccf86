"""``Card``: what an exercise and the clinic answer with, on a page and in plain text."""

import html
import re
from dataclasses import dataclass, field

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

COLOURS = {"✓": "#009E73", "✗": "#D55E00", "…": "#767676", "?": "#0072B2"}
# Code keeps a light ground of its own, on which its colours can be read in a dark page, too.
PRINTER = HtmlFormatter(
    noclasses=True,
    nobackground=True,
    prestyles="padding: 0.5em; border: 1px solid #d5d5d5; border-radius: 6px; "
    "color: #222222; background: white; white-space: pre-wrap",
)
# Where something was met: "owner/name#7" is an issue or a change of a repository on GitHub.
ISSUE = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)")


@dataclass
class Card:
    """What the learner gets back: a sign, a headline, a sentence. Readable without colour.

    ``choices`` are folded on a page, so that nobody reads them before an answer of their own. ``stages`` are those of a
    longer task, ``{what it asks for: sign}``. ``offer`` says how to get on; it is not what the card has to say.
    """

    sign: str
    headline: str
    text: str = ""
    code: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    offer: str = field(default="", compare=False)

    def __repr__(self):
        listed = "\n".join(f"{letter}  {choice}" for letter, choice in self.choices.items())
        passed = "\n".join(f"  {sign} {stage}" for stage, sign in self.stages.items())
        lines = [f"{self.sign} {self.headline}", passed, self.text, self.code, listed, self.offer]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self):
        edge = f"border-left: 6px solid {COLOURS[self.sign]}; padding: 0.4em 1em; margin: 0.3em 0; max-width: 46em"
        code = highlight(self.code, PythonLexer(), PRINTER) if self.code else ""
        text = ISSUE.sub(r'<a href="https://github.com/\1/issues/\2">\1#\2</a>', html.escape(self.text))
        listed = "".join(f"<div><b>{letter}</b> {html.escape(choice)}</div>" for letter, choice in self.choices.items())
        folded = f"<details><summary>{len(self.choices)} choices</summary>{listed}</details>" if listed else ""
        headline = html.escape(self.headline)
        offer = f'<div style="color: #767676">{html.escape(self.offer)}</div>' if self.offer else ""
        passed = "".join(
            f'<div style="color: {COLOURS[sign]}">{sign} {html.escape(stage)}</div>'
            for stage, sign in self.stages.items()
        )
        return f'<div style="{edge}"><b>{self.sign} {headline}</b>{passed}<div>{text}</div>{code}{folded}{offer}</div>'
