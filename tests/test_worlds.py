"""What notebook 05 reads from the record is what its trainings give."""

import pytest
import torch

from lora_lab import accuracy
from lora_lab.material import digits, worlds


@pytest.mark.parametrize("part", worlds.PARTS)
def test_the_record_holds_the_whole_plan_and_a_training_made_again_scores_as_it_says(part):
    planned = {}
    for task, method, rate, seed, targets, _ in worlds.PARTS[part]:
        planned.setdefault((task, method), {}).setdefault(rate, []).append((seed, list(targets)))
    found = worlds.record(part)
    seen = {
        key: {rate: [(row["seed"], row["targets"]) for row in rows] for rate, rows in by_rate.items()}
        for key, by_rate in found.items()
    }
    assert seen == planned
    options = worlds.PARTS[part][7]
    task, method, rate, seed, *_ = options
    data = digits(task, dtype=torch.float64)
    again = 100 * accuracy(worlds.adapted(*options), data.X_test, data.y_test)
    assert abs(found[task, method][rate][seed]["test"] - again) < 1


def test_no_digit_is_both_trained_on_and_kept_aside():
    fit, held = worlds.fit_and_held()
    assert len(held) == 300 and sorted([*fit.tolist(), *held.tolist()]) == list(range(len(digits().X)))


def test_a_part_is_trained_and_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "WEIGHTS", tmp_path)
    monkeypatch.setitem(worlds.PARTS, "ranks", [("rotated", "head", 0.01, 0, worlds.BODY, 1)])
    worlds.make("ranks")
    (row,) = worlds.record("ranks")["rotated", "head"][0.01]
    assert 10 < row["test"] < 90 and row["targets"] == ["fc1", "fc2"]
