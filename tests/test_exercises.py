"""The exercise table: every reference passes, every stub is "not attempted", every misconception meets its sentence."""

import importlib
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest
import torch

from lora_lab import exercises
from lora_lab.exercises import solutions
from lora_lab.exercises.engine import Card, Exercise

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MODULES = [name for _, name, _ in pkgutil.iter_modules(exercises.__path__) if name.startswith("part_")]
EXERCISES = {
    f"{name}.{key}": value
    for name in MODULES
    for key, value in vars(importlib.import_module(f"lora_lab.exercises.{name}")).items()
    if isinstance(value, Exercise)
}
MISTAKES = [
    pytest.param(exercise, wrong, sentence, id=f"{name} {i}")
    for name, exercise in EXERCISES.items()
    for i, (wrong, sentence) in enumerate(exercise.misconceptions)
]


def stub(*arguments):
    """A docstring is no answer yet."""
    ...


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_reference_is_correct(exercise):
    assert exercise.check(exercise.reference) == Card("✓", "Correct", exercise.praise)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
@pytest.mark.parametrize("untouched", [..., stub], ids=["...", "def"])
def test_an_untouched_stub_is_not_attempted(exercise, untouched):
    assert exercise.check(untouched).headline == "Not attempted yet"


@pytest.mark.parametrize(("exercise", "wrong", "sentence"), MISTAKES)
def test_every_misconception_meets_its_own_sentence(exercise, wrong, sentence):
    assert exercise.check(wrong) == Card("✗", "Not yet", sentence)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_hints_go_from_gentle_to_plain_and_the_solution_is_the_learners_own_code(exercise):
    assert len(exercise.hints) >= 2 and len(exercise.misconceptions) >= 4
    assert exercise.hints[0] in repr(exercise.hint()) and exercise.hints[-1] in repr(exercise.hint(len(exercise.hints)))
    assert f"{len(exercise.hints)} hints" in exercise.hint(9).headline
    assert exercise.source() in repr(exercise.solution())


@pytest.mark.parametrize("name", MODULES)
def test_every_exercise_is_solved_in_the_teachers_copy(name):
    (path,) = NOTEBOOKS.glob(f"{name[-2:]}_*.ipynb")
    module = importlib.import_module(f"lora_lab.exercises.{name}")
    solved = solutions.solve(nbformat.read(path, as_version=4), module)
    names, cards = {}, []
    for cell in solved.cells:
        if cell.cell_type == "code" and re.match(r"(import|from) (?!ipywidgets)", cell.source):
            exec(cell.source, names)
        if cell.cell_type == "code" and ".check(" in cell.source:
            answer, check = cell.source.rsplit("\n", 1)
            exec(answer, names)
            cards.append(eval(check, names))
    assert len(cards) >= 2 and all(card.sign == "✓" for card in cards)


def raises():
    raise RuntimeError("boom")


class Unpleasant:
    def __eq__(self, other):
        raise RuntimeError("never compare me")

    def __repr__(self):
        raise RuntimeError("never print me")


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
@pytest.mark.parametrize(
    "answer",
    [None, "text", 1e400, float("nan"), torch.ones(2), [], raises, lambda *a: 0, lambda *a: "text", lambda *a: a,
     lambda *a: Unpleasant(), Unpleasant(), Unpleasant, lambda *a: torch.ones(3), lambda *a: 1 / 0],
)  # fmt: skip
def test_check_never_raises_and_never_praises_nonsense(exercise, answer):
    card = exercise.check(answer)
    assert card.sign == "✗" and card.text
    assert "<b>✗ Not yet</b>" in card._repr_html_()


SQUARE = Exercise("t", lambda x: x * x, ["h"], [], [(torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),)])


def held(parameter, optimizer):
    return any(parameter is other for group in optimizer.param_groups for other in group["params"])


RIGHT_IN_ANOTHER_WAY = [
    ("part_00.lora_parameters", lambda m, n, r: torch.tensor(m * r + r * n)),
    ("part_01.keep", lambda U, S, Vh, r: torch.einsum("ir,r,rj->ij", U[:, :r], S[:r], Vh[:r])),
    ("part_02.lora_forward", lambda x, W, b, A, B, s: torch.nn.functional.linear(x, W + s * (A @ B).T, b)),
    ("part_02.freeze", lambda linear: linear.requires_grad_(False)),
    ("part_02.new_A_and_B", lambda m, n, r: (torch.randn(m, r) / m**0.5, torch.zeros(r, n))),
    ("part_03.trainable", lambda model: (p for p in model.parameters() if p.requires_grad)),
    ("part_03.trainable", lambda model: [{"params": [p for p in model.parameters() if p.requires_grad]}]),
    ("part_03.trainable", lambda model: {n: p for n, p in model.named_parameters() if p.requires_grad}.values()),
    ("part_05.rank_for", lambda shapes, b: max(r for r in range(b) if r * sum(map(sum, shapes)) <= b)),
    ("part_06.merged", lambda W, A, B, s: torch.addmm(W, B.T, A.T, alpha=s)),
    ("part_06.add_adapters", lambda A1, B1, A2, B2: [torch.hstack([A2, A1]), torch.vstack([B2, B1])]),
    ("part_07.startup_difference", lambda m, p, X: (m(X) - p(X)).detach().numpy().__abs__().max()),
    ("part_07.not_held", lambda m, o: (n for n, p in m.named_parameters() if p.requires_grad and not held(p, o))),
    ("part_03.knowing_nothing", lambda y: y.var(dim=0, correction=0).mean().item()),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT_IN_ANOTHER_WAY)
def test_an_answer_that_is_right_in_another_way_is_correct(name, answer):
    assert EXERCISES[name].check(answer).sign == "✓"


def writes(x):
    return x.data.mul_(x)


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda x: (x * x)[0], r"the result has shape (2,), but (2, 2) is right."),
        (lambda x: (x * x).double(), "of type torch.float64"),
        (lambda x: (x * x).detach(), "carries no gradient"),
        (lambda x: -x * x, "the sign is reversed"),
        (lambda x: 3 * x * x, "everything is 3 times too large"),
        (lambda x: x * x / 4, "everything is 4 times too small"),
        (lambda x: x * x + torch.eye(2), "2 of 4 numbers are off"),
        (lambda x: x.nothing, "it raises AttributeError"),
        (lambda x: print(end=""), "it returns nothing; is the return missing?"),
        (lambda x: -2 * x * x, "4 of 4 numbers are off"),
        (writes, "it writes into its argument x"),
        (lambda x: (x, x), "but a tensor of shape (2, 2) is right"),
    ],
)
def test_an_unknown_mistake_is_described_by_what_differs(answer, diagnosis):
    card = SQUARE.check(answer)
    assert diagnosis in card.text and card.text.startswith("For x (2 × 2): ")


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda a, b: a, "For a=2, b=3: it gives 2, but 5 is right"),
        (lambda a, b: (a + b) / 2, "a whole number is asked for, and it gives 0.5"),
        (lambda a, b: torch.ones(3), "one number is asked for, and it gives a tensor of shape (3,)"),
        (lambda a, b: [torch.nn.ReLU()], "it gives a list of 1: a module of type ReLU, but 1 is right"),
        (lambda a, b: a.foo, "the known mistake that raises"),
    ],
)
def test_a_wrong_number_is_described_for_the_arguments_by_name(answer, diagnosis):
    known = [(lambda a, b: a.foo, "the known mistake that raises")]
    assert diagnosis in Exercise("t", lambda a, b: a + b, ["h"], known, [(1, 0), (2, 3)]).check(answer).text


def test_an_answer_right_for_some_arguments_hears_so_unless_a_whole_number_may_be_right_by_chance():
    def said(scale):
        return (
            Exercise("t", lambda a, b: scale * (a + b), ["h"], [], [(1, 0), (2, 3)]).check(lambda a, b: scale * a).text
        )

    assert said(0.5).startswith(
        "Right for other arguments, but not for all. For a=2, b=3: it gives 1, but 2.5 is right"
    )
    assert said(1).startswith("For a=2, b=3")


def test_what_an_exercise_observes_is_named():
    observed = Exercise("t", lambda: 2, ["h"], [], observe=lambda answer: {"the length": str(answer())})
    assert observed.check(lambda: 3).text == "The length is 3, but 2 is right"


def test_a_transposed_result_is_recognised():
    turned = Exercise("t", lambda x: x, ["h"], [], [(torch.ones(2, 3),)])
    assert "Is it transposed?" in turned.check(lambda x: x.T).text


def test_a_class_is_no_function():
    assert "The answer is a class" in SQUARE.check(dict).text


@pytest.mark.parametrize(
    ("answer", "said"), [(40, "too large"), (-1, "too small"), (0.01, "A whole number"), ("5", "asks for a number")]
)
def test_a_wrong_number_is_not_told_by_how_much(answer, said):
    text = EXERCISES["part_00.rank_of_the_task"].check(answer).text
    assert said in text and "5 is right" not in text
