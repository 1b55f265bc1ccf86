"""Make a deck of slides of each notebook, in ``build/slides``. They play from a memory stick, without a network.

``python docs/decks.py notebooks/NN_its_name.ipynb`` makes that one's alone.
"""

import html
import re
import shutil
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from string import Template

from ideas import ideas
from pygments.formatters import HtmlFormatter
from run import NOTEBOOKS, ROOT, numbered, title, with_sliders

from lora_lab.exercises.solutions import exercises_of

HERE = Path(__file__).parent / "slides"
DECKS = ROOT / "build" / "slides"
TAUGHT = [path for path in NOTEBOOKS if path.stem != "glossary"]


def make(target, notebooks):
    """Write decks of notebooks, {name: notebook}, and what they need into the folder ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    _gather_assets(target / "assets")
    template = Template((HERE / "deck.html").read_text(encoding="utf-8"))
    for name, notebook in notebooks.items():
        shown = ideas(notebook, exercises_of(Path(name)))
        page = template.substitute(
            title=html.escape(title(notebook)), seconds=60 * _minutes(notebook), ideas="\n".join(map(_written, shown))
        )
        (target / f"{name}.html").write_text(page, encoding="utf-8")
    headings = {name: numbered(name, notebook) for name, notebook in notebooks.items()}
    listed = "".join(f'<li><a href="{name}.html">{heading}</a></li>' for name, heading in headings.items())
    contents = Template((HERE / "index.html").read_text(encoding="utf-8")).substitute(decks=listed)
    (target / "index.html").write_text(contents, encoding="utf-8")


def _gather_assets(folder):
    """reveal.js and MathJax, which wheels bring; our own script and style."""
    folder.mkdir(parents=True)
    reveal = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    for file in ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js"):
        shutil.copy(reveal / file, folder)
    mathjax = Path(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline"))
    shutil.copy(mathjax / "static" / "mathjax" / "tex-svg.js", folder)
    shutil.copy(HERE / "deck.js", folder)
    colours = HtmlFormatter(style="default").get_style_defs("code")
    (folder / "deck.css").write_text((HERE / "deck.css").read_text(encoding="utf-8") + colours, encoding="utf-8")


def _minutes(notebook):
    return int(re.search(r"about (\d+) minutes", notebook.cells[0].source)[1])


def _written(idea):
    """An idea as HTML, from which the page makes as many slides as it needs."""
    blocks = []
    for block in idea.blocks:
        tag = {"notes": "aside", "code": "pre", "text": "pre"}.get(block.kind, "div")
        content = f"<code>{block.html}</code>" if tag == "pre" else block.html
        blocks.append(f'<{tag} class="{block.kind}"{" data-step" * block.step}>{content}</{tag}>')
    return f'<section data-title="{html.escape(idea.title)}">{"".join(blocks)}</section>'


if __name__ == "__main__":
    make(DECKS, with_sliders([Path(name) for name in sys.argv[1:]] or TAUGHT))
