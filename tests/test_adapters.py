"""TinyGPT's adapters: the shipped ones are what they say, and training one touches nothing else."""

import copy
import json
from itertools import product

import pytest
import torch

from lora_lab import evaluate, load_adapter, lora_layers, replace_linear_with_lora, save_adapter, set_seed, train_model
from lora_lab.material import TinyGPT, shipped_adapter, windows
from lora_lab.material.adapters import CONTENDERS, PLACES, SEEDS, make_study, make_texts
from lora_lab.material.models import ADAPTERS, STUDY
from lora_lab.material.texts import held_out, tales


def test_a_few_steps_lower_the_loss_on_a_text_and_leave_the_base_as_it_was_to_the_bit():
    base = TinyGPT.pretrained()
    model = copy.deepcopy(base)
    set_seed(0)
    names = replace_linear_with_lora(model, rank=4, targets=PLACES["everywhere"])
    X, y = windows(tales()["tale 1"] * 3, length=48, n=80)
    before = evaluate(model, X, y)
    train_model(model, X, y, epochs=1, batch_size=8, lr=0.005)
    assert evaluate(model, X, y) < before - 0.2
    for name, value in base.state_dict().items():
        layer = name.rpartition(".")[0]
        kept = name.replace(layer, f"{layer}.linear") if layer in names else name
        assert torch.equal(model.state_dict()[kept], value), name


def test_swapping_one_adapter_for_another_gives_the_logits_of_a_fresh_load(tmp_path):
    swapped, fresh = TinyGPT.pretrained(), TinyGPT.pretrained()
    for name in ("code", "names", "tales"):
        load_adapter(swapped, shipped_adapter(name))
    load_adapter(fresh, shipped_adapter("tales"))
    tokens = windows(tales()["tale 2"], 64, n=4)[0]
    with torch.no_grad():
        assert torch.equal(swapped(tokens), fresh(tokens))
        load_adapter(swapped, save_adapter(swapped, tmp_path))
        assert torch.equal(swapped(tokens), fresh(tokens))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_each_shipped_adapter_lowers_the_loss_on_its_own_kind_of_text(kind):
    X, y = windows(held_out(kind), 128, n=20)
    base, model = TinyGPT.pretrained(), TinyGPT.pretrained()
    load_adapter(model, shipped_adapter(kind))
    assert evaluate(model, X, y) < evaluate(base, X, y) - 0.2


def test_an_adapter_that_does_not_come_with_the_course_is_refused_by_name():
    with pytest.raises(ValueError, match="no adapter 'poems'; choose one of 'code', 'names', 'tales'"):
        shipped_adapter("poems")


def test_the_study_has_every_contender_from_every_seed_and_the_search_for_its_rate():
    search = json.loads((STUDY / "search.json").read_text(encoding="utf-8"))
    assert list(search) == [f"{place}-r{rank}" for place, rank in CONTENDERS] + ["full"]
    base, X_y = TinyGPT.pretrained(), windows(held_out("names"), 64, n=20)
    before = evaluate(base, *X_y)
    for (place, rank), seed in product(CONTENDERS, SEEDS):
        model = copy.deepcopy(base)
        load_adapter(model, STUDY / f"{place}-r{rank}-seed{seed}")
        assert {layer.lora.rank for layer in lora_layers(model).values()} == {rank}
        assert len(lora_layers(model)) == 4 * len(PLACES[place])
        assert evaluate(model, *X_y) < before - 0.5


def test_the_script_that_makes_the_adapters_makes_them(tmp_path, monkeypatch, capsys):
    """On a small model, a few steps each."""
    torch.manual_seed(0)
    small = TinyGPT(width=16, depth=1, heads=2, context=128).state_dict()

    def pretrained():
        model = TinyGPT(width=16, depth=1, heads=2, context=128)
        model.load_state_dict(small)
        return model

    monkeypatch.setattr(TinyGPT, "pretrained", staticmethod(pretrained))
    monkeypatch.setattr("lora_lab.material.adapters.shipped_adapter", lambda name: tmp_path / name)
    monkeypatch.setattr("lora_lab.material.adapters.STUDY", tmp_path / "study")
    monkeypatch.setattr("lora_lab.material.adapters.CONTENDERS", [("q-v", 2)])
    monkeypatch.setattr("lora_lab.material.adapters.ADAPTERS", ["tales"])
    make_texts(steps=6)
    make_study(steps=2)
    assert "tales: held out" in capsys.readouterr().out
    assert len(load_adapter(pretrained(), tmp_path / "tales")) == 6
    for seed in SEEDS:
        assert load_adapter(pretrained(), tmp_path / "study" / f"q-v-r2-seed{seed}")
    assert set(json.loads((tmp_path / "study" / "search.json").read_text())) == {"q-v-r2", "full"}
    assert (tmp_path / "study" / "full.safetensors").exists()
