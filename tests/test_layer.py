"""The layer, claim by claim."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from conftest import speak
from lora_lab import LinearWithLoRA, LoRALayer, set_seed, train_model

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2}


@st.composite
def adapted_layers(draw):
    """A layer of any shape, rank and dtype, with or without bias, B filled; and an input of one to four dimensions."""
    set_seed(draw(st.integers(0, 2**16)))
    size = st.integers(1, 24)
    in_features, out_features = draw(size), draw(size)
    dtype = draw(st.sampled_from(sorted(TOLERANCE, key=str)))
    linear = nn.Linear(in_features, out_features, bias=draw(st.booleans()), dtype=dtype)
    rank = draw(st.integers(1, min(in_features, out_features)))
    layer = speak(LinearWithLoRA(linear, rank, draw(st.floats(0.25, 32))), size=0.1)
    lead = draw(st.sampled_from([(), (1,), (4,), (2, 3), (0,), (2, 1, 2)]))
    return layer, torch.randn(*lead, in_features, dtype=dtype)


def close(actual, expected):
    tolerance = TOLERANCE[actual.dtype]
    expected = expected.to(actual.dtype)
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


@given(adapted_layers())
def test_the_output_is_the_frozen_layer_plus_the_scaled_product(case):
    layer, x = case
    linear, lora = layer.linear, layer.lora
    scale = lora.alpha / lora.rank
    bias = None if linear.bias is None else linear.bias.double()
    update = scale * x.double() @ lora.A.double() @ lora.B.double()
    close(layer(x), F.linear(x.double(), linear.weight.double(), bias) + update)
    assert layer(x).shape == (*x.shape[:-1], linear.out_features)


@given(adapted_layers())
def test_the_update_alone_is_what_the_layer_adds(case):
    layer, x = case
    close(layer.lora(x), x.double() @ layer.lora.delta().double())


@given(adapted_layers())
def test_merging_computes_the_same_and_unmerging_gives_back_the_very_same_bits(case):
    layer, x = case
    weight, state, before = layer.linear.weight.clone(), list(layer.state_dict()), layer(x)
    for _ in range(2):  # merging twice is merging once
        layer.merge()
        close(layer(x), before)
        assert list(layer.state_dict()) == state
    layer.unmerge()
    assert torch.equal(layer.linear.weight, weight)
    assert torch.equal(layer(x), before)


@given(adapted_layers())
def test_the_effective_weight_is_what_the_layer_acts_with(case):
    layer, x = case
    bias = None if layer.bias is None else layer.bias
    for step in (lambda: None, layer.merge, layer.unmerge):
        step()
        close(F.linear(x, layer.weight, bias), layer(x).double())


@given(adapted_layers())
def test_a_new_adapter_adds_exactly_nothing(case):
    layer, x = case
    fresh = LinearWithLoRA(layer.linear, layer.lora.rank)
    assert torch.equal(fresh(x), layer.linear(x))


def test_b_starts_at_zero_and_a_within_one_over_root_in_features():
    lora = LoRALayer(400, 30, rank=8)
    assert not lora.B.any()
    bound = 1 / math.sqrt(400)
    assert 0.9 * bound < lora.A.abs().max() <= bound
    assert lora.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_alpha_defaults_to_the_rank_so_that_the_scale_is_one():
    assert LoRALayer(64, 10).rank == 4
    assert LoRALayer(64, 10, rank=7).scale == 1.0


@pytest.mark.parametrize(
    ("scaling", "scale"), [("alpha/r", 16 / 4), ("alpha", 16), ("alpha/sqrt(r)", 16 / 2)], ids=lambda value: str(value)
)
def test_the_three_conventions_of_scale(scaling, scale):
    assert LoRALayer(64, 10, rank=4, alpha=16, scaling=scaling).scale == scale


def test_freezing_is_the_wrappers_job_bias_included():
    layer = LinearWithLoRA(nn.Linear(64, 10), rank=4)
    trainable = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    assert trainable == {"lora.A", "lora.B"}
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 4 * (64 + 10) == 296


def test_the_wrapped_layer_is_not_copied():
    linear = nn.Linear(8, 4)
    assert LinearWithLoRA(linear, 2).linear is linear


def test_on_the_first_step_a_receives_no_gradient_and_b_does():
    layer = LinearWithLoRA(nn.Linear(12, 6), rank=3)
    layer(torch.randn(5, 12)).square().sum().backward()
    assert not layer.lora.A.grad.any()
    assert layer.lora.B.grad.all()
    assert layer.linear.weight.grad is None and layer.linear.bias.grad is None


def test_with_a_and_b_both_zero_nothing_is_ever_learned():
    layer = LinearWithLoRA(nn.Linear(12, 6), rank=3)
    nn.init.zeros_(layer.lora.A)
    train_model(layer, torch.randn(20, 12), torch.randn(20, 6), epochs=5, progress=False)
    assert not layer.lora.A.any() and not layer.lora.B.any()


def test_training_changes_the_output_and_not_one_bit_of_the_pretrained_layer():
    layer = LinearWithLoRA(nn.Linear(12, 6), rank=3)
    weight, bias = layer.linear.weight.clone(), layer.linear.bias.clone()
    x = torch.randn(20, 12)
    before = layer(x)
    train_model(layer, x, torch.randn(20, 6), epochs=5, progress=False)
    assert torch.equal(layer.linear.weight, weight) and torch.equal(layer.linear.bias, bias)
    assert not torch.allclose(layer(x), before)


def test_the_forward_and_backward_pass_never_build_the_product_a_b():
    class LargestTensor(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and func is not torch.ops.aten.t.default:
                    self.seen = max(self.seen, tensor.numel())
            return result

    layer = LinearWithLoRA(nn.Linear(256, 256), rank=2)
    x = torch.randn(4, 256, requires_grad=True)
    with LargestTensor() as mode:
        layer(x).sum().backward()
        assert 0 < mode.seen < 256 * 256
        layer.lora.delta()  # the mode does notice one
        assert mode.seen == 256 * 256


def test_adding_two_adapters_equals_concatenating_them():
    linear, x = nn.Linear(12, 6), torch.randn(5, 12)
    first, second = (speak(LinearWithLoRA(linear, rank, alpha=5)).lora for rank in (2, 3))
    both = LoRALayer(12, 6, rank=5)
    with torch.no_grad():
        both.A.copy_(torch.cat([first.A, second.A], dim=1))
        both.B.copy_(torch.cat([first.scale * first.B, second.scale * second.B], dim=0))
    torch.testing.assert_close(both(x), first(x) + second(x))


def test_averaging_a_and_b_is_not_adding_two_adapters():
    first, second = (speak(LinearWithLoRA(nn.Linear(64, 64), 4)).lora for _ in range(2))
    mean = LoRALayer(64, 64, rank=4)
    with torch.no_grad():
        mean.A.copy_((first.A + second.A) / 2)
        mean.B.copy_((first.B + second.B) / 2)
    truth = (first.delta() + second.delta()) / 2
    assert (mean.delta() - truth).norm() > 0.5 * truth.norm()


def test_it_follows_the_wrapped_layers_dtype_and_mode():
    layer = LinearWithLoRA(nn.Linear(8, 4, dtype=torch.bfloat16).eval(), rank=2)
    assert layer.lora.A.dtype == layer.lora.B.dtype == torch.bfloat16
    assert not layer.training and not layer.lora.training


def test_it_works_inside_torchs_own_attention_and_transformer_layers():
    """They reach past the forward pass for .weight, and must not find the pretrained weight alone."""
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    x = torch.randn(3, 5, 16)
    encoder.linear1 = speak(LinearWithLoRA(encoder.linear1, 2))
    encoder.self_attn.out_proj = speak(LinearWithLoRA(encoder.self_attn.out_proj, 2))
    slow = encoder(x)
    with torch.no_grad():
        fast = encoder(x)
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-4, atol=1e-5)
    encoder.linear1.enabled = encoder.self_attn.out_proj.enabled = False
    assert not torch.allclose(encoder(x), slow, atol=1e-3)


@pytest.mark.parametrize("rank", [0, -1, 11, 2.0, True, None, "4"])
def test_a_rank_that_does_not_fit_is_refused_by_name_value_and_way_out(rank):
    with pytest.raises(ValueError, match=rf"rank={rank!r} is not a whole number from 1 to 10; the layer is 64→10"):
        LoRALayer(64, 10, rank=rank)


@pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan, "8", True])
def test_an_alpha_that_is_no_positive_number_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha!r}.*leave it out"):
        LoRALayer(64, 10, alpha=alpha)


def test_an_unknown_scaling_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"scaling='r' is unknown.*'alpha/sqrt\(r\)'"):
        LoRALayer(64, 10, scaling="r")


class Quantised(nn.Linear):
    def forward(self, x):
        return super().forward(x.round())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 4, 3), "type Conv2d can't be adapted"),
        (nn.Embedding(9, 4), "type Embedding can't be adapted"),
        (Quantised(8, 4), "type Quantised can't be adapted"),
        (LinearWithLoRA(nn.Linear(8, 4), 2), "already has LoRA.*remove_lora"),
        (nn.LazyLinear(4), "does not know its size yet; send one batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_layer_that_cannot_be_adapted_is_refused_with_the_reason(layer, reason):
    with pytest.raises(TypeError, match=reason):
        LinearWithLoRA(layer, 2)


def test_a_refused_layer_is_left_unfrozen():
    linear = nn.Linear(8, 4)
    with pytest.raises(ValueError, match="rank=5"):
        LinearWithLoRA(linear, 5)
    assert linear.weight.requires_grad and linear.bias.requires_grad


def test_the_weight_of_a_disabled_layer_is_the_pretrained_one_to_the_bit():
    layer = speak(LinearWithLoRA(nn.Linear(8, 4), 2))
    layer.merge()
    layer.enabled = False
    assert torch.equal(layer.weight, layer.linear.weight)


def test_gpt2s_conv1d_computes_the_same_merged_or_not_and_keeps_its_layout():
    layer, x = speak(LinearWithLoRA(Conv1D(4, 8), 2, alpha=5)), torch.randn(3, 8)
    assert (layer.in_features, layer.out_features) == (8, 4) and layer.lora.A.shape == (8, 2)
    expected = layer.linear(x) + layer.lora(x)
    for step in (lambda: None, layer.merge, layer.unmerge):
        step()
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer.weight, layer.linear.weight + layer.lora.delta())
    layer.enabled = False
    assert torch.equal(layer.weight, layer.linear.weight)


def test_a_and_b_are_made_on_the_wrapped_layers_device():
    lora = LinearWithLoRA(nn.Linear(8, 4, device="meta"), 2).lora
    assert lora.A.device.type == lora.B.device.type == "meta"


def test_a_wrapped_layer_knows_its_sizes():
    layer = LinearWithLoRA(nn.Linear(8, 4), 2)
    assert (layer.in_features, layer.out_features) == (8, 4)


def test_numpys_numbers_are_numbers_and_are_kept_as_pythons():
    lora = LoRALayer(64, 10, rank=np.int64(2), alpha=np.float32(3), dropout=np.float32(0.5))
    assert [type(value) for value in (lora.rank, lora.alpha, lora.dropout)] == [int, float, float]
    assert (lora.rank, lora.alpha, lora.dropout) == (2, 3, 0.5)


def test_the_rank_may_be_as_large_as_the_smaller_side():
    assert LoRALayer(64, 10, rank=10).rank == 10


def test_dropout_acts_in_training_only_and_on_the_updates_path_only():
    layer, x = speak(LinearWithLoRA(nn.Linear(8, 4), 2, dropout=0.5)), torch.ones(6, 8)
    base, full = layer.linear(x), layer.linear(x) + layer.lora.eval()(x)
    torch.testing.assert_close(layer.eval()(x), full)
    layer.train()
    assert not torch.allclose(layer(x), full) and not torch.allclose(layer.lora(x), full - base)
    nn.init.zeros_(layer.lora.B)
    assert torch.equal(layer(x), base)


def test_dropout_takes_its_share_of_single_numbers_and_makes_up_for_them():
    lora = LoRALayer(64, 10, dropout=0.2)
    seen = lora.seen(torch.ones(500, 64))
    assert (seen == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert seen.max().item() == pytest.approx(1 / 0.8)
    assert ((seen == 0).any(dim=1) & (seen != 0).any(dim=1)).all()


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, math.nan, math.inf, True, "0.1", None])
def test_a_dropout_that_is_no_share_below_one_is_refused(dropout):
    with pytest.raises(ValueError, match=rf"dropout={dropout!r}.*try 0.1"):
        LoRALayer(64, 10, dropout=dropout)


@pytest.mark.parametrize("dtype", [torch.int64, "float32", float])
def test_a_dtype_that_is_no_floating_point_type_of_torch_is_refused(dtype):
    with pytest.raises(ValueError, match=r"is no floating-point type of torch; try torch\.float32"):
        LinearWithLoRA(nn.Linear(8, 4), 2, dtype=dtype)


def test_float32_adapters_on_a_bfloat16_layer_round_once_and_give_bfloat16():
    layer = speak(LinearWithLoRA(nn.Linear(64, 64, dtype=torch.bfloat16), 4, dtype=torch.float32))
    lora, x = layer.lora, torch.randn(20, 64).bfloat16()
    assert lora.A.dtype == lora.B.dtype == torch.float32
    assert layer(x).dtype == layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer(x), (layer.linear(x).float() + lora(x)).bfloat16())
    exact = layer.linear.weight.double() + (lora.A.double() @ lora.B.double()).T
    layer.merge()
    assert layer(x).dtype == layer.merged.dtype == torch.bfloat16
    error, best = (layer.merged.double() - exact).norm(), (exact.bfloat16().double() - exact).norm()
    assert error <= 1.001 * best


@pytest.mark.parametrize(("base", "own"), [(torch.float64, None), (torch.float32, torch.float64)])
def test_a_merged_weight_is_as_exact_as_the_finer_of_w_and_the_adapter(base, own):
    layer = speak(LinearWithLoRA(nn.Linear(64, 64, dtype=base), 4, dtype=own))
    exact = layer.linear.weight.double() + (layer.lora.A.double() @ layer.lora.B.double()).T
    layer.merge()
    rounded = (exact.to(base).double() - exact).norm()
    assert (layer.merged.double() - exact).norm() <= 1.001 * rounded + 1e-14


def test_a_merged_weight_carries_no_gradient():
    layer = LinearWithLoRA(nn.Linear(8, 4), 2)
    layer.merge()
    assert not layer.merged.requires_grad


class Packed(nn.Linear):
    """Keeps its weight halved, as a layer that stores it in another form would."""

    def dense_weight(self):
        return 2 * self.weight

    def forward(self, x):
        return F.linear(x, self.dense_weight(), self.bias)


def test_a_layer_with_a_form_of_its_own_is_adapted_by_the_weight_it_says_it_has():
    linear, x = Packed(8, 4), torch.randn(3, 8)
    layer = speak(LinearWithLoRA(linear, 2))
    expected = linear(x) + layer.lora(x)
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="a Packed keeps its weight in fewer bits"):
        layer.merge()
    torch.testing.assert_close(layer(x), expected)
    layer.enabled = False
    assert torch.equal(layer.weight, linear.dense_weight())


def test_a_linear_layer_of_another_name_is_adapted():
    class Renamed(nn.Linear):
        pass

    assert LinearWithLoRA(Renamed(8, 4), 2).in_features == 8


def test_a_variant_of_lora_counts_as_lora_and_is_not_adapted_again():
    class Variant(LinearWithLoRA):
        pass

    with pytest.raises(TypeError, match="already has LoRA"):
        LinearWithLoRA(Variant(nn.Linear(8, 4), 2), 2)


def test_a_layer_that_is_only_called_conv1d_is_refused():
    with pytest.raises(TypeError, match="type Conv1d can't"):
        LinearWithLoRA(nn.Conv1d(8, 4, 1), 2)
    with pytest.raises(TypeError, match="type Conv1D can't"):
        LinearWithLoRA(type("Conv1D", (nn.Conv1d,), {})(8, 4, 1), 2)


def test_printing_a_layer_shows_its_dropout_only_if_it_has_one():
    assert "scaling='alpha/r', dropout=0.1)" in repr(LoRALayer(64, 10, dropout=0.1))
    assert "dropout" not in repr(LoRALayer(64, 10))
