"""The training loop: what it returns, what it refuses, and that it can be stopped."""

from itertools import chain

import pytest
import torch
from torch import nn

from lora_lab import (
    LinearWithLoRA,
    LoRALayer,
    accuracy,
    evaluate,
    memory_ledger,
    merge_lora,
    replace_linear_with_lora,
    set_seed,
    train_model,
)
from lora_lab.material import create_planted_task, create_toy_dataset
from lora_lab.training import History


@pytest.fixture
def task():
    return create_planted_task()


def test_a_rate_too_high_is_named_even_in_the_first_epoch():
    task = create_planted_task(64)
    history = train_model(nn.Linear(64, 10), task.X, task.y, 1, lr=1e30, batch_size=16, progress=False)
    assert "lr=1e+30 is too high" in history.stopped and "epoch 1" in history.stopped


def test_one_epoch_reads_as_one():
    task = create_planted_task(64)
    history = train_model(nn.Linear(64, 10), task.X, task.y, 1, progress=False)
    assert repr(history) == f"History(1 epoch, training loss {history.train[0]:.3f})"


def test_the_notes_call_works_as_the_notes_write_it():
    X, y = create_toy_dataset(n_samples=1000)
    model = LoRALayer(64, 10, rank=4)
    history = train_model(model, X, y, epochs=10, lr=0.01)
    assert len(history.train) == 10 and history.train[-1] < history.train[0] and not history.val


@pytest.mark.parametrize(("rank", "low", "high"), [(1, 0.35, 0.6), (2, 0.005, 0.015)])
def test_a_planted_rank_two_change_needs_rank_two(task, rank, low, high):
    model = LinearWithLoRA(task.pretrained, rank)
    history = train_model(model, task.X, task.y, epochs=100, lr=0.03, val=(task.X_val, task.y_val), progress=False)
    assert low < history.train[-1] < high
    assert history.val[-1] == evaluate(model, task.X_val, task.y_val)


def test_the_same_seed_gives_the_same_history(task):
    def run(seed):
        set_seed(0)
        return train_model(
            LinearWithLoRA(task.pretrained, 2), task.X, task.y, 3, batch_size=32, seed=seed, progress=False
        ).train

    assert run(1) == run(1) != run(2)


def test_batches_cover_every_example_once_an_epoch_in_a_new_order():
    seen = []

    class Watch(nn.Linear):
        def forward(self, x):
            seen.append(x[:, 0].tolist())
            return super().forward(x)

    train_model(Watch(1, 1), torch.arange(10.0)[:, None], torch.zeros(10, 1), 2, batch_size=4, progress=False)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    first, second = [*chain(*seen[:3])], [*chain(*seen[3:])]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_class_indices_are_learned_with_cross_entropy_also_for_sequences():
    X = torch.randn(40, 3, 8)
    y = X.argmax(-1)
    model = nn.Linear(8, 8)
    train_model(model, X, y, epochs=100, lr=0.1, progress=False)
    assert accuracy(model, X, y) > 0.95 and evaluate(model, X, y) < 0.5


def test_the_mode_and_the_gradients_are_left_as_they_were(task):
    model = nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5)).eval()
    train_model(model, task.X, task.y, 1, progress=False)
    assert not model.training and not model[1].training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.train()
    assert evaluate(model, task.X, task.y) == evaluate(model, task.X, task.y)
    assert model.training


def test_stopping_the_cell_returns_the_history_so_far_and_a_model_that_works(task):
    model, calls = nn.Linear(64, 10), []

    def stop_at_the_fourth(output, y):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return nn.functional.mse_loss(output, y)

    history = train_model(model, task.X, task.y, 10, loss=stop_at_the_fourth, progress=False)
    assert len(history.train) == 3 and history.stopped == "stopped by hand in epoch 4"
    assert "stopped by hand" in repr(history)
    assert model(task.X).isfinite().all() and model.weight.grad is None


def test_a_diverging_training_stops_and_names_the_learning_rate(task, capsys):
    history = train_model(nn.Linear(64, 10), task.X, task.y, 50, lr=1e30)
    assert len(history.train) < 50
    assert history.stopped == (
        "stopped in epoch 2: the loss is inf, most likely because lr=1e+30 is too high: try 1e+29 on a fresh model"
    )
    assert history.stopped in capsys.readouterr().out


@pytest.mark.parametrize("which", ["X", "y"])
def test_nan_in_the_data_is_named_as_the_cause(task, which):
    data = {"X": task.X.clone(), "y": task.y.clone()}
    data[which][3, 3] = float("nan")
    history = train_model(nn.Linear(64, 10), **data, progress=False)
    assert not history.train and f"because {which} contains NaN" in history.stopped


def test_weights_that_are_nan_from_the_start_are_named_as_the_cause(task):
    model = nn.Linear(64, 10)
    nn.init.constant_(model.weight, float("nan"))
    assert "the model's own weights" in train_model(model, task.X, task.y, progress=False).stopped


def test_another_optimizer_can_be_given(task):
    model = nn.Linear(64, 10)
    before = evaluate(model, task.X, task.y)
    train_model(model, task.X, task.y, 5, lr=0.1, optimizer=torch.optim.SGD, progress=False)
    assert evaluate(model, task.X, task.y) < before


def test_a_history_reads_as_a_sentence():
    assert repr(History([1.0, 0.5], [1.1, 0.75])) == (
        "History(2 epochs, training loss 1.000 → 0.500, validation loss 1.100 → 0.750)"
    )
    assert repr(History()) == "History(0 epochs)"


def frozen():
    return nn.Linear(64, 10).requires_grad_(False)


def merged():
    layer = LinearWithLoRA(nn.Linear(64, 10), 2)
    merge_lora(layer)
    return layer


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        (frozen, {}, "nothing to train: every parameter is frozen"),
        (merged, {}, "no trainable parameter takes part in the output; is LoRA merged"),
        (lambda: nn.Linear(64, 10), {"y": torch.ones(3, 10)}, "X has 256 examples and y has 3"),
        (lambda: nn.Linear(64, 1), {"y": torch.ones(256)}, r"output is \(256, 1\) and y is \(256,\); reshape y"),
        (lambda: nn.Linear(64, 10), {"epochs": -1}, "epochs=-1"),
        (lambda: nn.Linear(64, 10), {"epochs": 1.5}, "epochs=1.5"),
        (lambda: nn.Linear(64, 10), {"lr": 0}, "lr=0 is not a positive number"),
        (lambda: nn.Linear(64, 10), {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(task, model, changes, reason):
    with pytest.raises(ValueError, match=reason):
        train_model(model(), **({"X": task.X, "y": task.y} | changes), progress=False)


def three_layers():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_the_ledger_counts_every_number_once():
    model, X, y = three_layers(), torch.randn(5, 6), torch.randn(5, 3)
    ledger = memory_ledger(model, X, y)
    numbers = sum(p.numel() for p in model.parameters())
    assert ledger["weights"] == ledger["gradients"] == ledger["optimizer"] / 2 == 4 * numbers
    # Two layers' outputs after ReLU, which are kept for ReLU and for the next layer; the last output for the loss.
    assert ledger["activations"] == 4 * (5 * 8 + 5 * 8 + 5 * 3)


def test_lora_saves_gradients_and_optimizer_and_no_activations():
    X, y = torch.randn(50, 6), torch.randn(50, 3)
    full, adapted, head = three_layers(), three_layers(), three_layers()
    replace_linear_with_lora(adapted, rank=1)
    head.requires_grad_(False)
    head[4].requires_grad_(True)
    full, adapted, head = (memory_ledger(model, X, y) for model in (full, adapted, head))
    assert adapted["gradients"] < full["gradients"] / 2 and adapted["optimizer"] < full["optimizer"] / 2
    assert adapted["activations"] >= full["activations"] > head["activations"]


def test_a_ledger_leaves_no_gradients_behind():
    model = three_layers()
    memory_ledger(model, torch.randn(5, 6), torch.randn(5, 3))
    assert all(p.grad is None for p in model.parameters())
