"""Solved copies of the notebooks, for a teacher: ``make solutions`` writes them into a folder of their own."""

import re
import sys
from importlib import import_module
from pathlib import Path

import nbformat

# The line with which a notebook's cell has an answer checked: the exercise's name, and what it is given.
CHECK = re.compile(r"^ex\.(\w+)\.check\((.+)\)$", re.MULTILINE)


def solve(notebook, exercises):
    """The notebook with each exercise's stub replaced by its reference answer, and without outputs."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        if check := CHECK.search(cell.source):
            exercise = getattr(exercises, check[1])
            reference = exercise.reference
            built = callable(reference) or (isinstance(reference, tuple) and callable(reference[0]))
            answer = exercise.source() if built else f"{check[2]} = {exercise.source()}"
            cell.source = f"{answer}\n\n\n{check[0]}"
        if "title, words = ..., ..." in cell.source:
            cell.source = cell.source.replace("title, words = ..., ...", exercises.TITLE_AND_WORDS)
    return notebook


def part_of(path):
    """The module with a notebook's exercises: "part_05" for 05_into_a_model.ipynb, "capstone" for capstone.ipynb."""
    return f"part_{path.stem[:2]}" if path.stem[:2].isdigit() else path.stem


def exercises_of(path):
    """The module itself."""
    return import_module(f"lora_lab.exercises.{part_of(path)}")


def main(target, *paths):
    """Write a solved copy of each notebook into the folder ``target``."""
    Path(target).mkdir(exist_ok=True)
    for path in map(Path, paths):
        nbformat.write(solve(nbformat.read(path, as_version=4), exercises_of(path)), Path(target) / path.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
