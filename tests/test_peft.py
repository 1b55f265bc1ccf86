"""Adapters travel both ways between this package and PEFT, on plain, GPT-2 and Llama models, and compute the same."""

import copy
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
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


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"use_dora": True}, "'use_dora' is True"),
        ({"bias": "lora_only"}, "'bias' is 'lora_only'"),
        ({"modules_to_save": ["head"]}, r"'modules_to_save' is \['head'\]"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"trainable_token_indices": [1]}, r"'trainable_token_indices' is \[1\]"),
        ({"layers_to_transform": [0]}, r"'layers_to_transform' is \[0\]"),
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
