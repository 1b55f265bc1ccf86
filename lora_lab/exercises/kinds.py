"""Exercises with open answers.

A ``Task`` is judged by what was built can do, a ``Choice`` by its reason too, an ``Estimate`` by a range.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import wraps
from io import StringIO

import torch

from ..adapt import count_parameters
from ..checks import whole_number
from ..find import adapted_layers, lora_parameters
from .cards import Card
from .compare import describe, same, tensor
from .engine import SEED, Exercise, is_stub, laboratory, own_line, unlike, what_it_printed


class Missing(Exception):
    """What a stage of a task still lacks: the sentence that the learner reads."""


class _Untouched(Exception):
    """A part of the answer is called whose body is still ``...``."""


def require(holds, sentence):
    """Go on if it holds; else the stage ends here, with this sentence."""
    if not holds:
        raise Missing(sentence)


def require_lora(model, kind, at_most):
    """Go on with a model of this kind that has a LoRA of at most so many numbers in it, and nothing else new."""
    require(
        isinstance(model, kind),
        f"Return the model itself, a {kind.__name__}. This is of type {type(model).__name__}.",
    )
    require(
        adapted_layers(model), "There is no LoRA in it: put it in with replace_linear_with_lora, and leave it there."
    )
    numbers = sum(parameter.numel() for parameter in lora_parameters(model).values())
    require(
        numbers <= at_most,
        f"A and B hold {numbers:,} numbers, more than {at_most:,}: fewer layers, or a lower rank.",
    )
    require(
        count_parameters(model).total - numbers == count_parameters(kind()).total,
        "Something besides A and B was added to the model.",
    )
    return f"{numbers:,} numbers."


def require_plan(given, asked):
    """Go on if a plan is a dictionary that says exactly what is asked for."""
    require(isinstance(given, dict), f"Return a dictionary; this is of type {type(given).__name__}.")
    lacking, strange = sorted(asked - set(given)), sorted(set(given) - asked)
    require(not lacking, f"The plan does not say {', '.join(lacking)}.")
    require(not strange, f"The plan has {', '.join(strange)}, which is not asked for.")


def require_whole_numbers(given, names):
    """Go on if these of a plan are whole numbers from 1 up."""
    for name in names:
        try:
            whole_number(name, given[name])
        except ValueError as error:
            require(False, f"{error}.")


@dataclass
class Task(Exercise):
    """Something to build, to train or to repair. There are many right answers, so what it does is judged, in stages.

    ``stages`` is ``{what it asks for: judge}``, and each is looked at when those before it hold. ``judge(*answers)``
    tries out what was built and ``require``s; it may return a sentence on what was measured. Where ``run`` is set, the
    answer is called once, and the stages judge what it returns. ``reference`` is a function or a class, or a tuple of
    several. The sentence of a misconception is what its stage says.
    """

    stages: dict[str, Callable] = field(default_factory=dict)
    run: bool = False

    def source(self):
        """The reference answers as the learner would type them."""
        return "\n\n\n".join(Exercise("", part, [], []).source() for part in _tuple(self.reference))

    def _judge(self, answer):
        wanted, given = _tuple(self.reference), _tuple(answer)
        if len(wanted) != len(given):
            return Card("✗", "Not yet", f"Asked for: {len(wanted)}, given: {len(given)}. See what stands in check( ).")
        if all(map(is_stub, given)):
            card = super()._judge(...)
            return replace(card, stages=dict.fromkeys(self.stages, "…") if len(self.stages) > 1 else {})
        for part, reference in zip(given, wanted, strict=True):
            if not is_stub(part) and (refused := unlike(part, reference)):
                return Card("✗", "Not yet", refused)
        return self._compare(answer)

    def _compare(self, answer):
        answers, printed = _tuple(answer), StringIO()
        # What trains shows its bar and what it prints; what is tried out many times would flood the page.
        with laboratory(), nullcontext() if self.run else redirect_stdout(printed):
            signs, said, measured = self._walk(answers)
        stages = signs if len(signs) > 1 else {}
        if "✗" not in signs.values() and "…" in signs.values():
            return Card("…", "So far, so good", "The next stage is still to be written.", stages=stages)
        if "✗" in signs.values():
            return Card("✗", "Not yet", " ".join([said, *measured]) + what_it_printed(printed), stages=stages)
        praise = self.praise + " (It prints as well; that can go now.)" * bool(printed.tell())
        return Card("✓", "Correct", " ".join([praise, *measured]), stages=stages)

    def _walk(self, answers):
        """How far the answers come: a sign for each stage, what is missing, and what was measured on the way."""
        signs, measured, stage = dict.fromkeys(self.stages, "…"), [], next(iter(self.stages))
        torch.manual_seed(SEED)
        try:
            things = [_called(answers[0])] if self.run else [_armed(answer) for answer in answers]
            for stage, judge in self.stages.items():
                torch.manual_seed(SEED)
                found = judge(*things)
                signs[stage] = "✓"
                measured += [found] if found else []
        except _Untouched:
            return signs, "", measured
        except Missing as missing:
            said = str(missing)
        except Exception as error:
            said = f"It raises {type(error).__name__}: {error}.{own_line(answers, error)}"
        else:
            return signs, "", measured
        signs[stage] = "✗"
        return signs, said, measured


def _tuple(answer):
    return answer if isinstance(answer, tuple) else (answer,)


def _called(answer):
    made = answer()
    require(made is not None, "It returns nothing; is the return missing?")
    return made


def _armed(answer):
    """The answer, but that it tells of what is still ``...`` in it, and of a seed that it sets, when it is called."""
    if inspect.isclass(answer):
        own = {name: _armed(thing) for name, thing in vars(answer).items() if inspect.isfunction(thing)}
        return type(answer)(answer.__name__, (answer,), own)

    @wraps(answer)
    def called(*arguments, **named):
        if is_stub(answer):
            raise _Untouched
        before = torch.initial_seed()
        result = answer(*arguments, **named)
        require(
            torch.initial_seed() == before, "It sets the seed of all random numbers, which belongs to whoever calls it."
        )
        return result

    return called


@dataclass
class Choice(Exercise):
    """One of several ``choices``, ``{"a": …}``, and, where there are ``reasons``, ``{1: …}``, for one of these.

    ``reference`` is a letter, or a letter and a number. So is the wrong answer of a misconception; a letter alone is
    wrong for whatever reason.
    """

    choices: dict[str, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def _judge(self, answer):
        listed = {**self.choices, **{str(number): reason for number, reason in self.reasons.items()}}
        wanted = 'a letter in quotation marks, "a"' + ', and the number of a reason: "a", 1' * bool(self.reasons)
        letter, number = _pair(answer)
        if is_stub(letter):
            return Card("…", "Not attempted yet", f"Replace the ... with {wanted}.", choices=listed)
        if (
            not isinstance(letter, str)
            or letter not in self.choices
            or (number is not None and number not in self.reasons)
        ):
            return Card("✗", "Not yet", f"Answer with {wanted}.", choices=listed)
        right, _ = _pair(self.reference)
        for wrong, sentence in self.misconceptions:
            if (letter != right and _pair(wrong)[0] == letter) or (letter, number) == wrong:
                return Card("✗", "Not yet", sentence)
        if self.reasons and number is None:
            return Card("✗", "Not yet", "And why? Give the number of a reason as well.", choices=listed)
        return Card("✓", "Correct", self.praise)


def _pair(answer):
    """A letter, and a number or None."""
    letter, number = answer if isinstance(answer, tuple | list) and len(answer) == 2 else (answer, None)
    number = int(number) if isinstance(number, str) and number.strip().isdigit() else number
    return letter.strip().lower() if isinstance(letter, str) else letter, number


@dataclass
class Estimate(Exercise):
    """A number that is read off a figure, or estimated: right from ``low`` to ``high``. ``reference`` is a good one."""

    low: float = 0.0
    high: float = 0.0

    def _compare(self, answer):
        number = tensor(answer)
        if number is None or number.numel() != 1:
            return Card("✗", "Not yet", f"A number is asked for, and the answer is {describe(answer)}.")
        if self.low <= number <= self.high:
            return Card("✓", "Correct", self.praise)
        for wrong, sentence in self.misconceptions:
            if same(answer, wrong):
                return Card("✗", "Not yet", sentence)
        return Card("✗", "Not yet", f"That is too {'large' if number > self.high else 'small'}.")
