"""Memory by formula is what the ledger measures, term by term, and Llama's sizes are the published ones."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_lab import memory_ledger, replace_linear_with_lora
from lora_lab.budget import FOUR_BITS, LLAMA, TINY_GPT, Shape, memory_of_a_card, sent_by_a_card, step_memory
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


def test_one_card_is_what_it_was_and_sends_nothing():
    alone = step_memory(LLAMA["7B"], 16, 2, 512)
    assert memory_of_a_card(LLAMA["7B"], 16, 1, "ddp", 2, 512) == alone
    sharded = memory_of_a_card(LLAMA["7B"], 16, 1, "fsdp", 2, 512)
    assert {part: sharded[part] for part in alone} == alone and sharded["gathered"] > 0
    assert sent_by_a_card(LLAMA["7B"], 16, 1, "ddp") == sent_by_a_card(LLAMA["7B"], 16, 1, "fsdp") == 0


def test_copies_stay_as_large_and_shards_shrink_but_for_activations_and_the_block_at_work():
    shape, settings = LLAMA["70B"], {"weight_bits": 16, "checkpointing": True}
    one, many = (memory_of_a_card(shape, 16, cards, "fsdp", 4, 2048, **settings) for cards in (1, 64))
    for part in ("weights", "gradients", "optimizer"):
        assert many[part] == pytest.approx(one[part] / 64)
    assert many["activations"] == one["activations"] and many["gathered"] == one["gathered"]
    blocks, outside = 2 * shape.in_blocks() + 4 * shape.of_lora(16), 2 * (2 * 32000 * 8192 + 8192)
    assert many["gathered"] == pytest.approx(2 * blocks / 80 + outside)
    copies = (memory_of_a_card(shape, 16, cards, "ddp", 4, 2048, **settings) for cards in (8, 512))
    assert next(copies) == next(copies)


@pytest.mark.parametrize("cards", [2, 8, 512])
def test_what_a_card_sends(cards):
    ring, lora = 1 - 1 / cards, 4 * TINY_GPT.of_lora(8)
    bits = {"weight_bits": 32, "other_bits": 32}
    assert sent_by_a_card(TINY_GPT, 8, cards, "ddp", **bits) == pytest.approx(2 * ring * lora)
    whole = 4 * (TINY_GPT.in_blocks() + TINY_GPT.elsewhere())
    assert sent_by_a_card(TINY_GPT, None, cards, "ddp", **bits) == pytest.approx(2 * ring * whole)
    blocks = 4 * (TINY_GPT.in_blocks() + TINY_GPT.small_in_blocks())
    sharded = ring * (whole + lora + blocks + lora + lora)
    assert sent_by_a_card(TINY_GPT, 8, cards, "fsdp", **bits) == pytest.approx(sharded)


def test_other_engines_and_no_cards_are_refused():
    with pytest.raises(ValueError, match="choose 'ddp' for copies or 'fsdp' for shards"):
        sent_by_a_card(TINY_GPT, 8, 2, "zero")
    with pytest.raises(ValueError, match="cards=0"):
        memory_of_a_card(TINY_GPT, 8, 0, "ddp", 1, 8)
