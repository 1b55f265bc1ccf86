"""The engine: an ``Exercise`` checks an answer by what it computes, and says in one sentence what is wrong with it.

It never raises: a learner's mistake ends in a sentence, not in a traceback.
"""

import copy
import dis
import html
import inspect
import linecache
import re
import sys
import textwrap
import traceback
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from numbers import Real

import torch
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

COLOURS = {"✓": "#009E73", "✗": "#D55E00", "…": "#767676", "?": "#0072B2"}
# Code keeps a light ground of its own, on which its colours can be read in a dark page, too.
PRINTER = HtmlFormatter(noclasses=True, prestyles="padding: 0.5em; border-radius: 6px; color: #222222")
# Where something was met: "owner/name#7" is an issue or a change of a repository on GitHub.
ISSUE = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)")


@dataclass
class Card:
    """What the learner gets back: a sign, a headline, a sentence. Readable without colour.

    ``choices`` are folded on a page, so that nobody reads them before an answer of their own. ``offer`` says how to get
    on from here; it is not what the card has to say.
    """

    sign: str
    headline: str
    text: str = ""
    code: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    offer: str = field(default="", compare=False)

    def __repr__(self):
        listed = "\n".join(f"{letter}  {choice}" for letter, choice in self.choices.items())
        lines = [f"{self.sign} {self.headline}", self.text, self.code, listed, self.offer]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self):
        edge = f"border-left: 6px solid {COLOURS[self.sign]}; padding: 0.4em 1em; margin: 0.3em 0; max-width: 46em"
        code = highlight(self.code, PythonLexer(), PRINTER) if self.code else ""
        text = ISSUE.sub(r'<a href="https://github.com/\1/issues/\2">\1#\2</a>', html.escape(self.text))
        listed = "".join(f"<div><b>{letter}</b> {html.escape(choice)}</div>" for letter, choice in self.choices.items())
        folded = f"<details><summary>{len(self.choices)} choices</summary>{listed}</details>" if listed else ""
        headline = html.escape(self.headline)
        offer = f'<div style="color: #767676">{html.escape(self.offer)}</div>' if self.offer else ""
        return f'<div style="{edge}"><b>{self.sign} {headline}</b><div>{text}</div>{code}{folded}{offer}</div>'


@dataclass
class Exercise:
    """A question with its reference answer, hints from gentle to plain, and the wrong answers that people really give.

    ``reference`` is a function, compared on ``cases`` (tuples of arguments), or else a plain value. ``misconceptions``
    pairs a wrong answer of the same kind with the sentence that puts it right. ``observe(answer, *case)`` says what to
    compare, where that is not simply what the answer returns.
    """

    title: str
    reference: object
    hints: list[str]
    misconceptions: list[tuple[object, str]]
    cases: list[tuple] = field(default_factory=lambda: [()])
    observe: Callable = lambda answer, *case: answer(*case)
    praise: str = "Correct."
    _hints_given: int = field(default=0, repr=False)

    def check(self, answer):
        """A card that says: not attempted yet, correct, or what is wrong and which hint comes next."""
        card = self._judge(answer)
        if card.sign == "✗" and self._hints_given < len(self.hints):
            card.offer = f"A hint: {self._name()}hint({self._hints_given + 1})"
        return card

    def _judge(self, answer):
        try:
            if answer is ... or (callable(answer) and _is_stub(answer)):
                return Card("…", "Not attempted yet", "Replace the ... with your answer and run the cell again.")
            if inspect.isclass(answer):
                return Card("✗", "Not yet", "The answer is a class. Write a plain function, with def.")
            if callable(self.reference) != callable(answer):
                wanted = "a function" if callable(self.reference) else "a value"
                return Card("✗", "Not yet", f"This exercise asks for {wanted}, and the answer is {_describe(answer)}.")
            return self._compare(answer)
        except Exception as error:  # an answer may be any object at all
            return Card("✗", "Not yet", f"The answer could not be compared: {type(error).__name__}: {error}")

    def hint(self, number=1):
        """A card with one hint: 1 is the gentlest, the last is plain."""
        if number not in range(1, len(self.hints) + 1):
            return Card("?", f"There are {len(self.hints)} hints", f"Ask for hint(1) to hint({len(self.hints)}).")
        self._hints_given = max(number, self._hints_given)
        return Card("?", f"Hint {number} of {len(self.hints)}", self.hints[number - 1])

    def solution(self):
        """A card with the reference answer."""
        return Card("?", "One solution", code=self.source())

    def source(self):
        """The reference answer as the learner would type it."""
        if callable(self.reference):
            return textwrap.dedent(inspect.getsource(self.reference)).rstrip()
        return repr(self.reference)

    def _compare(self, answer):
        if not callable(self.reference):
            return self._compare_value(answer)
        expected = self._results(self.reference)
        printed = StringIO()
        with redirect_stdout(printed):
            actual = [self._twice(answer, case) for case in self.cases]
        if all(_same(a, e) for a, e in zip(actual, expected, strict=True)):
            return Card("✓", "Correct", self.praise + " (It prints as well; that can go now.)" * bool(printed.tell()))
        for wrong, sentence in self.misconceptions:
            if all(_same(a, w) or _fails_alike(a, w) for a, w in zip(actual, self._results(wrong), strict=True)):
                return Card("✗", "Not yet", sentence)
        i = next(i for i, (a, e) in enumerate(zip(actual, expected, strict=True)) if not _same(a, e))
        given = (
            f"For {', '.join(map(_labelled, self._names()[-len(self.cases[i]) :], self.cases[i]))}: "
            if self.cases[i]
            else ""
        )
        found = difference(actual[i], expected[i])
        # A small whole number may be right by chance, which is no reason to praise it.
        partly_right = i > 0 and not isinstance(expected[i], int)
        text = "Right for other arguments, but not for all. " * partly_right + given + found
        return Card("✗", "Not yet", text[0].upper() + text[1:])

    def _name(self):
        """How a notebook calls the exercise, "ex.rank_for."; empty where it belongs to no notebook."""
        parts = [module for name, module in sys.modules.items() if name.startswith("lora_lab.exercises.part_")]
        names = [name for part in parts for name, value in vars(part).items() if value is self]
        return f"ex.{names[0]}." if names else ""

    def _names(self):
        """What the exercise calls its arguments."""
        return list(inspect.signature(self.reference).parameters)

    def _compare_value(self, answer):
        if _same(answer, self.reference):
            return Card("✓", "Correct", self.praise)
        for wrong, sentence in self.misconceptions:
            if _same(answer, wrong):
                return Card("✗", "Not yet", sentence)
        number = _tensor(answer)
        if number is None or number.numel() != 1:
            return Card("✗", "Not yet", f"This exercise asks for a number, and the answer is {_describe(answer)}.")
        if isinstance(self.reference, int) and number != number.round():
            return Card("✗", "Not yet", f"A whole number is asked for, and the answer is {_describe(answer)}.")
        # Saying by how much would give the answer away.
        return Card("✗", "Not yet", f"That is too {'large' if number > self.reference else 'small'}.")

    def _results(self, answer):
        return [self._result(answer, case) for case in self.cases]

    def _twice(self, answer, case):
        """The result of one case, if a second call gives the same."""
        first, again = (self._result(answer, case) for _ in range(2))
        if _same(first, again) or not _same(first, copy.deepcopy(first)):  # NaN, a fault, an object of one's own
            return first
        return _Fault("it gives something else the second time; does it keep something between two calls?")

    def _result(self, answer, case):
        """What there is to compare for one case; what went wrong is part of it."""
        arguments, returned, seeds = copy.deepcopy(case), [], set()

        def recorded(*given):
            torch.manual_seed(_SEED)
            returned.append(answer(*given))
            seeds.add(torch.initial_seed())
            return returned[-1]

        with _laboratory():
            try:
                result = self.observe(recorded, *arguments)
            except Exception as error:
                if returned and returned[0] is None:
                    return _Fault("it returns nothing; is the return missing?")
                if returned and answer is not self.reference:
                    wanted = _kind(self.reference(*copy.deepcopy(case)))
                    return _Fault(f"it returns {_describe(returned[0])}, and {wanted} is asked for")
                return _Fault(f"it raises {type(error).__name__}: {error}", _own_line(answer, error))
            if seeds - {_SEED}:
                return _Fault("it sets the seed of all random numbers, which belongs to whoever calls it")
        for i, (now, before) in enumerate(zip(arguments, case, strict=True)):
            if isinstance(before, torch.Tensor) and not torch.equal(now, before):
                return _Fault(f"it writes into its argument {self._names()[i]}, which belongs to somebody else")
        return result


@dataclass
class Challenge(Exercise):
    """A task with many right answers: not what the answer returns is compared, but what that can do is measured.

    ``judge(made)`` gives two sentences: what is missing, empty where nothing is, and what was measured. The sentence of
    a misconception is what is missing.
    """

    judge: Callable = None

    def _compare(self, answer):
        with torch.random.fork_rng(devices=[]):
            try:
                made = answer()
            except Exception as error:
                return Card("✗", "Not yet", f"It raises {type(error).__name__}: {error}.{_own_line(answer, error)}")
            if made is None:
                return Card("✗", "Not yet", "It returns nothing; is the return missing?")
            missing, measured = self.judge(made)
        if missing:
            return Card("✗", "Not yet", f"{missing} {measured}".rstrip())
        return Card("✓", "Correct", f"{self.praise} {measured}")


_SEED = 271_828  # nobody's own


@contextmanager
def _laboratory():
    """A place where the caller's random numbers stay untouched, and memory that nobody has filled holds NaN."""
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)


def _own_line(answer, error):
    """The line of the answer in which an error arose, and what stood in it."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    source = linecache.getline(file, frames[-1][1]).strip() if frames else ""
    if not source:
        return ""
    frame = frames[-1][0]
    words = dict.fromkeys(re.findall(r"[A-Za-z_]\w*", source))
    stood = [_labelled(word, frame.f_locals[word]) for word in words if word in frame.f_locals]
    return f" The line is: {source}" + f"   with {', '.join(stood)}" * bool(stood)


@dataclass
class _Fault:
    """Stands for the result of an answer that gave none, and is never right. ``where`` is the answer's own line."""

    message: str
    where: str = field(default="", compare=False)


def difference(actual, expected):
    """One sentence on how a result differs from the expected one: kind, shape, dtype, gradient, sign, scale, value."""
    if isinstance(actual, _Fault):
        return actual.message + actual.where
    if actual is None:
        return "it returns nothing; is the return missing?"
    if isinstance(expected, dict):  # what an exercise has observed, by name
        name = next(name for name in expected if not _same(actual[name], expected[name]))
        return f"{name} is {actual[name]}, but {expected[name]} is right"
    if isinstance(expected, (tuple, list)):
        if not isinstance(actual, (tuple, list)):
            return f"it gives {_describe(actual)}, but {len(expected)} things are asked for"
        if len(actual) != len(expected):
            return f"it gives {len(actual)} things, but {len(expected)} are asked for"
        i = next(i for i, (a, e) in enumerate(zip(actual, expected, strict=True)) if not _same(a, e))
        return f"of the {len(expected)} results, number {i + 1} is off: {difference(actual[i], expected[i])}"
    a, e = _tensor(actual), _tensor(expected)
    if a is None or e is None:
        return f"it gives {_describe(actual)}, but {_describe(expected)} is right"
    if a.shape != e.shape:
        if e.dim() == 0:
            return f"one number is asked for, and it gives {_describe(actual)}"
        turned = " Is it transposed?" if e.dim() == 2 and a.shape == e.T.shape else ""
        return f"the result has shape {tuple(a.shape)}, but {tuple(e.shape)} is right.{turned}"
    if isinstance(actual, torch.Tensor) and isinstance(expected, torch.Tensor):
        if actual.dtype != expected.dtype:
            return f"the result is of type {actual.dtype}, but {expected.dtype} is right"
        if torch.allclose(a, e) and actual.requires_grad != expected.requires_grad:
            missing = "carries no gradient, so nothing could learn from it" if expected.requires_grad else ""
            return f"the numbers are right, but the result {missing or 'still requires a gradient'}"
    if e.any() and torch.allclose(a, -e, rtol=1e-4, atol=1e-6):
        return "the sign is reversed, everything else is right"
    if a.numel() == 1:
        if isinstance(expected, int) and a.item() != round(a.item()):
            return f"a whole number is asked for, and it gives {a.item():.6g}"
        return f"it gives {a.item():.6g}, but {e.item():.6g} is right"
    ratio = ((a * e).sum() / (e * e).sum()).item()
    if ratio > 0 and torch.allclose(a, ratio * e, rtol=1e-3, atol=1e-6):
        return f"everything is {max(ratio, 1 / ratio):.4g} times too {'large' if ratio > 1 else 'small'}"
    off = ~torch.isclose(a, e, rtol=1e-4, atol=1e-6)
    place = tuple(off.nonzero()[0].tolist())
    first = f"the first at {list(place)}: {a[place]:.4g} instead of {e[place]:.4g}"
    return f"{int(off.sum())} of {e.numel()} numbers are off, {first}"


def _same(actual, expected):
    if isinstance(actual, _Fault) or isinstance(expected, _Fault):
        return False
    if isinstance(expected, dict):
        return isinstance(actual, dict) and _same(list(actual.values()), list(expected.values()))
    if isinstance(expected, (tuple, list)):
        alike = isinstance(actual, (tuple, list)) and len(actual) == len(expected)
        return alike and all(_same(a, e) for a, e in zip(actual, expected, strict=True))
    a, e = _tensor(actual), _tensor(expected)
    if a is None or e is None:
        return type(actual) is type(expected) and actual == expected
    if (
        isinstance(actual, torch.Tensor)
        and isinstance(expected, torch.Tensor)
        and (actual.requires_grad != expected.requires_grad or actual.dtype != expected.dtype)
    ):
        return False
    return a.shape == e.shape and torch.allclose(a, e, rtol=1e-4, atol=1e-6)


def _fails_alike(actual, wrong):
    """Whether a known wrong answer fails with the same words."""
    return isinstance(actual, _Fault) and actual == wrong


def _tensor(value):
    """Numbers and tensors as one kind, to be compared; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach().double()
    if isinstance(value, Real) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _is_stub(function):
    """Whether a function's body is still ``...``, whatever its docstring."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP")]
    idle = ("LOAD_CONST", "RETURN_CONST", "RETURN_VALUE")
    return all(step.opname in idle and step.argval in (None, ...) for step in steps)


def _describe(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, torch.nn.Module):
        return f"a module of type {type(value).__name__}"
    if type(value) in (tuple, list) and 0 < len(value) <= 4:
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(_describe, value))}"
    return "a function" if callable(value) else _short(value)


def _kind(value):
    """What a value is, without saying which."""
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        _describe(value)
        if isinstance(value, (torch.Tensor, torch.nn.Module))
        else f"a value of type {type(value).__name__}"
    )


def _labelled(name, value):
    """An argument as the learner reads it: ``rank=4``, ``x (5 × 6)``."""
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        return f"{name} ({' × '.join(map(str, value.shape))})"
    if isinstance(value, torch.nn.Module):
        return f"a {name}"
    return f"{name}={_short(value)}"


def _short(value):
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        return f"a {' × '.join(map(str, value.shape))} tensor"
    try:
        text = repr(value.item() if isinstance(value, torch.Tensor) else value)
    except Exception:  # an object that can't even be printed
        text = ""
    return text if 0 < len(text) <= 40 else f"an object of type {type(value).__name__}"
