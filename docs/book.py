"""Make the site, in ``build/site``: a book of the notebooks, with sliders that move and exercises that can be read.

    REPOSITORY=owner/name python docs/book.py

With the repository's name each page also offers to open its notebook in Colab or Binder, to edit it, and to report a
number.
"""

import copy
import html
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import decks
import misconceptions
import nbformat
from ideas import GUESSED, patient_of
from run import NOTEBOOKS, ROOT, remembered, with_sliders

from lora_lab.exercises.solutions import CHECK, exercises_of
from lora_lab.material import create_planted_task
from lora_lab.pictures.sliders import training_explorer

DOCS = Path(__file__).parent
SITE = ROOT / "build" / "site"
SOURCE = ROOT / "build" / "source"
INSTALL = """# On Colab this installs the course. Anywhere else it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet git+https://github.com/{repository}"""
NOT_HERE = "This page can't run your answer; the notebook checks it, and says what is wrong with it."


def make(target=SITE, repository=""):
    """Lay out the sources, let Sphinx make a book of them, and add the notebooks and the slides."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    (SOURCE / "notebooks").mkdir(parents=True)
    with ProcessPoolExecutor(1) as pool:  # beside the notebooks
        slider = pool.submit(remembered, "first_page", "", _first_slider)
        notebooks = with_sliders()
    for name, notebook in notebooks.items():
        nbformat.write(_page(name, notebook, repository), SOURCE / "notebooks" / f"{name}.ipynb")
    (SOURCE / "index.md").write_text(_first_page(slider.result(), repository), encoding="utf-8")
    (SOURCE / "misconceptions.md").write_text(misconceptions.page(decks.TAUGHT), encoding="utf-8")
    guide = (DOCS / "teaching.md").read_text(encoding="utf-8")
    (SOURCE / "teaching.md").write_text(guide.replace("](../", "]("), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-c", DOCS, SOURCE, target]
    subprocess.run(command, check=True)
    _drop_what_nothing_asks_for(target)
    decks.make(target / "slides", {path.stem: notebooks[path.stem] for path in decks.TAUGHT})
    for path in NOTEBOOKS:
        add_copies(path, target, repository)


def _drop_what_nothing_asks_for(target):
    """Sphinx's own notes; of MathJax all but the one script that the pages load, and its fonts; the icons' script.

    It is half of a page's weight, and the font that draws the same icons is there as well.
    """
    shutil.rmtree(target / ".doctrees")
    shutil.rmtree(target / "_sources", ignore_errors=True)
    (target / ".buildinfo").unlink()
    mathjax = target / "_static" / "mathjax"
    for found in mathjax.iterdir():
        if found.is_dir() and found.name != "output":
            shutil.rmtree(found)
        elif found.is_file() and found.name != "tex-chtml.js":
            found.unlink()

    icons = re.compile(r"<script [^>]*fontawesome\.js[^>]*></script>")
    for page in target.rglob("*.html"):
        page.write_text(icons.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    for file in (target / "_static" / "scripts").glob("fontawesome.js*"):
        file.unlink()


def _page(name, notebook, repository):
    """A notebook for the site: links under its title, exercises that can be opened, pictures with their words."""
    notebook = copy.deepcopy(notebook)
    exercises = None if name == "glossary" else exercises_of(Path(name))
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.source = cell.source.replace("| | |\n|---|---|", "| About | this page |\n|---|---|")
            continue
        _describe(cell)
        if call := CHECK.search(cell.source):
            _unfold(cell, getattr(exercises, call[1]))
        elif patient := patient_of(cell):
            _show(cell, _folded("The diagnosis", patient.reveal()))
        elif GUESSED.match(cell.source):
            _show(cell, "<p><em>In the notebook this keeps your guess, and sets it beside the answer.</em></p>")
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(links(name, repository), id="links"))
    return notebook


def _describe(cell):
    """Give a picture the words that are stored beside it; where it has sliders, HTML has taken its place."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data and "text/html" in data:
            del data["image/png"]
        elif "image/png" in data:
            cell.metadata["mystnb"] = {"image": {"alt": data["text/plain"].replace("\n", " ")}}


def _unfold(cell, exercise):
    """An exercise's hints and its solution, each on a click."""
    hints = [exercise.hint(number) for number in range(1, len(exercise.hints) + 1)]
    folded = [_folded(card.headline, card) for card in hints] + [_folded("A solution", exercise.solution())]
    _show(cell, f"<p><em>{NOT_HERE}</em></p>{''.join(folded)}")


def _folded(summary, card):
    return f"<details><summary>{html.escape(summary)}</summary>{card._repr_html_()}</details>"


def _show(cell, content):
    """Say this in place of the card that only a notebook can go on from, but leave its choices."""
    kept = [output for output in cell.outputs if "<details>" in output.get("data", {}).get("text/html", "")]
    cell.outputs = [*kept, nbformat.v4.new_output("display_data", {"text/html": content})]


def links(name, repository):
    """What can be done with this notebook."""
    links = {"Download the notebook": f"../download/{name}.ipynb"}
    if name != "glossary":
        links["Slides"] = f"../slides/{name}.html"
    if repository:
        home = f"https://github.com/{repository}"
        links |= {
            "Open in Colab": f"https://colab.research.google.com/github/{repository}/blob/gh-pages/colab/{name}.ipynb",
            "Open in Binder": f"https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/notebooks/{name}.ipynb",
            "Edit": f"{home}/edit/main/notebooks/{name}.ipynb",
            "Report a number": f"{home}/issues/new?template=number.yml&where={name}",
        }
    listed = "".join(f'<a href="{html.escape(address)}">{text}</a>' for text, address in links.items())
    return f'<nav class="page-links" aria-label="This notebook">{listed}</nav>'


def _first_page(slider, repository):
    """README's table of notebooks, and a slider that trains."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = "make lab     # opens the course in JupyterLab\nmake test    # everything that is tested"
    if repository:
        commands = f"git clone https://github.com/{repository} lora\ncd lora\nmake lab"
    table = re.search(r"^\| \| notebook .+?(?=\n\n)", readme, re.DOTALL | re.MULTILINE)[0]
    parts = {
        "slider": f"```{{raw}} html\n{slider}\n```",
        "notebooks": table.replace("| |", "| no. |", 1),
        "commands": commands,
        "contents": _contents(table),
    }
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    for name, content in parts.items():
        page = page.replace(f"{{{{ {name} }}}}", content)
    return page


def _first_slider():
    task = create_planted_task(256, 32, 32, rank=4)
    return training_explorer(task, ranks=[1, 2, 3, 4, 6, 8]).standalone().html()


def _contents(table):
    """The parts of README's table, as Sphinx wants to be told of them."""
    parts = {}
    for part, page in re.findall(r"\*\*(Part .+?)\*\*|\((notebooks/\w+)\.ipynb\)", table):
        if part:
            parts[part] = []
        else:
            list(parts.values())[-1].append(page)
    parts["To look up, and to teach"] = ["notebooks/glossary", "teaching", "misconceptions"]
    trees = []
    for part, pages in parts.items():
        trees.append("\n".join(["```{toctree}", ":hidden:", f':caption: "{part}"', "", *pages, "```"]))
    return "\n\n".join(trees)


def add_copies(path, target, repository):
    """The notebook as it is, to download; and for Colab one that installs the course first."""
    (target / "download").mkdir(exist_ok=True)
    shutil.copy(path, target / "download")
    if repository:
        (target / "colab").mkdir(exist_ok=True)
        notebook = nbformat.read(path, as_version=4)
        install = nbformat.v4.new_code_cell(INSTALL.format(repository=repository), id="install")
        notebook.cells.insert(1, install)
        nbformat.write(notebook, target / "colab" / path.name)


if __name__ == "__main__":
    make(repository=os.environ.get("REPOSITORY", ""))
