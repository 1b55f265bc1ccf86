"""The trainings of notebook 13: what is recorded is whole, and the machinery that made it still runs."""

import json

import pytest

from lora_lab.material import questions
from lora_lab.material.questions import PARTS, QUESTIONS, marked, plan, record
from lora_lab.material.texts import ships_log

pytest.importorskip("peft")
ROWS = {"dropout": 8, "again": 5, "unbroken": 1, "tokens": 3}


@pytest.mark.parametrize("part", PARTS)
def test_every_planned_training_is_written_down(part):
    written = json.loads((QUESTIONS / f"{part}.json").read_text())
    assert list(written) == list(plan(part))
    assert {len(rows) for rows in written.values()} == {ROWS[part]}
    assert all({"way", "rate", "seed"} < set(row) for row in record(part))


def test_every_day_of_a_log_is_marked():
    days = marked(ships_log(400))
    assert all(days.count(token) == 400 for token in questions.NEW_TOKENS) and "\n" not in days


@pytest.mark.filterwarnings("ignore")
def test_a_short_training_of_each_kind_runs_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "QUESTIONS", tmp_path)
    monkeypatch.setattr(questions, "RATES", (0.01,))
    monkeypatch.setattr(questions, "SEEDS", (0,))
    monkeypatch.setattr(questions, "STEPS", 1)
    monkeypatch.setattr(questions, "BATCH", 2)
    monkeypatch.setattr(questions, "ships_log", lambda days, seed=0: ships_log(12, seed=seed))
    few = {kind: tuple(half[:2] for half in test[:2]) for kind, test in questions.yardsticks().items()}
    monkeypatch.setattr(questions, "yardsticks", lambda: few)
    for part in PARTS:
        questions.make(part)
        written = json.loads((tmp_path / f"{part}.json").read_text())
        assert list(written) == list(plan(part))
        before = (tmp_path / f"{part}.json").read_text()
        questions.make(part)
        assert (tmp_path / f"{part}.json").read_text() == before, "what is done is not done again"
