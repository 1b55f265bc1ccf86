"""Every notebook has the shape that a reader of the course relies on. What the cells compute is nbval's affair."""

import copy
import json
import re
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from lora_lab.exercises.engine import Exercise

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Why a cell may be left out of the comparison.
MAY_BE_SKIPPED = {"from ipywidgets import interact": "interact can deadlock where no browser answers it"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def cells(path):
    return nbformat.read(path, as_version=4).cells


def prose(cells):
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def code(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_it_has_one_title_and_opens_with_its_card(cells):
    assert len(re.findall(r"^# .+", prose(cells), re.M)) == 1
    opening = cells[0].source
    assert opening.startswith("# ")
    for line in ("**You will be able to**", "**You need**", "**Time**"):
        assert line in opening, line
    assert re.search(r"about \d+ minutes", opening)


def test_numbers_that_readme_boasts_of_stand_in_the_outputs_of_the_notebook_beside_them():
    boasts = re.findall(r"^- (.+?):\s+\[\d\d\]\((notebooks/\w+\.ipynb)\)", README.split("## Start")[0], re.M | re.S)
    assert len(boasts) == 5
    for text, notebook in boasts:
        cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
        shown = json.dumps([cell["outputs"] for cell in cells if cell["cell_type"] == "code"])
        for number in re.findall(r"\d+(?:[.,]\d+)+", text):
            assert re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", shown), f"{number} is not in {notebook}"


def test_it_closes_with_questions_a_recap_the_cost_and_references(cells):
    text = prose(cells)
    assert len(re.findall(r"<details><summary>.+\?</summary>", text)) >= 3
    assert "## Recap" in text, "there is no heading ## Recap"
    recap = text.split("## Recap")[1]
    assert len(re.findall(r"^- ", recap, re.M)) == 5
    assert "**What it cost:**" in recap and re.search(r"\*\*References?:\*\*", recap)
    assert re.search(r"arXiv:\d{4}\.\d{5}", recap)
    assert "**Next:**" in recap


def test_every_link_between_notebooks_leads_somewhere(path, cells):
    links = re.findall(r"\]\(([\w./-]+\.ipynb)\)", prose(cells))
    assert links and all((path.parent / link).exists() for link in links)


def test_it_links_to_its_neighbours(path, cells):
    here = NOTEBOOKS.index(path)
    for neighbour in NOTEBOOKS[max(here - 1, 0) : here + 2]:
        assert neighbour == path or neighbour.name in cells[0].source


def test_its_card_links_to_the_glossary(cells):
    assert "(glossary.ipynb)" in cells[0].source


def test_every_word_of_the_glossary_stands_in_the_notebook_that_it_names():
    glossary = NOTEBOOKS[0].with_name("glossary.ipynb")
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| .+ \| \[\d\d\]\((.+?)\) \|$", prose(nbformat.read(glossary, 4).cells), re.M
    )
    assert len(rows) > 30 and [word.lower() for word, _ in rows] == sorted(word.lower() for word, _ in rows)
    for word, name in rows:
        text = json.dumps(nbformat.read(glossary.with_name(name), 4), ensure_ascii=False).lower()
        assert any(variant.lower() in text for variant in word.split(", ")), word


def test_readmes_table_lists_it_with_the_minutes_of_its_card(path, cells):
    row = re.search(rf"^\| \d\d \| \[.+\]\(notebooks/{path.name}\) \| .+ \| (\d+) \|$", README, re.M)
    assert row, f"README's table has no row for {path.name}"
    assert f"about {row[1]} minutes" in cells[0].source, f"README says {row[1]} minutes, and the card does not"


def test_its_cells_ran_in_order_without_errors_or_warnings(cells):
    count = 0
    for cell in code(cells):
        if "nbval-skip" in cell.metadata.get("tags", []):
            continue
        count += 1
        assert cell.execution_count == count
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source


def test_no_cell_is_left_out_of_the_comparison_without_a_reason(cells):
    for cell in code(cells):
        tags = cell.metadata.get("tags", [])
        if "nbval-skip" in tags:
            assert cell.source.splitlines()[0] in MAY_BE_SKIPPED and "skip-execution" in tags
        assert "NBVAL" not in cell.source and not {"nbval-ignore-output"} & set(tags)


def test_it_names_its_kernel_so_that_jupyterlab_need_not_ask(path):
    assert nbformat.read(path, as_version=4).metadata["kernelspec"]["name"] == "python3"


def test_code_cells_are_short_enough_to_read(cells):
    for cell in code(cells):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 15 and max(map(len, lines)) <= 96, cell.source


def test_every_picture_has_alternative_text_and_no_view_of_a_widget_is_stored(cells):
    for cell in code(cells):
        for output in cell.outputs:
            data = output.get("data", {})
            assert not any(mime.startswith("application/vnd.jupyter.widget") for mime in data)
            assert "<img" not in data.get("text/html", "")  # GitHub would take it out
            if "image/png" in data:
                assert len(output.metadata["image/png"]["alt"]) > 20
                assert output.metadata["image/png"]["alt"] == data["text/plain"]


def test_every_exercise_has_a_card_a_stub_and_a_check(path, cells):
    part = f"lora_lab.exercises.part_{path.stem[:2]}"
    assert find_spec(part), f"write {part}, with two exercises"
    module = import_module(part)
    exercises = {name for name, thing in vars(module).items() if isinstance(thing, Exercise)}
    checked = set()
    for card, stub in pairwise(cells):
        if not card.source.startswith("### Exercise"):
            continue
        assert re.search(r"\*Difficulty [●○]{3} · importance [●○]{3} · up to \d+ minutes\*", card.source)
        assert "..." in stub.source and "Not attempted yet" in str(stub.outputs)
        checked |= set(re.findall(r"ex\.(\w+)\.check\(", stub.source))
    assert checked == exercises, "each exercise has a card, ### Exercise N: …, and in the next cell its check"
    assert len(exercises) >= 2


@pytest.fixture
def strict(pytester):
    """nbval's verdict on a copy of a tiny notebook."""

    def verdict(notebook):
        nbformat.write(notebook, pytester.path / "tiny.ipynb")
        return pytester.runpytest_subprocess("--nbval", "--nbval-current-env", "tiny.ipynb").ret

    return verdict


pytest_plugins = ["pytester"]


def test_a_changed_number_in_a_stored_output_fails(strict):
    cell = nbformat.v4.new_code_cell("print(0.931)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="0.931\n")]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert strict(copy.deepcopy(notebook)) == 0
    cell.outputs[0].text = "0.932\n"
    assert strict(notebook) == 1
