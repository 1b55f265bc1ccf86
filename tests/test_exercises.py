"""The exercise table: every reference passes, every stub is "not attempted", every misconception meets its sentence."""

import ast
import importlib
import math
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest
import torch

from lora_lab import exercises
from lora_lab.exercises import solutions
from lora_lab.exercises.cards import Card
from lora_lab.exercises.clinic import PATIENTS
from lora_lab.exercises.compare import difference
from lora_lab.exercises.engine import Exercise
from lora_lab.exercises.guesses import Guess
from lora_lab.exercises.kinds import Estimate, Task, require
from lora_lab.pictures.charts import loss_curves
from lora_lab.pictures.tables import table

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MODULES = [name for _, name, _ in pkgutil.iter_modules(exercises.__path__) if name.startswith(("part_", "capstone"))]
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


def measured(exercise, card, sentence):
    """Whether a task's card begins with the sentence; what was measured follows it."""
    return isinstance(exercise, Task) and card.text.startswith(sentence)


def check(exercise, answer):
    """A task may ask for several things, a choice for a letter and a number."""
    return exercise.check(*(answer if isinstance(answer, tuple) else (answer,)))


def stub(*arguments):
    """A docstring is no answer yet."""
    ...


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_reference_is_correct(exercise):
    card = check(exercise, exercise.reference)
    assert (card.sign, card.headline) == ("✓", "Correct")
    assert card.text == exercise.praise or measured(exercise, card, exercise.praise)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
@pytest.mark.parametrize("untouched", [..., stub], ids=["...", "def"])
def test_an_untouched_stub_is_not_attempted(exercise, untouched):
    several = len(exercise.reference) if isinstance(exercise, Task) and isinstance(exercise.reference, tuple) else 1
    assert exercise.check(*[untouched] * several).headline == "Not attempted yet"


@pytest.mark.parametrize(("exercise", "wrong", "sentence"), MISTAKES)
def test_every_misconception_meets_its_own_sentence(exercise, wrong, sentence):
    card = check(exercise, wrong)
    assert (card.sign, card.headline) == ("✗", "Not yet")
    assert card.text == sentence or measured(exercise, card, sentence)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_hints_go_from_gentle_to_plain_and_the_solution_is_the_learners_own_code(exercise):
    assert len(exercise.hints) >= 2 and len(exercise.misconceptions) >= 4
    assert exercise.hints[0] in repr(exercise.hint()) and exercise.hints[-1] in repr(exercise.hint(len(exercise.hints)))
    assert f"{len(exercise.hints)} hints" in exercise.hint(9).headline
    assert exercise.source() in repr(exercise.solution())
    assert "..." not in exercise.source()


@pytest.mark.parametrize("name", MODULES)
def test_every_exercise_is_solved_in_the_teachers_copy(name):
    (path,) = (path for path in NOTEBOOKS.glob("[0-9c]*.ipynb") if solutions.part_of(path) == name)
    module = importlib.import_module(f"lora_lab.exercises.{name}")
    solved = solutions.solve(nbformat.read(path, as_version=4), module)
    names, cards = {}, []
    for cell in solved.cells:
        if cell.cell_type == "code":  # of the other cells, only the imports: they train for half a minute
            imports = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec("\n".join(map(ast.unparse, imports)), names)
        if cell.cell_type == "code" and ".check(" in cell.source:
            answer, checked = cell.source.rsplit("\n", 1)
            exec(answer, names)
            cards.append(eval(checked, names))
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
    ("part_02.freeze", lambda linear: linear.requires_grad_(False)),
    ("part_02.new_A_and_B", lambda m, n, r: (torch.randn(m, r) / m**0.5, torch.zeros(r, n))),
    ("part_05.rank_for", lambda shapes, b: max(r for r in range(b) if r * sum(map(sum, shapes)) <= b)),
    ("part_06.merged", lambda W, A, B, s: torch.addmm(W, B.T, A.T, alpha=s)),
    ("part_06.add_adapters", lambda A1, B1, A2, B2: [torch.hstack([A2, A1]), torch.vstack([B2, B1])]),
    ("part_07.startup_difference", lambda m, p, X: (m(X) - p(X)).detach().numpy().__abs__().max()),
    ("part_07.not_held", lambda m, o: (n for n, p in m.named_parameters() if p.requires_grad and not held(p, o))),
    ("part_10.not_beaten", lambda ps: [p for p in ps if all(q == p or q[0] > p[0] or q[1] > p[1] for q in ps)]),
    (
        "part_10.divergence",
        lambda p, q: torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / p[..., 0].numel(),
    ),
    ("part_03.knowing_nothing", lambda y: y.var(dim=0, correction=0).mean().item()),
    ("part_11.twin", lambda scale, ratio: torch.tensor(float(scale * ratio)).sqrt()),
    ("part_12.bits_per_weight", lambda block, group: (group * (4 * block + 8) + 32) / (group * block)),
    ("part_12.plan", lambda: {"weight_bits": 8, "rank": 16, "pieces": 4, "length": 1024, "checkpointing": True}),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT_IN_ANOTHER_WAY)
def test_an_answer_that_is_right_in_another_way_is_correct(name, answer):
    assert EXERCISES[name].check(answer).sign == "✓"


def test_two_places_may_share_a_byte_in_either_order():
    packed = EXERCISES["part_12.pack_and_unpack"].check(
        lambda places: (places[1::2] << 4) | places[::2],
        lambda byte: torch.stack([byte & 15, byte >> 4], dim=-1).reshape(-1),
    )
    assert packed.sign == "✓"


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
    assert diagnosis in card.text and card.text.startswith("For x=[[")


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


def echo(case):
    """An exercise that asks for its argument back."""
    return Exercise("t", lambda x: x, ["gentle", "plainer", "plain"], [], [(case,)])


@pytest.mark.parametrize(
    ("expected", "actual", "diagnosis"),
    [
        ((1, 2), (1,), "it gives 1 thing, but 2 are asked for"),
        ((1, 2), [1, 2, 3], "it gives 3 things, but 2 are asked for"),
        ((1, 2), 7, "it gives 7, but 2 things are asked for"),
        ((1, 2), (1, 5), "of the 2 results, number 2 is off: it gives 5, but 2 is right"),
        ((1, 2), (None, 2), "of the 2 results, number 1 is off: it returns nothing"),
        (torch.ones(3), torch.ones(3, requires_grad=True), "the numbers are right, but the result still requires a g"),
        (torch.ones(3), torch.ones(3).int(), "the result is of type torch.int32, but torch.float32 is right"),
        (torch.zeros(3), torch.ones(3), "3 of 3 numbers are off"),
        (torch.zeros(3), torch.tensor([0.0, 1e-8, 1.0]), "1 of 3 numbers are off"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), "1 of 2 numbers are off"),
        (torch.ones(2, 3), torch.ones(3, 3), "the result has shape (3, 3), but (2, 3) is right."),
        (2.5, -2.5, "the sign is reversed, everything else is right"),
        (0.0, 1.0, "it gives 1, but 0 is right"),
        (0.1, 1e-7, "it gives 1e-07, but 0.1 is right"),
        (True, 1, "it gives 1, but True is right"),
        ("a", "b", "it gives 'b', but 'a' is right"),
        (3, [1, 2, 3, 4, 5], "it gives [1, 2, 3, 4, 5], but 3 is right"),
        (3, [10**9] * 9, "it gives an object of type list, but 3 is right"),
        ([1, 2], [2], "it gives 1 thing, but 2 are asked for: [2] instead of [1, 2]"),
        (2.0, 6.0, "it gives 6, but 2 is right; everything is 3 times too large"),
        (2.0, 4.0, "it gives 4, but 2 is right; everything is 2 times too large"),
        (0.3, 0.09, "it gives 0.09, but 0.3 is right; that is its square"),
        (0.3, 0.7, "it gives 0.7, but 0.3 is right; that is one minus it"),
        (torch.tensor([0.04, 9.0]), torch.tensor([0.2, 3.0]), "that is its root"),
        (1.0, 1.442695, "it gives 1.4427, but 1 is right; that is in bits"),
        (1.0, math.nan, "NaN is in the result"),
        (8, 8.0, "the number is right, but 8.0 is a fraction to Python"),
    ],
)
def test_a_difference_is_said_in_one_sentence(expected, actual, diagnosis):
    said = difference(actual, expected)
    assert said.startswith(diagnosis) and ("transposed" in said) == ("transposed" in diagnosis)


@pytest.mark.parametrize(
    ("given", "sign"), [(1.00005, "✓"), (1.001, "✗"), (1, "✓"), (1.0, "✓"), (True, "✗"), (torch.tensor(1.0), "✓")]
)
def test_rounding_is_forgiven_and_a_mistake_in_the_third_place_is_not(given, sign):
    assert Exercise("t", 1.0, ["h"], []).check(given).sign == sign
    assert echo(1.0).check(lambda x: given).sign == sign


def test_small_numbers_are_compared_by_their_own_size():
    assert echo(1e-3).check(lambda x: 2e-3).sign == "✗"


@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x.clone().requires_grad_(), lambda x: [x]])
def test_another_precision_a_gradient_or_a_list_too_many_is_not_correct(change):
    assert echo(torch.ones(3)).check(change).sign == "✗"


def test_each_hint_is_its_own_and_there_is_none_before_the_first():
    exercise = echo(1)
    assert [exercise.hint(i).text for i in (1, 2, 3)] == exercise.hints
    assert exercise.hint(2).headline == "Hint 2 of 3"
    assert exercise.hint(0).headline == exercise.hint(4).headline == exercise.hint(-1).headline == "There are 3 hints"


def test_the_solution_is_the_function_at_the_left_edge_or_the_value():
    def doubled(x):
        return 2 * x

    assert Exercise("t", doubled, [], []).solution().code == "def doubled(x):\n    return 2 * x"
    assert Exercise("t", 2.5, [], []).solution().code == "2.5"


def test_an_answer_that_writes_does_no_harm_and_hears_into_which_argument():
    a, b = torch.ones(2), torch.ones(2)
    exercise = Exercise("t", lambda a, b: a + b, ["h"], [], [(a, b)])
    assert "it writes into its argument b" in exercise.check(lambda a, b: a + b.mul_(2) / 2).text
    assert torch.equal(b, torch.ones(2)) and exercise.check(lambda a, b: a + b).sign == "✓"


def test_random_numbers_are_drawn_alike_by_answer_and_reference():
    exercise = Exercise("t", lambda n: torch.randn(n), ["h"], [], [(3,), (4,)])
    torch.manual_seed(5)
    assert exercise.check(lambda n: torch.randn(n)).sign == "✓"


def without_anything(x):
    pass


def says_a_constant(x):
    return 3


@pytest.mark.parametrize(
    ("answer", "attempted"),
    [(without_anything, False), (lambda x: ..., False), (says_a_constant, True), (lambda x: x, True), (len, True)],
)
def test_only_a_function_that_does_nothing_is_not_attempted(answer, attempted):
    assert (echo(2).check(answer).sign != "…") == attempted


def test_a_number_between_whole_ones_is_told_only_where_a_whole_one_is_asked_for():
    assert Exercise("t", 0.5, ["h"], []).check(0.7).text == "That is too large."
    assert Exercise("t", 0.5, ["h"], []).check(0.3).text == "That is too small."
    assert Exercise("t", 5, ["h"], []).check(4.5).text == "A whole number is asked for, and the answer is 4.5."


def test_a_function_is_not_a_value_and_a_value_not_a_function():
    assert "asks for a function, and the answer is 3" in echo(1).check(3).text
    assert "asks for a value, and the answer is a function" in Exercise("t", 1, ["h"], []).check(lambda: 1).text


def test_a_misconception_is_recognised_only_where_every_case_agrees_with_it():
    exercise = Exercise("t", lambda x: x * x, ["h"], [(lambda x: 2 * x, "doubled")], [(2,), (3,), (4,)])
    assert exercise.check(lambda x: 2 * x).text == "doubled"
    assert exercise.check(lambda x: x + 3).text.startswith("For x=2: it gives 5, but 4")
    assert "For x=3: it gives 6" in exercise.check(lambda x: 2 * x if x < 4 else 16).text


def test_what_an_answer_returns_is_named_where_it_cant_even_be_observed():
    exercise = Exercise("t", lambda: [1], ["h"], [], observe=lambda answer: sum(answer()))
    assert exercise.check(lambda: print(end="")).text.startswith("It returns nothing; is the return missing?")
    assert exercise.check(lambda: 7).text == "It returns 7, and a list of 1: a number is asked for"


def test_a_card_shows_code_and_text_as_they_are_in_html_and_in_plain_text():
    card = Card("✗", "a < b", "x < y", "if a < b: c & d")
    page = card._repr_html_()
    assert "a &lt; b" in page and "x &lt; y" in page
    assert "if a &lt; b: c &amp; d" in re.sub("<[^>]*>", "", page)
    assert repr(card) == "✗ a < b\nx < y\nif a < b: c & d"


def test_a_card_links_where_a_bug_was_met_and_folds_the_choices():
    page = Card("…", "What?", "Met in huggingface/peft#2018.", choices={"a": "x < y", "b": "z"})._repr_html_()
    assert '<a href="https://github.com/huggingface/peft/issues/2018">huggingface/peft#2018</a>' in page
    assert "<details><summary>2 choices</summary><div><b>a</b> x &lt; y</div><div><b>b</b> z</div></details>" in page


def test_the_clinic_shows_what_was_done_and_not_what_we_call_it():
    card = PATIENTS[0].reveal()
    assert "sick" not in card.code and "cured" not in card.code and "model.requires_grad_(False)" in card.code


def doubled(known=(), hints=("first", "second")):
    return Exercise("t", lambda x: 2 * x, list(hints), list(known), [(torch.arange(3.0),), (torch.ones(2, 2),)])


def test_an_exception_comes_with_the_learners_own_line_and_what_stood_in_it():
    def answer(x):
        y = torch.ones(5)
        return x @ y

    text = doubled().check(answer).text
    assert "it raises RuntimeError" in text and "The line is: return x @ y" in text
    assert "with x=[0, 1, 2], y=[1, 1, 1, 1, 1]" in text


def test_a_known_mistake_that_raises_is_known_whatever_its_line_looks_like():
    exercise = doubled([(lambda x: x.foo, "A tensor has no foo.")])

    def answer(x):
        z = x
        return z.foo

    assert exercise.check(answer).text == "A tensor has no foo."


def test_a_failing_card_offers_the_hint_that_comes_next_until_there_is_none(monkeypatch):
    exercise = doubled()
    assert exercise.check(lambda x: x).offer == "A hint: hint(1)"
    exercise.hint(1)
    assert exercise.check(lambda x: x).offer == "A hint: hint(2)"
    exercise.hint(2)
    assert exercise.check(lambda x: x).offer == "" and exercise.check(lambda x: 2 * x).offer == ""
    from lora_lab.exercises.part_05 import rank_for

    monkeypatch.setattr(rank_for, "_hints_given", 0)
    card = rank_for.check(lambda shapes, budget: -1)
    assert card.offer == "A hint: ex.rank_for.hint(1)" and card.offer in repr(card) and card.offer in card._repr_html_()


def test_checking_leaves_the_notebooks_random_numbers_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    doubled().check(lambda x: x + torch.rand(3))
    assert torch.equal(torch.rand(3), expected) and not torch.are_deterministic_algorithms_enabled()


def keeping(memory):
    """An answer that is right once."""

    def answer(x):
        memory.append(x)
        return 2 * x * len(memory)

    return answer


def seeding(x):
    torch.manual_seed(0)
    return 2 * x


def printing(x):
    print(x)
    return 2 * x


def unfilled(x):
    return torch.empty(3) if x.dim() == 1 else 2 * x


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (keeping([]), "something else the second time"),
        (seeding, "sets the seed of all random numbers"),
        (printing, "It prints as well"),
        (unfilled, "NaN is in the result"),
        (lambda x: 2 * x + (x == 1), "the first at [1]: 3 instead of 2"),
        (lambda x: print(x), "is the return missing?"),
    ],
    ids=["keeps", "seeds", "prints", "unfilled", "off", "prints only"],
)
def test_what_an_answer_does_besides_answering_is_told(answer, told, capsys):
    assert told in doubled().check(answer).text
    assert capsys.readouterr().out == ""


def count_to(goal):
    """A task that is run: return a number that is large enough."""

    def judge(made):
        require(made >= goal, f"Too small. It is {made}.")
        return f"It is {made}."

    return Task("t", lambda: goal, ["h"], [], stages={"a number": judge}, run=True, praise="Yes.")


def test_a_task_takes_every_answer_that_is_good_enough_and_says_what_was_measured():
    assert count_to(5).check(lambda: 5).text == "Yes. It is 5." and count_to(5).check(lambda: 9).sign == "✓"
    assert count_to(5).check(lambda: 4).text == "Too small. It is 4."
    assert count_to(5).check(lambda: [].sort()).text == "It returns nothing; is the return missing?"


def test_a_task_says_where_an_answer_failed_and_leaves_random_numbers_alone():
    def answer():
        torch.manual_seed(1)
        size = "five"
        return size + 5

    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    text = count_to(5).check(answer).text
    assert text.startswith("It raises TypeError") and "The line is: return size + 5   with size='five'" in text
    assert torch.equal(torch.rand(2), expected)


def test_a_task_is_judged_stage_by_stage_and_what_is_still_dots_is_not_held_against_it():
    def doubles(double, halve):
        require(double(3) == 6, f"double(3) is 6, and it gives {double(3)}.")

    def undoes(double, halve):
        require(halve(double(5)) == 5, "halve does not undo double.")
        return "Five came back."

    stages = {"it doubles": doubles, "halve undoes it": undoes}
    task = Task("t", (lambda x: 2 * x, lambda x: x / 2), ["h"], [], stages=stages, praise="Good.")
    right = task.check(lambda x: x + x, lambda x: 0.5 * x)
    assert (right.sign, right.text, right.stages) == ("✓", "Good. Five came back.", dict.fromkeys(stages, "✓"))
    first = task.check(lambda x: x, lambda x: x)
    assert first.text == "double(3) is 6, and it gives 3." and list(first.stages.values()) == ["✗", "…"]
    assert task.check(lambda x: 2 * x, ...).headline == "So far, so good"
    half = task.check(lambda x: 2 * x, stub)
    assert (half.sign, half.headline, list(half.stages.values())) == ("…", "So far, so good", ["✓", "…"])
    assert task.check(stub, stub).headline == task.check(..., ...).headline == "Not attempted yet"
    assert "Asked for: 2, given: 1" in task.check(lambda x: 2 * x).text
    assert "asks for a function, and the answer is 7" in task.check(lambda x: 2 * x, 7).text
    assert "✓ it doubles" in repr(half) and "✓ it doubles" in half._repr_html_()


class Counter:
    """A class as an answer."""

    def __init__(self, start):
        self.number = start

    def up(self): ...


def test_a_class_is_built_method_by_method_and_told_of_a_seed():
    def holds(kind):
        require(kind(3).number == 3, "It forgets its start.")

    def counts(kind):
        counter = kind(3)
        counter.up()
        require(counter.number == 4, "up() does not count.")

    class Whole(Counter):
        def up(self):
            self.number += 1

    class Seeding(Whole):
        def up(self):
            torch.manual_seed(0)
            super().up()

    class Failing(Counter):
        def up(self):
            self.number.add(1)

    task = Task("t", Whole, ["h"], [], stages={"it holds": holds, "it counts": counts}, praise="Good.")
    assert task.check(Whole).sign == "✓"
    assert list(task.check(Counter).stages.values()) == ["✓", "…"]
    assert "sets the seed of all random numbers" in task.check(Seeding).text
    assert "The line is: self.number.add(1)" in task.check(Failing).text
    assert "asks for a class" in task.check(lambda: 1).text


def test_a_choice_wants_its_reason_and_lists_what_there_is():
    choice = EXERCISES["part_03.learned_noise"]
    assert choice.check("D ", 3).sign == "✓" and choice.check("d", 2).text.startswith("d it is.")
    assert "And why?" in choice.check("d").text and "jumps" in choice.check("b").text
    assert "Answer with a letter" in choice.check("e").text and "Answer with a letter" in choice.check("d", 9).text
    assert list(choice.check(...).choices) == ["a", "b", "c", "d", "1", "2", "3", "4"]


def test_an_estimate_is_right_within_its_range():
    estimate = Estimate("t", 20, ["h"], [(150, "That is the end.")], low=15, high=45, praise="About there.")
    assert [estimate.check(number).sign for number in (14.9, 15, 26, 45, 46)] == list("✗✓✓✓✗")
    assert estimate.check(150).text == "That is the end." and estimate.check(60).text == "That is too large."
    assert "A number is asked for" in estimate.check("26").text


def test_the_four_runs_read_as_their_exercises_say():
    runs = importlib.import_module("lora_lab.exercises.part_03").four_runs()
    ends = {letter: losses[-1] for letter, losses in runs.items()}
    assert runs["d"][-1] == max(ends.values()) > runs["d"][0] and min(runs["a"]) == runs["a"][-1]
    assert max(runs["b"][:30]) > 2 * runs["b"][0] and min(ends, key=ends.get) == "c"
    estimate = EXERCISES["part_03.best_step"]
    best = runs["d"].index(min(runs["d"])) + 1
    assert estimate.low + 5 < best < estimate.high - 5


def test_the_letters_of_the_clinic_follow_no_pattern():
    right = [patient.choices.index(patient.bug) for patient in PATIENTS]
    for period in range(1, 6):
        assert any(a != b for a, b in zip(right, right[period:], strict=False))
    assert set(right) == {0, 1, 2, 3}
    assert max(map(right.count, right)) <= 3, "a letter is right four times"


def test_a_guess_is_kept_and_stands_beside_the_answer():
    guess, shown = Guess("numbers trained"), table({"a": [1]}, ["", "n"])
    assert guess.guess(...) is None and guess.beside(shown) is shown
    assert guess.guess("many").headline == guess.guess(True).headline == "A number, please"
    assert guess.beside(shown) is shown
    assert guess.guess(5000).headline == "Your guess: 5,000"
    beside = guess.beside(shown)
    assert repr(beside) == f"{shown!r}\nYour guess: 5,000 (numbers trained)"
    assert "<table" in beside._repr_html_() and "Your guess: 5,000" in beside._repr_html_()
    assert "<pre>7</pre>" in guess.beside(7)._repr_html_() and guess.beside().text == "Numbers trained."
    guess.guess(...)
    assert guess.beside(shown) is shown


def test_a_guess_at_one_of_several_names_them_and_one_on_an_axis_is_drawn():
    choice = Guess("ahead", ["LoRA", "full"])
    assert choice.guess("lora").text == "'LoRA', 'full'" and choice.kept is None
    choice.guess("LoRA")
    picture = loss_curves({"a": [2.0, 1.0], "b": [2.0, 1.5]}, "t")
    assert "Your guess: LoRA" in choice.beside(picture)._repr_html_() and "<img" in choice.beside(picture)._repr_html_()
    lines = len(picture.axes[0].lines)
    for axis in "xy":
        height = Guess("where", axis=axis)
        height.guess(1.25)
        assert height.beside(picture) is picture
    assert len(picture.axes[0].lines) == lines + 2 and picture.alt.endswith("Your guess: 1.25.")


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("number", [-1e9, -3, 0, 0.2, 40, 1e9])
def test_a_guess_however_far_off_is_seen_and_leaves_the_curve_readable(axis, number):
    for log in (True, False):
        picture = loss_curves({"a": [2.0, 1.0, 0.9, 0.9]}, "t", log=log)
        axes = picture.axes[0]
        before = axes.get_xlim() if axis == "x" else axes.get_ylim()
        guess = Guess("where", axis=axis)
        guess.guess(number)
        guess.beside(picture).png()  # a warning would be an error
        after = axes.get_xlim() if axis == "x" else axes.get_ylim()
        assert after[0] <= before[0] < before[1] <= after[1]
        label, (x, y) = axes.texts[-1].get_text(), axes.texts[-1].xy
        assert after[0] <= (x if axis == "x" else y) <= after[1]
        assert label == "your guess" or f"{number:g}" in label


def test_every_guess_is_asked_for_and_shown_beside_its_answer():
    for name in MODULES:
        (path,) = (path for path in NOTEBOOKS.glob("[0-9c]*.ipynb") if solutions.part_of(path) == name)
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        guesses = {
            key
            for key, value in vars(importlib.import_module(f"lora_lab.exercises.{name}")).items()
            if isinstance(value, Guess)
        }
        asked = {cell.split(".")[1] for cell in cells if re.fullmatch(r"ex\.\w+\.guess\(\.\.\.\)", cell)}
        assert asked == guesses, f"{path.name}: each guess has a cell that holds ex.name.guess(...) and nothing else"
        for guess in guesses:
            assert f"ex.{guess}.beside(" in "\n".join(cells), f"{path.name} never shows {guess} beside the answer"
