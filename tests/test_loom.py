"""The Loom shows trainings that the package has made, and says in words what it shows."""

import pytest
import torch

from lora_lab import LinearWithLoRA, set_seed, train_model
from lora_lab.anatomy import spectrum
from lora_lab.material import create_planted_task
from lora_lab.pictures.figures import COLOUR_MAPS
from lora_lab.pictures.loom import SIZE, STARTS, STOPS, cloth_task, loom, weave


@pytest.fixture(scope="module")
def task():
    return cloth_task()


def test_the_cloth_has_three_patterns_one_clearly_stronger_than_the_next(task):
    first, second, third, fourth, *_ = spectrum(task.delta)
    assert first > 1.4 * second > 2 * third > 1 and fourth < 1e-5


def test_the_data_are_those_of_the_cloth(task):
    plain = create_planted_task(256, SIZE, SIZE, rank=1)
    noise = task.y - (task.pretrained(task.X) + task.X @ task.delta)
    assert torch.allclose(noise, plain.y - (plain.pretrained(plain.X) + plain.X @ plain.delta), atol=1e-5)


def test_weaving_is_the_courses_own_training(task):
    set_seed(0)
    layer = LinearWithLoRA(task.pretrained, 3)
    torch.nn.init.uniform_(layer.lora.A, -(SIZE**-0.5), SIZE**-0.5)
    losses = train_model(layer, task.X, task.y, epochs=STOPS[-1] + 1, lr=0.03, progress=False).train
    assert [stop.loss for stop in weave(task, 3, "B zero")] == pytest.approx([losses[step] for step in STOPS], rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_rank_weaves_so_many_patterns_and_no_more(task, rank):
    end = weave(task, rank, "B zero")[-1]
    woven, planted = spectrum(end.A @ end.B), spectrum(task.delta)
    assert torch.allclose(woven[: min(rank, 3)], planted[: min(rank, 3)], rtol=0.05)
    assert woven[3:].max() < 0.05


def test_who_starts_at_zero_is_pulled_first_and_with_both_at_zero_nobody_is(task):
    first = {start: weave(task, 2, start)[0] for start in STARTS}
    pulled = {start: (stop.pull_A > 0, stop.pull_B > 0) for start, stop in first.items()}
    assert pulled == {
        "B zero": (False, True), "A zero": (True, False), "both zero": (False, False), "both random": (True, True)
    }  # fmt: skip
    assert {stop.loss for stop in weave(task, 2, "both zero")} == {first["both zero"].loss}


def test_every_stop_says_what_is_to_be_seen():
    explorer = loom(ranks=[2], step=100)
    assert explorer.values == {"step": 100, "rank": 2, "begin": "B zero", "place": "beside W"}
    (frame,) = explorer.frames.values()
    assert frame["alt"].startswith("Step 100 of a LoRA of rank 2 that starts with B zero: 2 of the 3 planted patterns")
    assert "Neither A nor B gets a gradient" in explorer._frame([5, 0, 2, 0])["alt"]
    assert "Only B gets a gradient" in explorer._frame([0, 0, 0, 0])["alt"]


def test_merged_the_update_lies_in_w():
    explorer = loom(ranks=[3], step=100)
    _, _, cloth = explorer._product
    beside = cloth.get_extent()
    explorer._frame([len(STOPS) - 1, 0, 0, 1])
    (weight,) = (image for image in explorer._moving if getattr(image, "cmap", image) == COLOUR_MAPS["W"])
    task = cloth_task()
    assert cloth.get_extent() == weight.get_extent() != beside
    assert torch.tensor(weight.get_array() - task.pretrained.weight.detach().T.numpy()).allclose(task.delta, atol=0.1)
