"""Memory by formula is what the ledger measures, term by term, and Llama's sizes are the published ones."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_lab import memory_ledger, replace_linear_with_lora
from lora_lab.budget import FOUR_BITS, LLAMA, TINY_GPT, Shape, step_memory
from lora_lab.four_bits import quantize_linear_layers
from lora_lab.material import TinyGPT
from lora_lab.training import default_loss


@pytest.mark.parametrize(("rank", "pieces", "length"), [(1, 1, 8), (8, 4, 32), (16, 2, 128)])
def test_the_formula_is_what_the_ledger_measures_on_tinygpt(rank, pieces, length):
    model, X = TinyGPT(), torch.randint(96, (pieces, length))
    replace_linear_with_lora(model, rank, exclude="head")
    by_formula = step_memory(TINY_GPT, rank, pieces, length, weight_bits=32, other_bits=32)
    for part, size in memory_ledger(model, X, X).items():
        assert by_formula[part] == pytest.approx(size, abs=8), part  # the loss itself, and how many were counted


@pytest.mark.parametrize(("width", "depth", "heads", "rank"), [(48, 1, 6, 4), (96, 2, 3, 8)])
def test_and_on_models_of_other_sizes(width, depth, heads, rank):
    model, X = TinyGPT(width, depth, heads), torch.randint(96, (3, 20))
    replace_linear_with_lora(model, rank, exclude="head")
    shape = Shape(width, depth, heads, 4 * width, 96, keys=width, gated=False, context=256)
    by_formula = step_memory(shape, rank, 3, 20, weight_bits=32, other_bits=32)
    for part, size in memory_ledger(model, X, X).items():
        assert by_formula[part] == pytest.approx(size, abs=8), part


def test_four_bits_are_what_a_packed_tinygpt_takes():
    model, X = TinyGPT(), torch.randint(96, (2, 16))
    quantize_linear_layers(model, exclude="head")
    replace_linear_with_lora(model, 8, exclude="head")
    by_formula = step_memory(TINY_GPT, 8, 2, 16, weight_bits=FOUR_BITS, other_bits=32)
    measured = memory_ledger(model, X, X)
    # Each layer's last group of scales may be short, and its middle is one number more.
    assert by_formula["weights"] == pytest.approx(measured["weights"], rel=0.001)
    assert by_formula["activations"] == pytest.approx(measured["activations"], abs=8)


def test_llamas_sizes_are_the_published_ones():
    sizes = {name: shape.in_blocks() + shape.elsewhere() for name, shape in LLAMA.items()}
    assert sizes == {"7B": 6_738_415_616, "13B": 13_015_864_320, "70B": 68_976_648_192}
    assert LLAMA["7B"].of_lora(8) == 8 * 32 * (4 * 8192 + 3 * (4096 + 11008))


def test_checkpointing_keeps_a_blocks_input_and_one_block():
    plain, spared = (step_memory(LLAMA["7B"], 8, 1, 512, checkpointing=on)["activations"] for on in (False, True))
    shape = LLAMA["7B"]
    assert plain - spared == 512 * 2 * (31 * shape.kept(8) - 32 * shape.width)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"pieces": 1.5}, {"length": -1}])
def test_sizes_are_whole_numbers(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* is not a whole number"):
        step_memory(TINY_GPT, **{"rank": 8, "pieces": 1, "length": 8} | wrong)


@pytest.mark.parametrize("keys", [64, 32])
def test_and_on_transformers_llama_within_a_hundredth(keys):
    """Its rotations and norms keep a little more than the formula counts."""
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=keys // 16,
        intermediate_size=172,
        vocab_size=96,
    )
    model, X = LlamaForCausalLM(config), torch.randint(96, (2, 32))
    replace_linear_with_lora(model, 4, exclude="lm_head")
    measured = memory_ledger(model, X, X, loss=lambda output, y: default_loss(output.logits, y))
    by_formula = step_memory(Shape(64, 2, 4, 172, 96, keys=keys), 4, 2, 32, weight_bits=32, other_bits=32)
    assert measured == pytest.approx(by_formula, rel=0.01)


def test_bits_are_a_positive_number():
    with pytest.raises(ValueError, match="weight_bits=-4 is not a positive number; try 16"):
        step_memory(TINY_GPT, 8, 1, 8, weight_bits=-4)
