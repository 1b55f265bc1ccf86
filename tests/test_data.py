"""The data: what it is said to be, the same every time, and nothing downloaded."""

import pytest
import torch

from lora_lab import evaluate, spectrum
from lora_lab.material import create_planted_task, create_toy_dataset, digits


def test_the_notes_data_have_the_notes_shapes_and_are_the_same_every_time():
    X, y = create_toy_dataset(n_samples=1000)
    assert X.shape == (1000, 64) and y.shape == (1000, 10)
    assert all(torch.equal(a, b) for a, b in zip((X, y), create_toy_dataset(), strict=True))


def test_in_the_notes_data_nothing_can_be_learned_that_holds_on_new_data():
    X, y = create_toy_dataset(2000)
    weight = torch.linalg.lstsq(X[:1000], y[:1000]).solution
    assert (X[1000:] @ weight - y[1000:]).square().mean() > y[1000:].square().mean()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_planted_change_has_its_rank_and_is_all_that_the_pretrained_layer_lacks(rank):
    task = create_planted_task(n_samples=500, rank=rank, noise=0.1)
    values = spectrum(task.delta)
    assert (values[:rank] > 0.9 * values[0]).all() and (values[rank:] < 1e-4).all()
    assert evaluate(task.pretrained, task.X, task.y) == pytest.approx(1.01, rel=0.15)
    with torch.no_grad():
        task.pretrained.weight += task.delta.T
    for X, y in ((task.X, task.y), (task.X_val, task.y_val)):
        assert evaluate(task.pretrained, X, y) == pytest.approx(0.01, rel=0.1)


def test_a_planted_rank_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="rank=11 is not a whole number from 1 to 10"):
        create_planted_task(rank=11)


def test_the_digits_are_all_there_and_none_is_in_both_parts():
    split = digits()
    assert len(split.X) + len(split.X_test) == 1797 and split.X.shape[1:] == (64,)
    assert split.X.min() == 0 and split.X.max() == 1
    assert not {tuple(x.tolist()) for x in split.X} & {tuple(x.tolist()) for x in split.X_test}
    assert (split.y.bincount() > 120).all() and (split.y_test.bincount() > 40).all()


def test_the_tasks_show_the_same_digits_mirrored_rotated_and_inverted():
    upright = digits().X.view(-1, 8, 8)
    assert torch.equal(digits("mirrored").X.view(-1, 8, 8)[:, :, 0], upright[:, :, 7])
    assert torch.equal(digits("rotated").X.view(-1, 8, 8)[:, 7, 0], upright[:, 0, 0])
    assert torch.equal(digits("inverted").X.view(-1, 8, 8), 1 - upright)
    assert torch.equal(digits("inverted").y_test, digits().y_test)


def test_an_unknown_digit_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="task='upside down' is unknown; choose one of 'upright', 'mirrored'"):
        digits("upside down")
