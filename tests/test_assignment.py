"""Assignments for nbgrader: nothing of a solution is left in what students get, and answers are graded as they are."""

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from test_notebooks import NOTEBOOKS

from lora_lab.exercises.solutions import part_of

api = pytest.importorskip("nbgrader.api", reason="docs/requirements.txt is not installed")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from assignment import assignment, make, nbgrader  # noqa: E402  which stands in docs

FIRST = "00_start_here"


def marked(notebook):
    """The cells that nbgrader knows: {grade_id: cell}."""
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_exercise_is_solved_in_one_cell_and_graded_in_the_next(path):
    exercises = import_module(f"lora_lab.exercises.{part_of(path)}")
    checks = re.findall(r"^ex\.(\w+)\.check\(", "\n".join(cell.source for cell in read(path).cells), re.M)
    made = assignment(read(path), exercises)
    nbformat.validate(made)
    cells = marked(made)
    assert list(cells) == [name + part for name in checks for part in ("", "-check")]
    for name in checks:
        answer, graded = cells[name], cells[f"{name}-check"]
        assert answer.metadata.nbgrader.solution and not answer.metadata.nbgrader.grade
        assert graded.metadata.nbgrader.grade and graded.metadata.nbgrader.locked
        assert graded.metadata.nbgrader.points in (1, 2, 3)
        compile(answer.source, name, "exec")
        left = re.sub(r"### BEGIN SOLUTION.*?### END SOLUTION", "...", answer.source, flags=re.DOTALL)
        for line in getattr(exercises, name).source().splitlines():
            if line.startswith((" ", "\t")) and not line.lstrip().startswith(("def ", "class ")):
                assert line not in left.splitlines(), f"{name}: {line}"
        names = {"ex": exercises} | {key: value for key, value in vars(exercises).items() if not key.startswith("_")}
        exec(left, names)
        arguments = re.search(r"\.check\((.+)\)$", graded.source, re.M)[1]
        given = [names[argument.strip()] for argument in arguments.split(",")]
        assert getattr(exercises, name).check(*given).sign == "…", f"{name} is no untouched stub"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The first notebook as an assignment, and what two students handed in: all right; one right and one wrong."""
    course = tmp_path_factory.mktemp("course")
    make([ROOT / "notebooks" / f"{FIRST}.ipynb"], course)
    solved = marked(read(course / "source" / FIRST / f"{FIRST}.ipynb"))
    for student in ("right", "wrong"):
        handed_in = read(course / "release" / FIRST / f"{FIRST}.ipynb")
        cells = marked(handed_in)
        for name, cell in cells.items():
            if cell.metadata.nbgrader.solution:
                cell.source = solved[name].source
        if student == "wrong":
            cells["lora_parameters"].source = "def lora_parameters(m, n, r):\n    return m * n"
            cells["lora_parameters-check"].source = "# nothing to see here"
        folder = course / "submitted" / student / FIRST
        folder.mkdir(parents=True)
        nbformat.write(handed_in, folder / f"{FIRST}.ipynb")
    return course


def test_a_right_answer_gets_its_points_and_a_wrong_one_none_even_where_its_check_was_deleted(course):
    nbgrader("autograde", FIRST, course=course)
    with api.Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        scores = {s: book.find_submission(FIRST, s).score for s in ("right", "wrong")}
        of_all = book.find_submission(FIRST, "right").max_score
    points = {name: cell.metadata.nbgrader.points for name, cell in checks(course).items()}
    assert scores["right"] == of_all == sum(points.values())
    assert scores["wrong"] == of_all - points["lora_parameters-check"]


def checks(course):
    cells = marked(read(course / "source" / FIRST / f"{FIRST}.ipynb"))
    return {name: cell for name, cell in cells.items() if cell.metadata.nbgrader.grade}


@pytest.mark.parametrize(
    ("version", "verdict"), [("source", "Success!"), ("release", "VALIDATION FAILED ON 2 CELL(S)!")]
)
def test_nbgrader_validates_the_solved_one_and_not_the_untouched(course, tmp_path, version, verdict):
    shutil.copy(course / version / FIRST / f"{FIRST}.ipynb", tmp_path)
    said = nbgrader("validate", f"{FIRST}.ipynb", course=tmp_path, check=False, capture_output=True, text=True)
    assert verdict in said.stdout + said.stderr
