"""The layer, claim by claim."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

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
