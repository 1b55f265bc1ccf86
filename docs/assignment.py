"""Make assignments for nbgrader of the notebooks, in ``build/assignments``: solutions out, checks in, with points.

    python docs/assignment.py notebooks/03_training_and_loss_curves.ipynb

An exercise becomes two cells: one for the answer, and one that is graded, in which the exercise checks it. What is a
little, some or much work, by the dots on its card, gives one, two or three points.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from lora_lab.exercises.solutions import CHECK, exercises_of

COURSE = Path(__file__).parent.parent / "build" / "assignments"
CONFIG = """c = get_config()
c.CourseDirectory.course_id = "lora"
c.ClearSolutions.code_stub = {"python": "..."}
c.ClearSolutions.enforce_metadata = False  # cells without an exercise may hold what they like
c.Execute.timeout = 900  # seconds: some cells train
"""
HERE = "# Your code comes here."
AFTERWARDS = """{assignment} is ready, in {course}:
  source/{assignment}    with solutions, yours
  release/{assignment}   the students'
Put what they hand in into submitted/STUDENT/{assignment}, and there: nbgrader autograde {assignment}"""


def make(paths, course=COURSE):
    """Write the assignments of these notebooks, the teacher's and the students', into the folder ``course``."""
    course.mkdir(parents=True, exist_ok=True)
    (course / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    for path in map(Path, paths):
        source = course / "source" / path.stem
        source.mkdir(parents=True, exist_ok=True)
        nbformat.write(assignment(nbformat.read(path, as_version=4), exercises_of(path)), source / path.name)
        nbgrader("generate_assignment", path.stem, "--force", course=course)
        print(AFTERWARDS.format(assignment=path.stem, course=course))


def nbgrader(*command, course=COURSE, **options):
    """Run a command of nbgrader's, which finds its own helpers on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "nbgrader", *command]
    return subprocess.run(command, cwd=course, env=os.environ | {"PATH": path}, **{"check": True} | options)


def assignment(notebook, exercises):
    """The notebook with each exercise as a cell to solve, solved, and a cell that is graded; without outputs."""
    cells, dots = [], 1
    for cell in notebook.cells:
        if effort := re.search(r"Difficulty (●+)", cell.source):
            dots = len(effort[1])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        call = cell.cell_type == "code" and CHECK.search(cell.source)
        if not call:
            cells.append(cell)
            continue
        exercise = getattr(exercises, call[1])
        cells += [_answer(call[1], call[2], exercise), _graded(call, dots)]
    notebook.cells = cells
    return notebook


def _answer(name, variable, exercise):
    """The cell to solve. What stands between the two marks is taken out for the students."""
    source = exercise.source()
    if re.match(r"(def|class) ", source):
        source = _marked(source)
    else:
        source = f"{variable} = ...\n### BEGIN SOLUTION\n{variable} = {source}\n### END SOLUTION"
    return _cell(source, name, solution=True)


def _marked(source):
    """Functions and methods, of which the solution is the body, and not the first line."""
    lines = source.splitlines()
    for body in reversed([*_bodies(ast.parse(source))]):
        depth = " " * body[0].col_offset
        lines.insert(body[-1].end_lineno, f"{depth}### END SOLUTION")
        lines[body[0].lineno - 1 : body[0].lineno - 1] = [depth + HERE, f"{depth}### BEGIN SOLUTION"]
    return "\n".join(lines)


def _bodies(node):
    for child in node.body:
        if isinstance(child, ast.FunctionDef):
            yield child.body
        elif isinstance(child, ast.ClassDef):
            yield from _bodies(child)


def _graded(call, points):
    source = f'card = {call[0]}\ndisplay(card)\nassert card.sign == "✓", card.headline'
    return _cell(source, f"{call[1]}-check", grade=True, locked=True, points=points)


def _cell(source, grade_id, **what):
    about = {"schema_version": 3, "grade_id": grade_id, **dict.fromkeys(("grade", "solution", "locked", "task"), False)}
    return nbformat.v4.new_code_cell(source, id=grade_id.replace("_", "-"), metadata={"nbgrader": about | what})


if __name__ == "__main__":
    make(sys.argv[1:])
