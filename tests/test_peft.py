"""Adapters travel both ways between this package and PEFT, on plain, GPT-2 and Llama models, and compute the same."""

import copy
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from conftest import SmallNet, speak
from lora_lab import (
    AdapterFileError,
    load_adapter,
    lora_layers,
    lora_state,
    merge_lora,
    replace_linear_with_lora,
    save_adapter,
)
from lora_lab.adapt import wrap_layers
from lora_lab.peft_config import PeftConfig


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16)).eval()


def llama():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 50}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()


def run(model):
    """The model's outputs on inputs that are always the same."""
    random = torch.Generator().manual_seed(1)
    if isinstance(getattr(model, "base_model", model), SmallNet) or hasattr(model, "fc1"):
        return model(torch.randn(5, 12, generator=random))
    return model(torch.randint(50, (3, 9), generator=random)).logits


MODELS = {
    "mlp": (SmallNet, ["fc1", "head"]),
    "gpt2": (gpt2, ["c_attn", "c_fc"]),
    "llama": (llama, ["q_proj", "v_proj", "down_proj"]),
}
OPTIONS = {
    "r differs from alpha": {"r": 3, "lora_alpha": 8},
    "rsLoRA": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {"fc1": 5, "c_fc": 5, "layers.0.self_attn.q_proj": 5},
        "alpha_pattern": {"^transformer.h.1.attn.c_attn": 7, "head": 7, r".*\.v_proj": 7},
    },
    "a regular expression for targets": {"r": 2, "lora_alpha": 3, "target_modules": r".*(fc1|c_attn|v_proj)"},
    "an exclusion": {"r": 2, "lora_alpha": 3, "exclude_modules": ["head", "h.0.attn.c_attn", "layers.1.mlp.down_proj"]},
}


def peft_model(base, **options):
    """PEFT's model around a copy of base, with a B that says something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks that Conv1D is transposed, and puts it right
        model = get_peft_model(copy.deepcopy(base), LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=MODELS)
def base_and_targets(request):
    make, targets = MODELS[request.param]
    return make(), targets


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_adapter_saved_by_peft_loads_here_and_gives_pefts_outputs(base_and_targets, options, tmp_path):
    base, targets = base_and_targets
    theirs = peft_model(base, **{"target_modules": targets} | options)
    theirs.save_pretrained(tmp_path)
    load_adapter(base, tmp_path)
    same(run(base), run(theirs))
    merge_lora(base)
    same(run(base), run(theirs))


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)", "alpha"])
@pytest.mark.parametrize("one_rank", [True, False], ids=["one rank", "ranks of their own"])
def test_an_adapter_saved_here_loads_in_peft_and_gives_our_outputs(base_and_targets, scaling, one_rank, tmp_path):
    base, targets = base_and_targets
    theirs = copy.deepcopy(base)
    names = replace_linear_with_lora(base, 3, 5, targets, scaling=scaling)
    if not one_rank:
        wrap_layers(base, {n: {"rank": 2 + i % 3, "alpha": 1.5 + i, "scaling": scaling} for i, n in enumerate(names)})
    speak(base)
    save_adapter(base, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a key that PEFT doesn't find is only a warning there
        theirs = PeftModel.from_pretrained(theirs, tmp_path).eval()
    same(run(theirs), run(base))


def test_a_round_trip_through_peft_changes_no_bit(base_and_targets, tmp_path):
    base, targets = base_and_targets
    theirs = copy.deepcopy(base)
    replace_linear_with_lora(base, 3, 5, targets)
    state = lora_state(speak(base))
    save_adapter(base, tmp_path / "ours")
    PeftModel.from_pretrained(theirs, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    load_adapter(base, tmp_path / "theirs")
    back = lora_state(base)
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


def test_gradients_of_a_and_b_equal_pefts(base_and_targets, tmp_path):
    base, targets = base_and_targets
    theirs = peft_model(base, r=3, lora_alpha=8, target_modules=targets)
    theirs.save_pretrained(tmp_path)
    load_adapter(base, tmp_path)
    for model in (base, theirs):
        run(model).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    for name, layer in lora_layers(base).items():
        same(layer.lora.A.grad, gradients[f"base_model.model.{name}.lora_A.default.weight"].T)
        same(layer.lora.B.grad, gradients[f"base_model.model.{name}.lora_B.default.weight"].T)


def test_a_name_that_ends_another_name_is_adapted_alone_in_peft_too(tmp_path):
    """PEFT reads "fc1" as every layer whose name ends in .fc1."""
    base = nn.ModuleDict({"fc1": nn.Linear(6, 6), "inner": nn.ModuleDict({"fc1": nn.Linear(6, 6)})})
    theirs = copy.deepcopy(base)
    wrap_layers(base, {"fc1": {"rank": 2}})
    speak(base)
    save_adapter(base, tmp_path)
    theirs = PeftModel.from_pretrained(theirs, tmp_path)
    x = torch.randn(3, 6)
    same(theirs.base_model.model["fc1"](x), base["fc1"](x))
    assert not any("inner" in name for name, _ in theirs.named_parameters() if "lora" in name)
    assert load_adapter(base, tmp_path) == ["fc1"]


def trained_elsewhere(model, names):
    """These parameters learned something, too, beside LoRA."""
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
            nn.init.normal_(parameter, std=0.3)


BESIDE = {
    "a head": (["head.weight", "head.bias"], {"modules_to_save": ["head"], "bias": "none"}),
    "half a head": (["head.weight"], {"modules_to_save": ["head"], "bias": "none"}),
    "the adapted layers' biases": (["fc1.linear.bias", "fc2.linear.bias"], {"bias": "lora_only"}),
    "one adapted layer's bias": (["fc2.linear.bias"], {"bias": "lora_only"}),
    "all biases": (["fc1.linear.bias", "fc2.linear.bias", "head.bias"], {"bias": "all"}),
    "biases and a head": (
        ["fc1.linear.bias", "fc2.linear.bias", "head.weight"],
        {"modules_to_save": ["head"], "bias": "lora_only"},
    ),
}


@pytest.mark.parametrize(("names", "options"), BESIDE.values(), ids=BESIDE)
def test_what_was_trained_beside_lora_goes_to_peft_and_comes_back(net, names, options, tmp_path):
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, 5, ["fc1", "fc2"])
    trained_elsewhere(speak(net), names)
    save_adapter(net, tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert options.items() <= config.items() and ("modules_to_save" in config) == ("modules_to_save" in options)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "ours").eval()
    same(run(theirs), run(net))
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = copy.deepcopy(base)
        load_adapter(again, tmp_path / folder)
        assert torch.equal(run(again), run(net))
        assert {name for name, p in again.named_parameters() if p.requires_grad} >= set(names)


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
@pytest.mark.parametrize("modules", [None, ["head"]], ids=["no head", "a head"])
def test_what_peft_trained_beside_lora_loads_here(net, bias, modules, tmp_path):
    theirs = peft_model(net, r=3, lora_alpha=5, target_modules=["fc1", "fc2"], bias=bias, modules_to_save=modules)
    trained_elsewhere(theirs, {name for name, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(tmp_path)
    load_adapter(net, tmp_path)
    same(run(net), run(theirs))


def test_modules_that_peft_names_by_their_end_or_from_outside_load_here(tmp_path):
    base = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 6)))
    base[2].register_buffer("seen", torch.zeros(()))
    base = nn.ModuleDict({"body": base, "score": nn.Linear(6, 6)})
    theirs = peft_model(base, r=2, target_modules=["0"], modules_to_save=["body.2", "score"])
    trained_elsewhere(theirs, {name for name, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(tmp_path)
    assert load_adapter(base, tmp_path) == ["body.0"]
    x = torch.randn(5, 12)
    same(base["score"](base["body"](x)), theirs.base_model.model["score"](theirs.base_model.model["body"](x)))


@pytest.mark.parametrize(
    "options",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0},
        {"layers_to_transform": [0, 1], "layers_pattern": "h"},
        {"layers_to_transform": [1], "layers_pattern": ["layers", "h"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_blocks_are_counted_as_peft_counts_them(kind, options, tmp_path):
    make, targets = MODELS[kind]
    if options.get("layers_pattern") == "h" and kind == "llama":
        options = options | {"layers_pattern": "layers"}
    base = make()
    theirs = peft_model(base, r=2, target_modules=targets, **options)
    theirs.save_pretrained(tmp_path)
    names = load_adapter(base, tmp_path)
    same(run(base), run(theirs))
    assert len(names) == sum("lora_A" in name for name, _ in theirs.named_parameters())


NESTED = ["q", "h.0.q", "a.q", "a.h.0.q", "a.h.1.q", "a.h.1.layers.0.q", "a.h.0.layers.1.q", "a.ash.1.q", "a.h.1.seq"]


@pytest.mark.parametrize("pattern", [None, "h", "layers", "ash", ["layers", "h"], ["h", "layers"], [], [""]], ids=str)
@pytest.mark.parametrize("blocks", [0, [0], [1], [0, 1], [2], None], ids=str)
def test_which_layers_blocks_and_their_patterns_mean_is_what_they_mean_to_peft(pattern, blocks):
    options = {"target_modules": ["q"], "layers_to_transform": blocks, "layers_pattern": pattern}
    config = LoraConfig(**options | {"layers_pattern": pattern if blocks is not None else None})
    config.target_modules = ["q"]
    meant = [name for name in NESTED if check_target_module_exists(config, name)]
    assert [name for name in NESTED if PeftConfig(options).adapts(name)] == meant


def test_dropout_is_pefts_dropout_in_the_file_and_in_training(net, tmp_path):
    theirs = peft_model(net, r=3, lora_alpha=5, target_modules=["fc1"], lora_dropout=0.25)
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(net, tmp_path / "theirs")
    assert net.fc1.lora.dropout == 0.25
    for model in (net, theirs):
        model.train()
    outputs = []
    for model in (net, theirs):
        torch.manual_seed(5)
        outputs.append(run(model))
    same(*outputs)
    save_adapter(net, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["lora_dropout"] == 0.25


def test_float32_adapters_on_a_bfloat16_model_compute_as_pefts_do(net, tmp_path):
    net.bfloat16()
    theirs = peft_model(net, r=3, lora_alpha=5, target_modules=["fc1", "head"])  # PEFT keeps A and B in float32
    theirs.save_pretrained(tmp_path)
    load_adapter(net, tmp_path, dtype=torch.float32)
    assert net.fc1.lora.A.dtype == torch.float32 and net.fc1.linear.weight.dtype == torch.bfloat16
    x = torch.randn(5, 12).bfloat16()
    assert torch.equal(net(x), theirs(x)) and net(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"trainable_token_indices": [1]}, r"'trainable_token_indices' is \[1\]"),
    ],
)
def test_an_option_of_pefts_that_is_not_honoured_is_refused_by_name(net, options, refused, tmp_path):
    LoraConfig(r=2, lora_alpha=4, target_modules=["fc1"], **options).save_pretrained(tmp_path)
    with pytest.raises(AdapterFileError, match=refused):
        load_adapter(net, tmp_path)


def test_the_smallest_config_that_peft_loads_loads_here(net, tmp_path):
    replace_linear_with_lora(net, 4, 8, "fc1")
    speak(net)
    save_adapter(net, tmp_path)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["fc1"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    before = run(net)
    load_adapter(net, tmp_path)
    assert torch.equal(run(net), before)
