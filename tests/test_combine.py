"""Several updates made into one: a sum is a sum, TIES and DARE are what their papers and PEFT say."""

import copy

import pytest
import torch
from torch import nn

from lora_lab import load_adapter, lora_layers, merge_lora, replace_linear_with_lora
from lora_lab.combine import added, dare, each_layer, ties, trimmed, updates_of, with_updates
from lora_lab.four_bits import quantize_linear_layers
from lora_lab.material import DigitClassifier, TinyGPT, shipped_adapter
from lora_lab.variants import LinearWithDoRA, LinearWithPiSSA

merging = pytest.importorskip("peft.utils.merge_utils")


@pytest.fixture
def deltas():
    return list(torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0)))


def test_a_model_with_its_updates_is_the_merged_model():
    model = TinyGPT.pretrained()
    load_adapter(model, shipped_adapter("tales"))
    moved = with_updates(TinyGPT.pretrained(), updates_of(model))
    merge_lora(model)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(model(tokens), moved(tokens), atol=1e-4)


def test_the_base_stays_and_the_strength_counts():
    base = DigitClassifier()
    replace_linear_with_lora(adapted := DigitClassifier(), 2, targets="fc1")
    nn.init.ones_(lora_layers(adapted)["fc1"].lora.B)
    updates, before = updates_of(adapted), base.fc1.weight.clone()
    half = with_updates(base, updates, 0.5)
    assert torch.equal(base.fc1.weight, before) and torch.equal(half.fc2.weight, base.fc2.weight)
    assert torch.allclose(half.fc1.weight - before, 0.5 * updates["fc1"].T, atol=1e-6)
    with pytest.raises(ValueError, match="nowhere"):
        with_updates(base, {"nowhere": updates["fc1"]})
    with pytest.raises(ValueError, match="strength"):
        with_updates(base, updates, float("nan"))


@pytest.mark.parametrize("kind", [LinearWithDoRA, LinearWithPiSSA])
def test_updates_of_a_variant_are_what_it_adds(kind):
    base = DigitClassifier()
    adapted = copy.deepcopy(base)
    replace_linear_with_lora(adapted, 2, targets="fc1", layer=kind)
    nn.init.normal_(lora_layers(adapted)["fc1"].lora.B, std=0.1)
    x = torch.randn(4, 64)
    assert torch.allclose(with_updates(base, updates_of(adapted))(x), adapted(x), atol=1e-5)


def test_updates_that_do_not_belong_are_refused():
    base = DigitClassifier()
    with pytest.raises(ValueError, match=r"fc1 is \(1, 1\), and the layer takes \(64, 256\)"):
        with_updates(base, {"fc1": torch.ones(1, 1)})
    quantize_linear_layers(packed := DigitClassifier(), targets="fc2")
    with pytest.raises(ValueError, match="keeps its weight in fewer bits"):
        with_updates(packed, {"fc2": torch.ones(256, 256)})
    base.head.weight = base.fc2.weight
    with pytest.raises(ValueError, match="several places"):
        with_updates(base, {"fc2": torch.ones(256, 256)})
    replace_linear_with_lora(adapted := DigitClassifier(), 2)
    with pytest.raises(ValueError, match="has an adapter already"):
        with_updates(adapted, {})


def test_layers_that_only_some_updates_have_are_combined_of_those(deltas):
    first, second = {"a": deltas[0], "b": deltas[1]}, {"b": deltas[2]}
    both = each_layer(added, first, second)
    assert torch.equal(both["a"], deltas[0]) and torch.equal(both["b"], deltas[1] + deltas[2])


@pytest.mark.parametrize("keep", [0.125, 0.25, 0.5, 0.75])
def test_ties_is_pefts(deltas, keep):
    theirs = merging.ties(deltas, torch.ones(3), keep)
    assert torch.allclose(ties(deltas, keep), theirs, atol=1e-6)


def test_ties_by_hand():
    first, second = torch.tensor([[3.0, -2.0, 0.0, 1.0]]), torch.tensor([[1.0, 5.0, 2.0, -1.0]])
    assert torch.equal(ties([first, second], keep=1), torch.tensor([[2.0, 5.0, 2.0, 0.0]]))


def test_trimmed_keeps_the_largest_in_either_direction():
    assert torch.equal(trimmed(torch.tensor([[1.0, -9.0], [0.5, 3.0]]), 0.5), torch.tensor([[0.0, -9.0], [0.0, 3.0]]))


def test_dare_drops_a_share_and_adds_the_same_on_average():
    delta = torch.ones(300, 300)
    thin = dare(delta, 0.9, seed=0)
    assert thin.unique().tolist() == pytest.approx([0, 10]) and thin.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(dare(delta, 0), delta) and not torch.equal(thin, dare(delta, 0.9, seed=1))


@pytest.mark.parametrize(
    "wrong", [lambda d: ties(d, 0), lambda d: ties(d, 1.5), lambda d: dare(d[0], 1), lambda d: dare(d[0], -0.1)]
)
def test_shares_that_are_none_are_refused(deltas, wrong):
    with pytest.raises(ValueError, match=r"try 0\.2"):
        wrong(deltas)


@pytest.mark.parametrize("combine", [added, ties])
def test_updates_that_cannot_be_combined_are_refused(combine):
    with pytest.raises(ValueError, match="there is no update to combine"):
        combine([])
    with pytest.raises(ValueError, match=r"can't be combined: \(2, 3\), \(3, 3\)"):
        combine([torch.ones(2, 3), torch.ones(3, 3)])
