"""The engine: an ``Exercise`` checks an answer by what it computes, and says in one sentence what is wrong with it.

It never raises: a learner's mistake ends in a sentence, not in a traceback.
"""

import copy
import dis
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

import torch

from .cards import Card
from .compare import Fault, describe, difference, fails_alike, kind, labelled, same, tensor

SEED = 271_828  # nobody's own
_WITH_EXERCISES = ("lora_lab.exercises.part_", "lora_lab.exercises.capstone")


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

    def check(self, *answers):
        """A card that says: not attempted yet, correct, or what is wrong and which hint comes next."""
        try:
            card = self._judge(answers[0] if len(answers) == 1 else answers)
        except Exception as error:  # an answer may be any object at all
            card = Card("✗", "Not yet", f"The answer could not be compared: {type(error).__name__}: {error}")
        if card.sign == "✗" and self._hints_given < len(self.hints):
            card.offer = f"A hint: {self._name()}hint({self._hints_given + 1})"
        return card

    def _judge(self, answer):
        if is_stub(answer):
            return Card("…", "Not attempted yet", "Replace the ... with your answer and run the cell again.")
        refused = unlike(answer, self.reference)
        return Card("✗", "Not yet", refused) if refused else self._compare(answer)

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
        if all(same(a, e) for a, e in zip(actual, expected, strict=True)):
            return Card("✓", "Correct", self.praise + " (It prints as well; that can go now.)" * bool(printed.tell()))
        for wrong, sentence in self.misconceptions:
            if all(same(a, w) or fails_alike(a, w) for a, w in zip(actual, self._results(wrong), strict=True)):
                return Card("✗", "Not yet", sentence)
        i = next(i for i, (a, e) in enumerate(zip(actual, expected, strict=True)) if not same(a, e))
        given = (
            f"For {', '.join(map(labelled, self._names()[-len(self.cases[i]) :], self.cases[i]))}: "
            if self.cases[i]
            else ""
        )
        found = difference(actual[i], expected[i])
        # A small whole number may be right by chance, which is no reason to praise it.
        partly_right = i > 0 and not isinstance(expected[i], int)
        text = "Right for other arguments, but not for all. " * partly_right + given + found
        return Card("✗", "Not yet", text[0].upper() + text[1:] + what_it_printed(printed))

    def _name(self):
        """How a notebook calls the exercise, "ex.rank_for."; empty where it belongs to no notebook."""
        parts = [module for name, module in sys.modules.items() if name.startswith(_WITH_EXERCISES)]
        names = [name for part in parts for name, value in vars(part).items() if value is self]
        return f"ex.{names[0]}." if names else ""

    def _names(self):
        """What the exercise calls its arguments."""
        return list(inspect.signature(self.reference).parameters)

    def _compare_value(self, answer):
        if same(answer, self.reference):
            return Card("✓", "Correct", self.praise)
        for wrong, sentence in self.misconceptions:
            if same(answer, wrong):
                return Card("✗", "Not yet", sentence)
        number = tensor(answer)
        if number is None or number.numel() != 1:
            return Card("✗", "Not yet", f"This exercise asks for a number, and the answer is {describe(answer)}.")
        if isinstance(self.reference, int) and number != number.round():
            return Card("✗", "Not yet", f"A whole number is asked for, and the answer is {describe(answer)}.")
        # Saying by how much would give the answer away.
        return Card("✗", "Not yet", f"That is too {'large' if number > self.reference else 'small'}.")

    def _results(self, answer):
        return [self._result(answer, case) for case in self.cases]

    def _twice(self, answer, case):
        """The result of one case, if a second call gives the same."""
        first, again = (self._result(answer, case) for _ in range(2))
        if same(first, again) or not same(first, copy.deepcopy(first)):  # a fault, an object of one's own
            return first
        return Fault("it gives something else the second time; does it keep something between two calls?")

    def _result(self, answer, case):
        """What there is to compare for one case; what went wrong is part of it."""
        arguments, returned, seeds = copy.deepcopy(case), [], set()

        def recorded(*given):
            torch.manual_seed(SEED)
            returned.append(answer(*given))
            seeds.add(torch.initial_seed())
            return returned[-1]

        with laboratory():
            try:
                result, error = self.observe(recorded, *arguments), None
            except Exception as caught:
                result, error = None, caught
        for i, (now, before) in enumerate(zip(arguments, case, strict=True)):
            if _is_data(before) and not same(now, before):
                return Fault(f"it writes into its argument {self._names()[i]}, which belongs to somebody else")
        if seeds - {SEED}:
            return Fault("it sets the seed of all random numbers, which belongs to whoever calls it")
        if error and returned and returned[0] is None:
            return Fault("it returns nothing; is the return missing?")
        if error and returned and answer is not self.reference:
            wanted = kind(self.reference(*copy.deepcopy(case)))
            return Fault(f"it returns {describe(returned[0])}, and {wanted} is asked for")
        if error:
            return Fault(f"it raises {type(error).__name__}: {error}", own_line([answer], error))
        if inspect.isgenerator(result):
            return Fault("it gives a generator, from which one can read once; make a list of it: list(...)")
        return result


@contextmanager
def laboratory():
    """A place where the caller's random numbers stay untouched, and memory that nobody has filled holds NaN."""
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)


def _is_data(argument):
    """Whether an argument is numbers, which nobody is asked to change."""
    return isinstance(argument, (torch.Tensor, list))


def what_it_printed(printed):
    """The first lines that an answer has printed into a StringIO, for a card that is not green."""
    lines = printed.getvalue().strip().splitlines()
    return f" (It printed: {' | '.join(line[:60] for line in lines[:3])})" if lines else ""


def own_line(answers, error):
    """The line of the answers in which an error arose, and what stood in it."""
    files = {code.co_filename for answer in answers for code in _codes(answer)}
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename in files
    ]
    source = linecache.getline(frames[-1][0].f_code.co_filename, frames[-1][1]).strip() if frames else ""
    if not source:
        return ""
    frame = frames[-1][0]
    words = dict.fromkeys(re.findall(r"[A-Za-z_]\w*", source))
    stood = [labelled(word, frame.f_locals[word]) for word in words if word in frame.f_locals and word != "self"]
    return f" The line is: {source}" + f"   with {', '.join(stood)}" * bool(stood)


def _codes(answer):
    """The code of a function, or of what is defined in a class and in what it was made from."""
    if inspect.isclass(answer):
        own = [part for part in answer.__mro__ if not part.__module__.startswith(("torch", "builtins"))]
        return [code for part in own for thing in vars(part).values() for code in _codes_of_function(thing)]
    return _codes_of_function(answer)


def _codes_of_function(thing):
    code = getattr(thing, "__code__", None)
    return [code] if code else []


def is_stub(answer):
    """Whether an answer, or the body of a function or of all that a class defines, is still ``...``."""
    if answer is ...:
        return True
    if inspect.isclass(answer):
        own = [thing for thing in vars(answer).values() if inspect.isfunction(thing)]
        return bool(own) and all(map(is_stub, own))
    code = getattr(answer, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP")]
    idle = ("LOAD_CONST", "RETURN_CONST", "RETURN_VALUE")
    return all(step.opname in idle and step.argval in (None, ...) for step in steps)


def unlike(answer, reference):
    """What is wrong with the kind of an answer: a class, a function, a value; empty if it is the reference's."""
    if inspect.isclass(reference):
        return (
            "" if inspect.isclass(answer) else f"This exercise asks for a class, and the answer is {describe(answer)}."
        )
    if inspect.isclass(answer):
        return "The answer is a class. Write a plain function, with def."
    if callable(reference) != callable(answer):
        wanted = "a function" if callable(reference) else "a value"
        return f"This exercise asks for {wanted}, and the answer is {describe(answer)}."
    return ""
