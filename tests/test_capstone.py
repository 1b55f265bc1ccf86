"""The capstone's page: what is measured, and that words say no more."""

import pytest
from test_exercises import stub

from lora_lab import load_adapter
from lora_lab.exercises import capstone as ex
from lora_lab.exercises.engine import Exercise
from lora_lab.exercises.page import Measured, measure, page
from lora_lab.material import TinyGPT, shipped_adapter
from lora_lab.material.texts import ships_log

STEPS = (ex.split.reference, None, lambda *_: {0.001: 2.0, 0.003: 1.0, 0.01: 3.0}, None, *ex.out_and_back.reference)


def trained(text, lr):
    """What stands for a training: an adapter that is there."""
    model = TinyGPT.pretrained()
    load_adapter(model, shipped_adapter("tales"))
    return model


def half(model, prose, limit):
    for layer in ex.lora_layers(model).values():
        layer.lora.strength = 0.5
    return 0.5


@pytest.fixture(scope="module")
def measured():
    split, _, rates, _, publish, fetch = STEPS
    return measure(ships_log(100), split, trained, rates, half, publish, fetch)


def test_what_is_missing_is_named_before_anything_is_trained():
    card = measure(ships_log(100), STEPS[0], stub, STEPS[2], stub, stub, stub)
    assert card.text == "Still to be written: adapt, turn_down, publish, fetch."


def test_the_adapter_that_came_back_is_measured_on_text_that_nobody_chose_by(measured):
    assert list(measured.rows) == ["held out", "learned from", "prose"]
    base, adapted = measured.rows["prose"]
    assert 1 < base < 1.5 < adapted
    assert (
        measured.facts["strength"] == "0.5, for a limit of 0.5 nats"
        and measured.facts["learning rate"] == "0.003, of 0.001, 0.003, 0.01"
    )
    assert measured.facts["PEFT"] == "reads it, with the same outputs"
    assert measured.base_writes != measured.adapter_writes
    assert f"{adapted:.2f}" in repr(measured) and "<table" in measured._repr_html_()


FACTS = Measured({"held out": (3.26, 1.14)}, {"file": "232,361 bytes"}, "Day 1. Base", "Day 1. <Log>")
WORDS = (
    "It was made from a ship's log and writes entries of one. "
    "On days that it has not seen it went from 3.26 nats to 1.14. It is good for nothing else at all."
)


def test_a_page_says_what_was_measured_and_is_written_to_a_file(tmp_path):
    done = page("My <log>", WORDS, FACTS)
    path = done.save(tmp_path / "mine.html")
    text = path.read_text(encoding="utf-8")
    assert "My &lt;log&gt;" in text and "Day 1. &lt;Log&gt;" in text and "1.14" in text and WORDS[:40] in repr(done)


@pytest.mark.parametrize(
    ("title", "words", "measured", "said"),
    [
        (..., ..., FACTS, "Give it a title"),
        ("t", WORDS, "no card", "The five steps come first"),
        ("t", "It went from 3.26 to 1.14.", FACTS, "At least 25 words"),
        ("t", WORDS.replace("3.26", "much").replace("1.14", "little"), FACTS, "There is no number"),
        ("t", WORDS.replace("1.14", "0.9"), FACTS, "Your words say 0.9, which stands in no measurement"),
        ("t", WORDS.replace("1.14", "1.1"), FACTS, "Your words say 1.1"),
        ("t", ["a"], FACTS, "are texts"),
    ],
)
def test_a_page_that_says_more_is_told_so(title, words, measured, said):
    card = page(title, words, measured)
    assert card.sign in "…✗" and said in card.text


def test_the_steps_of_the_capstone_are_exercises_of_its_notebook():
    assert [name for name, thing in vars(ex).items() if isinstance(thing, Exercise)] == [
        "split", "adapt", "try_rates", "turn_down", "out_and_back",
    ]  # fmt: skip
