"""The page of all known mistakes and of what puts each right, made from the exercises themselves."""

import ast
import html
import inspect
import textwrap
from functools import cache
from pathlib import Path

import nbformat
from run import numbered

from lora_lab.exercises.clinic import PATIENTS
from lora_lab.exercises.clinic_peft import MORE_PATIENTS
from lora_lab.exercises.engine import Exercise
from lora_lab.exercises.solutions import exercises_of
from lora_lab.exercises.ward import DIAGNOSES

BEGINNING = """# What people get wrong

All mistakes that the exercises know, each with the sentence that puts it right: what a class will say, and what to
answer. {count} of them. This page is made from the exercises, whose tests make every one of these mistakes.
"""
HEADS = "<thead><tr><th>the mistake</th><th>what puts it right</th></tr></thead>"


def page(paths):
    """The page as Markdown, for the exercises of these notebooks."""
    lines, count = [], 0
    for path in paths:
        exercises = exercises_of(path)
        lines.append(f"## {numbered(path.stem, nbformat.read(path, as_version=4))}")
        for exercise in filter(lambda thing: isinstance(thing, Exercise), vars(exercises).values()):
            lines.append(f"### {exercise.title}\n\n{_table(exercise, exercises)}")
            count += len(exercise.misconceptions)
        for patient in {"07": PATIENTS, "13": MORE_PATIENTS}.get(path.stem[:2], []):
            lines.append(f"### {_complaint(patient)}\n\n{_diagnoses(patient)}")
            count += len(patient.why_not)
    return "\n\n".join([BEGINNING.format(count=count), *lines])


def _table(exercise, module):
    mistakes = {}
    for wrong, said in exercise.misconceptions:  # several mistakes may have one cause
        mistakes.setdefault(said, []).append(wrong)
    codes = {said: _written(module).get(said) or map(source, wrong) for said, wrong in mistakes.items()}
    return _rows(
        [("<hr>".join(f"<pre>{html.escape(code)}</pre>" for code in some), said) for said, some in codes.items()]
    )


def _rows(told):
    """The table of what is told to each mistake, [(HTML, sentence), …]."""
    rows = [f"<tr><td>{mistake}</td><td>{html.escape(sentence)}</td></tr>" for mistake, sentence in told]
    return f"<table>{HEADS}<tbody>{''.join(rows)}</tbody></table>"


def _complaint(patient):
    return f"Patient {patient.number}: {DIAGNOSES[patient.bug]}"


def _diagnoses(patient):
    """Why it is none of the other diagnoses that one may think of."""
    return _rows([(html.escape(DIAGNOSES[bug]), said) for bug, said in patient.why_not.items()])


@cache
def _written(module):
    """How a module writes the mistakes that each sentence puts right, {sentence: [code, …]}."""
    text, found = Path(module.__file__).read_text(encoding="utf-8"), {}
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Tuple(elts=[ast.Name(id=name), ast.Constant(value=str(said))]):
                if hasattr(module, name):  # and not a name of a comprehension, which is any of several
                    found.setdefault(said, []).append(source(getattr(module, name)))
            case ast.Tuple(elts=[wrong, ast.Constant(value=str(said))]):
                code = textwrap.dedent(ast.get_source_segment(text, wrong, padded=True))
                found.setdefault(said, []).append(code)
    return found


def source(wrong):
    """A wrong answer that is a function with a name, several of them, or a value."""
    if isinstance(wrong, tuple):
        return "\n\n\n".join(map(source, wrong))
    return textwrap.dedent(inspect.getsource(wrong)).rstrip() if callable(wrong) else repr(wrong)
