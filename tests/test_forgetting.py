"""What notebook 10 rests on: the shipped models are those of the record, and the script that makes them can go on."""

import pytest
import torch

from lora_lab import LinearWithLoRA, evaluate, load_adapter, lora_layers
from lora_lab.four_bits import Linear4bit, quantize_linear_layers
from lora_lab.material import TinyGPT, forgetting
from lora_lab.material.forgetting import (
    distance,
    measure,
    part_of_the_way,
    random_letters,
    record,
    train,
    tuned,
    yardsticks,
)
from lora_lab.material.models import encode
from lora_lab.material.plans import KINDS, PARTS, contender, trainings
from lora_lab.material.records import written
from lora_lab.material.texts import held_out, split_by_file, unicode_names

SMALL = {"width": 16, "depth": 1, "heads": 2, "context": 128}


@pytest.fixture
def small(monkeypatch):
    """A TinyGPT that trains in no time."""
    torch.manual_seed(0)
    weights = TinyGPT(**SMALL).state_dict()

    def pretrained():
        model = TinyGPT(**SMALL)
        model.load_state_dict(weights)
        return model.eval()

    monkeypatch.setattr(TinyGPT, "pretrained", staticmethod(pretrained))
    monkeypatch.setattr(forgetting, "yardsticks", lambda: {"names": forgetting.yardstick("abcd" * 20, 16)})


def test_every_part_holds_all_of_its_trainings():
    for part in PARTS:
        assert list(dict.fromkeys(written(forgetting.FORGETTING, part))) == list(trainings(part)), part
    stages = {(row["steps"], row["strength"]) for row in record("rates")}
    assert stages == {(100, 1), (200, 1), (300, 1), (300, 0.25), (300, 0.5), (300, 0.75)}


def test_the_shipped_models_are_those_of_the_record():
    base, tests = TinyGPT.pretrained(), yardsticks()
    rows = [row for row in record("rates") if row["seed"] == 0 and row["steps"] == 300 and row["strength"] == 1]
    assert len(rows) == 12
    for row in rows:
        model = tuned(row["rank"], row["rate"])
        loss, divergence = measure(model, *tests["names"])
        assert loss == pytest.approx(row["names"], abs=0.01), row
        assert divergence == pytest.approx(row["KL names"], abs=0.01), row
        assert distance(model, base) == pytest.approx(row["distance"], rel=0.01), row
        assert not any("lora" in name for name, _ in model.named_modules())


def test_what_is_measured_on_was_never_trained_on():
    train_text, choice, test = split_by_file(unicode_names(), validation=True)
    learned, choices, tests = (set(text.splitlines()) for text in (train_text, choice, test))
    assert test == held_out("names")
    assert not learned & choices - {""} and not learned & tests - {""} and not choices & tests - {""}


def test_the_loss_is_evaluates_and_the_base_is_no_different_from_itself():
    base, (X, y, before) = TinyGPT.pretrained(), yardsticks()["names"]
    loss, divergence = measure(base, X, y, before)
    assert loss == pytest.approx(evaluate(base, X, y), abs=1e-5)
    assert divergence == pytest.approx(0, abs=1e-6)


def test_half_of_the_way_is_in_the_middle_of_all_weights(small):
    base, model = TinyGPT.pretrained(), TinyGPT(**SMALL)
    for strength in (0, 0.5, 1):
        way = part_of_the_way(model, strength)
        assert distance(way, base) == pytest.approx(strength * distance(model, base), rel=1e-5)
    assert distance(way, model) == pytest.approx(0, abs=1e-5)


def test_a_share_of_old_text_takes_the_place_of_new_text(small, monkeypatch):
    seen = []
    monkeypatch.setattr(forgetting, "train_model", lambda model, X, y, **_: seen.append((X, y)))
    options = {"pieces": 40, "batch": 4, "length": 8, "stages": 2}
    steps = [steps for steps, _ in train("a" * 99, 1, 0.01, old="b" * 99, share=0.3, **options)]
    assert steps == [5, 10]
    for X, y in seen:
        old = (encode("b") == X).all(1)
        assert len(X) == 20 and old.sum() == 6
        assert torch.equal(X, y)


@pytest.mark.parametrize("rank", [2, None])
def test_all_weights_learn_without_a_rank_and_a_and_b_alone_with_one(small, rank):
    ((steps, model),) = train("abcd" * 99, rank, 0.01, pieces=16, batch=8, length=8)
    base = TinyGPT.pretrained()
    assert steps == 2
    if rank is None:
        assert not torch.equal(model.characters.weight, base.characters.weight)
    else:
        assert torch.equal(model.characters.weight, base.characters.weight)
        assert len(lora_layers(model)) == 6 and all(layer.lora.B.any() for layer in lora_layers(model).values())


def test_letters_drawn_by_lot_are_the_same_ones_always_and_hold_nothing_else():
    letters = random_letters(2000)
    assert letters == random_letters(2000) and len(letters) == 2000
    assert set(letters) == set("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("part", ["rates", "capacity"])
def test_a_part_that_was_interrupted_goes_on_where_it_stopped(small, tmp_path, monkeypatch, part):
    plan, begun, real = trainings(part), [], forgetting.train
    chosen = [name for name in plan if name.startswith(("r1 0.003", "full 0.0003"))][:2]

    def short(text, rank, rate, **options):
        begun.append((contender(rank), rate))
        return real(text, rank, rate, **options | {"pieces": 48})

    monkeypatch.setattr(forgetting, "FORGETTING", tmp_path / "made")
    monkeypatch.setattr(forgetting, "train", short)
    for names in (chosen[:1], chosen, chosen):
        monkeypatch.setattr(forgetting, "trainings", lambda _, names=names: {name: dict(plan[name]) for name in names})
        forgetting.make(part)
    assert begun == [("r1", 0.003), ("full", 0.0003)]
    assert [row["method"] for row in record(part) if row["steps"] == 3] == ["r1"] * 4 + ["full"] * 4 or part != "rates"
    if part == "rates":
        assert distance(tuned(1, 0.003), TinyGPT.pretrained()) > 0
        assert distance(tuned(None, 0.0003), TinyGPT.pretrained()) > 0


def test_a_part_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="no part 'dreams'"):
        trainings("dreams")


def test_the_kept_variants_are_the_best_of_their_record():
    tests = yardsticks()
    for part, kinds in forgetting.KEPT.items():
        for kind in kinds:
            ends = [r for r in record(part) if (r["method"], r["steps"], r["strength"]) == (kind, 300, 1)]
            rates = {row["rate"] for row in ends}
            best = min(rates, key=lambda rate: sum(row["choice"] for row in ends if row["rate"] == rate))
            (written,) = (row for row in ends if row["rate"] == best and row["seed"] == 0)
            model = TinyGPT.pretrained()
            if KINDS[kind].four_bits:
                quantize_linear_layers(model, exclude="head")
            load_adapter(model, forgetting.FORGETTING / kind)
            for text in ("names", "prose"):
                assert measure(model, *tests[text])[0] == pytest.approx(written[text], abs=0.01), (kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_the_race_is_trained_as_itself(small, kind):
    rank = None if kind == "full" else 2
    *_, (steps, model) = train("abcd" * 20, rank, 0.01, pieces=32, batch=16, length=16, kind=kind)
    assert steps == 2
    settings, layers = KINDS[kind].settings, [] if kind == "full" else list(lora_layers(model).values())
    assert all(type(layer) is settings.get("layer", LinearWithLoRA) for layer in layers)
    assert all(layer.lora.scaling == settings.get("scaling", "alpha/r") for layer in layers)
    assert all(isinstance(layer.linear, Linear4bit) == KINDS[kind].four_bits for layer in layers)
    fits = [torch.equal(p, p.bfloat16().float()) for layer in layers for p in layer.adapter().values()]
    assert all(fits) == (kind in ("full", "coarse LoRA"))


def test_lora_plus_in_the_race_moves_b_sixteen_times_as_fast(small):
    """The first step of Adam is as long as the rate."""
    far = {}
    for kind in ("LoRA", "LoRA+"):
        *_, (_, model) = train("abcd" * 20, 2, 0.001, pieces=16, batch=16, length=16, kind=kind)
        far[kind] = max(layer.lora.B.abs().max().item() for layer in lora_layers(model).values())
    assert far["LoRA"] == pytest.approx(0.001, rel=0.01) and far["LoRA+"] == pytest.approx(0.016, rel=0.01)


def test_the_race_has_lora_and_full_fine_tuning_by_their_names():
    rows = forgetting.race()
    assert {"LoRA", "full", "rsLoRA", "LoRA+", "LoRA-FA", "PiSSA", "DoRA"} <= {row["method"] for row in rows}
    ends = [row for row in rows if row["steps"] == 300 and row["strength"] == 1]
    for method in ("LoRA", "full"):
        assert {0.001, 0.003, 0.01} <= {row["rate"] for row in ends if row["method"] == method}
    assert len({(row["method"], row["rate"], row["seed"]) for row in ends}) == len(ends)
