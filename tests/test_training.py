"""The training loop: what it returns, what it refuses, and that it can be stopped."""

from itertools import chain

import numpy as np
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
    training,
)
from lora_lab.material import create_planted_task, create_toy_dataset
from lora_lab.training import History


@pytest.fixture
def task():
    return create_planted_task()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def watch(module, look):
    """A list that gets what ``look(x)`` says of each input of the module, just before it computes."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(look(*inputs)))
    return seen


def first_numbers(x):
    return x[:, 0].tolist()


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
    model = nn.Linear(1, 1)
    seen = watch(model, first_numbers)
    train_model(model, torch.arange(10.0)[:, None], torch.zeros(10, 1), 2, batch_size=4, progress=False)
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
        (lambda: nn.Linear(64, 3), {"y": torch.ones(256, 1).long()}, r"takes a y of \(256,\), and y is \(256, 1\)"),
        (
            lambda: nn.Linear(64, 10),
            {"val": (torch.ones(2, 64), torch.ones(3, 10))},
            "val: X has 2 examples and",
        ),
        (lambda: nn.Linear(64, 10), {"val": torch.ones(2, 64)}, r"val is a pair, \(X_val, y_val\)"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(task, model, changes, reason):
    with pytest.raises(ValueError, match=reason):
        train_model(model(), **({"X": task.X, "y": task.y} | changes), progress=False)


@pytest.mark.parametrize(("X", "y"), [((5, 64), (5, 1)), ((5, 64), (1,)), ((0, 64), (0,))])
def test_accuracy_is_a_share_of_classes_that_pair_up(X, y):
    with pytest.raises(ValueError, match=r"must pair up|takes a y of \(5,\)"):
        accuracy(nn.Linear(64, 10), torch.ones(X), torch.ones(y).long())


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


class Counter:
    """Stands for an optimizer: remembers how it was made and how many steps it was asked for."""

    def __init__(self, parameters, **options):
        self.parameters, self.options, self.steps = list(parameters), options, 0

    def zero_grad(self):
        pass

    def step(self):
        self.steps += 1


def test_an_epochs_loss_is_the_mean_over_examples_also_when_the_last_batch_is_smaller():
    X, y = torch.arange(10.0)[:, None] ** 2, torch.zeros(10, 1)
    model = nn.Linear(1, 1)
    history = train_model(model, X, y, 1, batch_size=4, optimizer=Counter, progress=False)
    assert history.train == pytest.approx([evaluate(model, X, y)])


def test_another_optimizer_gets_the_rate_and_what_is_to_be_trained_alone():
    model, made = LinearWithLoRA(nn.Linear(4, 4), 2), []

    def optimizer(parameters, **options):
        made.append(Counter(parameters, **options))
        return made[-1]

    X = torch.randn(10, 4)
    train_model(model, X, X, 2, lr=0.07, batch_size=4, optimizer=optimizer, progress=False)
    assert made[0].options == {"lr": 0.07} and made[0].steps == 6
    assert {id(p) for p in made[0].parameters} == {id(model.lora.A), id(model.lora.B)}


@pytest.mark.parametrize("shape", [(3_001, 64), (3_001, 7, 5)], ids=["examples", "sequences"])
def test_loss_and_accuracy_in_pieces_are_those_of_the_whole(shape):
    """A piece is some 30,000 numbers: the data take several, and the last is smaller."""
    X = torch.randn(shape)
    y = (X[..., 0] + X.norm(dim=-1) > shape[-1] ** 0.5).long() * torch.arange(3_001).view(-1, *[1] * (X.dim() - 2)) % 3
    model = nn.Linear(shape[-1], 3)
    output = model(X).detach()
    assert evaluate(model, X, y) == pytest.approx(
        nn.functional.cross_entropy(output.flatten(0, -2), y.flatten()).item()
    )
    assert accuracy(model, X, y) == pytest.approx((output.argmax(-1) == y).double().mean().item())


def test_examples_larger_than_a_piece_are_measured_one_by_one():
    X, y = torch.randn(3, 40_000), torch.tensor([0, 1, 0])
    model = nn.Linear(40_000, 2)
    assert evaluate(model, X, y) == pytest.approx(nn.functional.cross_entropy(model(X), y).item(), rel=1e-4)


@pytest.mark.parametrize("measure", [evaluate, accuracy])
def test_measuring_computes_in_evaluation_mode_without_gradients_and_gives_the_mode_back(measure):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    seen = watch(model[1], lambda x: (model[1].training, x.requires_grad, torch.is_grad_enabled()))
    measure(model, torch.randn(6, 4), torch.zeros(6, dtype=torch.long))
    assert seen == [(False, False, False)] and model[1].training and torch.is_grad_enabled()


def test_the_mode_of_each_part_and_the_thread_count_come_back_after_an_error(two_threads):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    model[1].eval()
    train_model(model, torch.randn(6, 4), torch.randn(6, 3), 1, progress=False)
    assert torch.get_num_threads() == 2 and model[0].training and not model[1].training
    with pytest.raises(ValueError, match="reshape y"):
        train_model(model, torch.randn(6, 4), torch.randn(6, 2), 1, progress=False)
    assert torch.get_num_threads() == 2 and model[0].training and not model[1].training


def test_training_is_done_in_training_mode():
    model, X = nn.Linear(3, 3).eval(), torch.randn(6, 3)
    seen = watch(model, lambda x: model.training)
    train_model(model, X, X, 1, val=(X, X), progress=False)
    assert seen == [True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_step_is_taken_on_a_loss_that_is_not_finite(value):
    model, X = nn.Linear(3, 3), torch.randn(6, 3)
    before = [p.detach().clone() for p in model.parameters()]
    history = train_model(model, X, X, loss=lambda output, y: output.mean() + value, progress=False)
    assert not history.train and f"the loss is {value}" in history.stopped
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lr": float("nan")}, "lr=nan is not a positive number"),
        ({"lr": float("inf")}, "lr=inf is not a positive number"),
        ({"epochs": True}, "epochs=True"),
        ({"batch_size": True}, "batch_size=True"),
        ({"X": torch.ones(0, 3), "y": torch.ones(0, 3)}, "there must be some"),
    ],
    ids=str,
)
def test_numbers_that_are_none_are_refused_before_anything_changes(options, reason):
    model, X = nn.Linear(3, 3), torch.randn(6, 3)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=reason):
        train_model(model, **({"X": X, "y": X} | options), progress=False)
    assert torch.equal(model.weight, before)


def test_numpys_whole_numbers_will_do():
    X = torch.randn(6, 3)
    history = train_model(nn.Linear(3, 3), X, X, np.int64(2), batch_size=np.int64(4), progress=False)
    assert len(history.train) == 2


def test_no_epochs_are_an_empty_history_and_the_same_model():
    model, X = nn.Linear(3, 3), torch.randn(6, 3)
    before = model.weight.detach().clone()
    history = train_model(model, X, X, 0, val=(X, X), progress=False)
    assert history.train == history.val == [] and not history.stopped and torch.equal(model.weight, before)


def test_a_loss_of_ones_own_is_measured_on_the_validation_data_too():
    model, X = nn.Linear(3, 3), torch.randn(6, 3)
    own = nn.functional.l1_loss
    history = train_model(model, X, X, 2, val=(X + 1, X), loss=own, progress=False)
    assert history.val[-1] == evaluate(model, X + 1, X, loss=own) != evaluate(model, X + 1, X)


def test_without_batches_the_examples_keep_their_order():
    model = nn.Linear(1, 1)
    seen = watch(model, first_numbers)
    train_model(model, torch.arange(10.0)[:, None], torch.zeros(10, 1), 2, progress=False)
    assert seen == [[*range(10)]] * 2


def test_training_leaves_the_worlds_random_numbers_as_they_were():
    X = torch.randn(6, 3)
    model = nn.Linear(3, 3)
    after = torch.get_rng_state()
    train_model(model, X, X, 1, batch_size=2, seed=5, progress=False)
    assert torch.equal(torch.get_rng_state(), after)


def test_the_ledger_of_a_half_precision_model_counts_two_bytes_a_number_and_a_loss_of_ones_own():
    model, X = nn.Linear(6, 3).bfloat16(), torch.randn(5, 6).bfloat16()
    ledger = memory_ledger(model, X, torch.zeros(5, 2), loss=lambda output, y: output.sum())
    numbers = 6 * 3 + 3
    assert ledger == {"weights": 2 * numbers, "gradients": 2 * numbers, "optimizer": 4 * numbers, "activations": 0}


def test_infinity_in_the_data_is_named_as_the_cause_too():
    X = torch.randn(6, 3)
    X[2, 1] = float("inf")
    assert "because X contains NaN or infinity" in train_model(nn.Linear(3, 3), X, X * 0 + 1, progress=False).stopped


def test_a_history_counts_the_seconds():
    X = torch.randn(6, 3)
    assert train_model(nn.Linear(3, 3), X, X, 1, progress=False).seconds > 0


def test_measuring_holds_a_piece_of_the_data_at_once():
    model, X = nn.Linear(64, 3), torch.randn(3_001, 64)
    given = watch(model, torch.numel)
    evaluate(model, X, torch.zeros(3_001, 3))
    accuracy(model, X, torch.zeros(3_001).long())
    assert max(given) <= 32_768 and sum(given) == 2 * X.numel()


@pytest.mark.parametrize(("size", "threads"), [(8, 1), (1_000, 2)], ids=["small", "large"])
def test_small_work_is_done_on_one_thread_and_large_work_on_all(size, threads, two_threads):
    model, X = nn.Linear(size, size), torch.randn(300, size)
    seen = watch(model, lambda x: torch.get_num_threads())
    train_model(model, X, X, 1, progress=False)
    evaluate(model, X, X)
    assert set(seen) == {threads}


def test_a_mistake_in_a_loss_of_ones_own_is_not_taken_for_a_diverging_training():
    model, X = nn.Linear(3, 3), torch.randn(6, 3)
    with pytest.raises(ZeroDivisionError):
        train_model(model, X, X, loss=lambda output, y: output.mean() * (1 / 0), progress=False)


def test_without_progress_nothing_is_printed_not_even_why_it_stopped(capsys):
    model, X = nn.Linear(3, 3), torch.full((6, 3), torch.nan)
    assert train_model(model, X, X, progress=False).stopped and capsys.readouterr() == ("", "")
    train_model(model, X, X, progress=True)
    assert "stopped in epoch 1" in capsys.readouterr().out


def test_the_ledger_does_not_count_a_part_of_the_data_as_an_activation():
    class Part(nn.Linear):
        def forward(self, x):
            return super().forward(x[:, 2:])

    X, y = torch.randn(6, 5), torch.randn(6, 3)
    assert memory_ledger(Part(3, 3), X, y)["activations"] == memory_ledger(nn.Linear(5, 3), X, y)["activations"]


@pytest.mark.parametrize(("variable", "progress", "off"), [("", True, False), ("1", True, True), ("", False, True)])
def test_the_progress_bar_can_be_turned_off_for_one_training_or_for_all(monkeypatch, variable, progress, off):
    monkeypatch.setenv("TQDM_DISABLE", variable)
    with training._progress_bar(3, progress) as bar:
        assert bar.disable is off
