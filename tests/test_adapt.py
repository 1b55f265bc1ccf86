"""Into a model and out again, claim by claim."""

import copy
import re

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from conftest import SmallNet, assert_untouched, snapshot, speak
from lora_lab import (
    LinearWithLoRA,
    count_parameters,
    load_lora_state,
    lora_disabled,
    lora_layers,
    lora_state,
    merge_lora,
    remove_lora,
    replace_linear_with_lora,
    set_strength,
    unmerge_lora,
)
from lora_lab.adapt import model_parts, wrap_layers


def test_an_adapted_model_starts_as_the_pretrained_model_exactly(net, x):
    before = net(x)
    replace_linear_with_lora(net, 4, 8)
    assert torch.equal(net(x), before)


def test_only_a_and_b_are_trainable_once_a_model_is_adapted(net):
    net.norm = nn.LayerNorm(6)
    replace_linear_with_lora(net, 4, 8)
    trainable = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 6 and all(name.endswith(("lora.A", "lora.B")) for name in trainable)


@pytest.mark.parametrize(
    ("targets", "exclude", "wrapped"),
    [
        (None, (), ["fc1", "fc2", "head"]),
        (None, "head", ["fc1", "fc2"]),
        ("fc1", (), ["fc1"]),
        (["head", "fc1"], (), ["fc1", "head"]),
        ("fc.", (), ["fc1", "fc2"]),
        (re.compile("fc[12]"), ["fc1"], ["fc2"]),
        (["fc2", "h.*"], (), ["fc2", "head"]),
    ],
)
def test_targets_are_names_suffixes_or_regular_expressions(net, targets, exclude, wrapped):
    assert replace_linear_with_lora(net, 2, 4, targets, exclude) == wrapped == list(lora_layers(net))


def test_a_dotted_suffix_means_every_layer_that_ends_in_it():
    model = nn.Sequential(SmallNet(), SmallNet())
    assert replace_linear_with_lora(model, 2, targets="fc1") == ["0.fc1", "1.fc1"]


def test_a_name_wins_over_what_it_means_as_a_regular_expression():
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(4, 4)}), "axb": nn.Linear(4, 4)})
    assert replace_linear_with_lora(model, 2, targets="a.b") == ["a.b"]


def test_layers_inside_torchs_transformer_are_adapted_and_take_part():
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    model.eval()
    x = torch.randn(3, 5, 16)
    with torch.no_grad():
        before = model(x)
        replace_linear_with_lora(model, 2)
        torch.testing.assert_close(model(x), before)
        speak(model)
        assert not torch.allclose(model(x), before, atol=1e-3)


def test_merging_a_model_computes_the_same_and_unmerging_gives_back_the_very_same_bits(net, x):
    replace_linear_with_lora(net, 4, 8)
    speak(net)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    adapted = net(x)
    merge_lora(net)
    torch.testing.assert_close(net(x), adapted)
    unmerge_lora(net)
    assert torch.equal(net(x), adapted)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_a_merged_model_computes_nothing_but_a_linear_layer(net, x):
    replace_linear_with_lora(net, 4, 8)
    speak(net)
    merge_lora(net)
    adapted = net(x)
    with torch.no_grad():
        for layer in lora_layers(net).values():
            layer.lora.A.fill_(float("nan"))
    assert torch.equal(net(x), adapted)


def test_merging_bfloat16_rounds_once():
    layer = speak(LinearWithLoRA(nn.Linear(64, 64, dtype=torch.bfloat16), 4))
    exact = layer.linear.weight.double() + (layer.lora.scale * layer.lora.A.double() @ layer.lora.B.double()).T
    layer.merge()
    best = (exact.bfloat16().double() - exact).norm()
    assert (layer.merged.double() - exact).norm() <= 1.001 * best


@pytest.mark.parametrize("merged", [False, True])
def test_within_lora_disabled_the_model_is_the_pretrained_model_exactly(net, x, merged):
    before = net(x)
    replace_linear_with_lora(net, 4, 8)
    speak(net)
    if merged:
        merge_lora(net)
    adapted = net(x)
    with pytest.raises(RuntimeError), lora_disabled(net):
        assert torch.equal(net(x), before)
        raise RuntimeError("an error inside must not leave it disabled")
    assert torch.equal(net(x), adapted)


@pytest.mark.parametrize("merged", [False, True])
def test_strength_goes_from_the_pretrained_model_through_the_adapted_one_and_beyond(x, merged):
    layer = speak(LinearWithLoRA(nn.Linear(12, 6), 3))
    base, update = layer.linear(x), layer.lora(x)
    if merged:
        merge_lora(layer)
    for strength in (0, 0.5, 1, 1.5):
        set_strength(layer, strength)
        torch.testing.assert_close(layer(x), base + strength * update)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None, True])
def test_a_strength_that_is_no_number_is_refused(net, strength):
    replace_linear_with_lora(net, 2)
    with pytest.raises(ValueError, match=f"strength={strength!r}"):
        set_strength(net, strength)


@pytest.mark.parametrize("merged", [False, True])
def test_swapping_adapters_gives_what_each_gave(net, x, merged):
    replace_linear_with_lora(net, 4, 8)
    outputs, states = [], []
    for _ in range(3):
        speak(net)
        outputs.append(net(x))
        states.append(lora_state(net))
    if merged:
        merge_lora(net)
    for state, output in zip(states, outputs, strict=True):
        load_lora_state(net, state)
        torch.testing.assert_close(net(x), output)


def test_a_saved_state_is_a_copy_that_later_training_leaves_alone(net):
    replace_linear_with_lora(net, 4)
    state = lora_state(net)
    speak(net)
    assert not state["fc1.B"].any() and state["fc1.A"].shape == (12, 4) and state["fc1.B"].shape == (4, 16)


def _without_a_key(state):
    del state["fc1.A"]


def _with_a_strange_key(state):
    state["fc9.A"] = state["fc1.A"]


def _of_another_rank(state):
    state["head.B"] = torch.ones(3, 6)


def _with_nan(state):
    state["head.B"][0, 0] = float("nan")


def _of_integers(state):
    state["head.B"] = state["head.B"].long()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_a_key, "lacks fc1.A"),
        (_with_a_strange_key, "has fc9.A beyond"),
        (_of_another_rank, r"head.B has shape \(3, 6\).*need \(4, 6\)"),
        (_with_nan, "head.B contains NaN"),
        (_of_integers, "head.B is of type torch.int64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(net, spoil, reason):
    replace_linear_with_lora(net, 4)
    state = {key: torch.ones_like(value) for key, value in lora_state(net).items()}
    spoil(state)
    before = snapshot(net)
    with pytest.raises(ValueError, match=reason):
        load_lora_state(net, state)
    assert_untouched(net, before)


@pytest.mark.parametrize("merged", [False, True])
def test_removing_lora_gives_back_plain_layers_pretrained_or_merged(net, x, merged):
    plain, before = copy.deepcopy(net), net(x)
    replace_linear_with_lora(net, 4, 8)
    speak(net)
    adapted = net(x)
    if merged:
        merge_lora(net)
    remove_lora(net)
    assert [type(module) for module in net.modules()] == [type(module) for module in plain.modules()]
    assert list(net.state_dict()) == list(plain.state_dict())
    if merged:
        torch.testing.assert_close(net(x), adapted)
    else:
        assert torch.equal(net(x), before)


def test_layers_can_have_ranks_of_their_own(net):
    wrap_layers(net, {"fc1": {"rank": 2}, "head": {"rank": 5, "alpha": 10}})
    assert [layer.lora.rank for layer in lora_layers(net).values()] == [2, 5]


def test_a_merged_model_survives_copying_and_a_change_of_dtype(net, x):
    replace_linear_with_lora(net, 4, 8)
    speak(net)
    merge_lora(net)
    twin = copy.deepcopy(net).double()
    torch.testing.assert_close(twin(x.double()).float(), net(x))
    unmerge_lora(twin)
    torch.testing.assert_close(twin(x.double()).float(), net(x))


def test_parameters_are_counted_as_peft_prints_them():
    model = nn.Sequential(nn.Linear(64, 10))
    assert count_parameters(model) == (650, 650)
    replace_linear_with_lora(model, 4)
    assert str(count_parameters(model)) == "trainable params: 296 || all params: 946 || trainable%: 31.2896"


def test_a_tied_weight_is_counted_once():
    model = nn.ModuleDict({"wte": nn.Embedding(9, 4), "lm_head": nn.Linear(4, 9, bias=False)})
    model["lm_head"].weight = model["wte"].weight
    assert count_parameters(model).total == 36


# r · Σ(in + out), on no device at all. The last column is what the papers print (Hu et al. 2021, arXiv:2106.09685).
@pytest.mark.parametrize(
    ("blocks", "width", "rank", "published"),
    [
        (12, 768, 8, 294_912),  # RoBERTa-base, 0.3M
        (24, 1024, 8, 786_432),  # RoBERTa-large, 0.8M
        (48, 1536, 16, 4_718_592),  # DeBERTa-XXL, 4.7M: takes r = 16, although the appendix says 8
        (96, 12288, 1, 4_718_592),  # GPT-3, 4.7M
        (96, 12288, 4, 18_874_368),  # GPT-3, 18.9M
        (96, 12288, 8, 37_748_736),  # GPT-3, 37.7M
        (24, 1024, 4, 393_216),  # GPT-2 medium: the paper prints 0.35M, which its own formula does not give
    ],
)
def test_published_parameter_counts_follow_from_the_shapes(blocks, width, rank, published):
    def block():
        return nn.ModuleDict({name: nn.Linear(width, width, device="meta") for name in ("q", "k", "v")})

    model = nn.ModuleList(block() for _ in range(blocks))
    replace_linear_with_lora(model, rank, targets=["q", "v"])
    assert count_parameters(model).trainable == published


def tied():
    model = nn.ModuleDict({"wte": nn.Embedding(9, 4), "fc": nn.Linear(4, 4), "lm_head": nn.Linear(4, 9, bias=False)})
    model["lm_head"].weight = model["wte"].weight
    return model


def twice_in_the_model():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "reason"),
    [
        (SmallNet, {"rank": 0}, ValueError, r"fc1: rank=0 is not a whole number from 1 to 12; the layer is 12→16"),
        (SmallNet, {"rank": 8}, ValueError, r"head: rank=8 .* exclude=\['head'\]"),
        (SmallNet, {"rank": 2, "alpha": -1}, ValueError, r"alpha=-1 is not a positive number"),
        (SmallNet, {"rank": 2, "targets": ["fc1", "fc3"]}, ValueError, r"target 'fc3' matches no.*did you mean 'fc"),
        (SmallNet, {"rank": 2, "targets": "q_proj"}, ValueError, r"'q_proj' matches no.*it has fc1, fc2, head"),
        (SmallNet, {"rank": 2, "exclude": "haed"}, ValueError, r"exclude 'haed' matches no.*did you mean 'head'"),
        (SmallNet, {"rank": 2, "targets": "fc1", "exclude": "fc1"}, ValueError, "no layer is left to adapt"),
        (SmallNet, {"rank": 2, "targets": "fc(1"}, ValueError, r"'fc\(1' is neither the name"),
        (SmallNet, {"rank": 2, "targets": "act"}, TypeError, "act: a layer of type ReLU can't be adapted"),
        (lambda: nn.Sequential(SmallNet()), {"rank": 2, "targets": "0"}, TypeError, "layers in it are 0.fc1, 0.fc2"),
        (tied, {"rank": 2}, ValueError, "lm_head: .*several places, wte.weight, lm_head.weight"),
        (twice_in_the_model, {"rank": 2}, ValueError, "0: its weight is one tensor in several places, 0.weight, 2.we"),
        (lambda: nn.Linear(4, 4), {"rank": 2}, ValueError, "itself a linear layer; wrap it with LinearWithLoRA"),
        (nn.ReLU, {"rank": 2}, ValueError, "this ReLU has no linear layer"),
    ],
)
def test_bad_input_is_refused_with_a_way_out_and_the_model_as_it_was(model, arguments, error, reason):
    model = model()
    before = snapshot(model)
    with pytest.raises(error, match=reason):
        replace_linear_with_lora(model, **arguments)
    assert_untouched(model, before)


def test_leaving_out_the_tied_layer_is_the_way_out():
    assert replace_linear_with_lora(tied(), 2, exclude=["lm_head"]) == ["fc"]


def test_a_second_injection_is_refused_and_the_first_stays(net):
    replace_linear_with_lora(net, 2, targets="fc1")
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"already has LoRA in 1 layers \(fc1\).*remove_lora"):
        replace_linear_with_lora(net, 2, targets="fc2")
    assert_untouched(net, before)


@pytest.mark.parametrize("call", [merge_lora, unmerge_lora, remove_lora, lora_state, lora_layers])
def test_a_model_without_lora_is_told_how_to_get_it(net, call):
    with pytest.raises(ValueError, match=r"no LoRA layers; put them in with replace_linear_with_lora"):
        call(net)


@pytest.mark.parametrize("merged", [False, True])
def test_removing_lora_from_gpt2s_conv1d_leaves_a_conv1d_frozen_in_its_layout(merged):
    model, x = nn.Sequential(Conv1D(4, 8)), torch.randn(3, 8)
    plain = copy.deepcopy(model)
    replace_linear_with_lora(model, 2)
    speak(model)
    if merged:
        merge_lora(model)
    expected = model(x) if merged else plain(x)
    remove_lora(model)
    assert isinstance(model[0], Conv1D) and model[0].weight.shape == plain[0].weight.shape
    torch.testing.assert_close(model(x), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_removing_lora_from_a_lone_layer_says_where_the_plain_one_is():
    with pytest.raises(ValueError, match=r"plain layer is model\.linear"):
        remove_lora(LinearWithLoRA(nn.Linear(8, 4), 2))


def test_lora_disabled_inside_itself_gives_back_what_was_before_each(net, x):
    before = net(x)
    replace_linear_with_lora(net, 4)
    adapted = speak(net)(x)
    with lora_disabled(net) as same:
        assert same is net
        with lora_disabled(net):
            pass
        assert torch.equal(net(x), before)
    assert torch.equal(net(x), adapted)


def test_strength_leaves_a_model_that_is_not_merged_unmerged(net):
    replace_linear_with_lora(net, 4)
    set_strength(net, 0.5)
    assert all(layer.merged is None for layer in lora_layers(net).values())


def test_a_lone_adapted_layers_state_is_called_a_and_b():
    layer = speak(LinearWithLoRA(nn.Linear(8, 4), 2))
    state = lora_state(layer)
    assert list(state) == ["A", "B"] and torch.equal(state["B"], layer.lora.B)


def test_a_saved_state_needs_no_gradient(net):
    replace_linear_with_lora(net, 4)
    assert not any(value.requires_grad for value in lora_state(net).values())


def test_every_setting_reaches_every_layer(net):
    class Variant(LinearWithLoRA):
        pass

    replace_linear_with_lora(net, 4, 8, None, "head", "alpha", 0.25, dtype=torch.float64, layer=Variant)
    for layer in lora_layers(net).values():
        lora = layer.lora
        assert (lora.rank, lora.alpha, lora.scaling, lora.dropout) == (4, 8, "alpha", 0.25)
        assert lora.A.dtype == torch.float64 and type(layer) is Variant


def test_wrapping_anew_takes_the_earlier_adapters_out(net, x):
    before = net(x)
    replace_linear_with_lora(net, 4)
    speak(net)
    wrap_layers(net, {"fc1": {"rank": 2}})
    assert list(lora_layers(net)) == ["fc1"] and torch.equal(net(x), before)


def test_layers_can_start_from_a_state_and_one_that_does_not_fit_changes_nothing(net):
    state = {"fc1.A": torch.ones(12, 2), "fc1.B": torch.ones(2, 16)}
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"lacks fc1\.B"):
        wrap_layers(net, {"fc1": {"rank": 2}}, {"fc1.A": state["fc1.A"]})
    assert_untouched(net, before)
    wrap_layers(net, {"fc1": {"rank": 2}}, state)
    assert all(torch.equal(value, state[key]) for key, value in lora_state(net).items())


def test_wrapping_a_layer_that_is_not_there_is_refused_with_the_nearest(net):
    with pytest.raises(ValueError, match=r"'fc3' is no linear layer of this model; did you mean 'fc"):
        wrap_layers(net, {"fc3": {"rank": 2}})


def test_a_model_without_parameters_has_none_and_its_share_is_zero():
    assert str(count_parameters(nn.ReLU())) == "trainable params: 0 || all params: 0 || trainable%: 0.0000"


def test_the_share_of_a_very_small_model_is_its_own():
    assert str(count_parameters(nn.Linear(1, 1))).endswith("trainable%: 100.0000")


def test_a_models_parts_are_the_adapter_what_else_learns_and_what_is_frozen_and_no_buffers(net):
    net.norm = nn.BatchNorm1d(6)
    assert not model_parts(net)["adapter"] and len(model_parts(net)["head"]) == 8
    replace_linear_with_lora(net, 2, targets="fc1")
    net.head.bias.requires_grad_(True)
    parts = model_parts(net)
    assert list(parts["adapter"]) == ["fc1.A", "fc1.B"] and list(parts["head"]) == ["head.bias"]
    names = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "head.weight", "norm.weight", "norm.bias"]
    assert list(parts["base"]) == names
