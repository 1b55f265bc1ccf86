"""Four bits a weight: the levels, the rounding, the packed layer beside a plain one, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from conftest import speak
from lora_lab import (
    count_parameters,
    load_adapter,
    lora_layers,
    memory_ledger,
    merge_lora,
    remove_lora,
    replace_linear_with_lora,
    save_adapter,
    train_model,
)
from lora_lab.four_bits import (
    LEVELS,
    Linear4bit,
    dequantize,
    dequantize_linear_layers,
    levels_of,
    nf4_levels,
    quantize,
    quantize_linear_layers,
    rounded,
)

# As QLoRA's paper prints them in its appendix E (arXiv:2305.14314), to four places.
PUBLISHED = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
PUBLISHED += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]


def test_nf4s_levels_are_the_published_ones():
    assert [round(level, 4) for level in nf4_levels().tolist()] == pytest.approx(PUBLISHED, abs=1.01e-4)


@pytest.mark.parametrize("form", LEVELS)
def test_a_formats_levels_are_in_order_from_minus_one_to_one_with_zero(form):
    levels = levels_of(form)
    assert (levels.diff() >= 0).all() and len(levels) <= 16
    assert levels[0] == -1 and levels[-1] == 1 and 0 in levels


@pytest.mark.parametrize("form", LEVELS)
@pytest.mark.parametrize("block", [2, 64, 1000])
def test_every_number_goes_to_the_level_nearest_to_it(form, block):
    weight = torch.randn(13, 7)
    places, scales = quantize(weight, form, block)
    numbers = F.pad(weight.flatten(), (0, -weight.numel() % block)).view(-1, block) / scales[:, None]
    nearest = (numbers[..., None] - levels_of(form)).abs().amin(-1)
    chosen = (numbers - levels_of(form)[places]).abs()
    torch.testing.assert_close(chosen, nearest)
    assert torch.equal(dequantize(places, scales, weight.shape, levels_of(form)), rounded(weight, form, block))


def test_a_blocks_largest_number_comes_back_and_zero_stays_zero():
    weight = torch.randn(4, 64)
    weight[0, :5] = 0
    weight[2] = 0
    back = rounded(weight)
    largest = weight.abs().argmax(dim=1, keepdim=True)
    torch.testing.assert_close(back.gather(1, largest).abs(), weight.gather(1, largest).abs())
    assert not back[2].any() and not back[0, :5].any()


def test_rounding_what_was_rounded_changes_nothing():
    once = rounded(torch.randn(30, 50))
    torch.testing.assert_close(rounded(once), once, rtol=1e-6, atol=1e-7)


def test_smaller_blocks_err_less():
    weight = torch.randn(256, 256)
    errors = [(rounded(weight, block=block) - weight).norm() for block in (16, 64, 256, 4096)]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "nf3"}, "no format 'nf3'; choose one of 'nf4', 'fp4', 'int4'"),
        ({"block": 0}, "block=0 is not a whole number from 2 up; try 64"),
        ({"block": 7}, "block=7 is odd"),
    ],
)
def test_what_cant_be_a_format_is_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        quantize(torch.randn(8, 8), **settings)
    with pytest.raises(ValueError, match="NaN or infinity"):
        rounded(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize("make", [nn.Linear, lambda i, o: Conv1D(o, i)], ids=["linear", "conv1d"])
@pytest.mark.parametrize(("sizes", "block"), [((64, 32), 64), ((13, 7), 64), ((200, 150), 16)])
def test_the_packed_layer_is_a_plain_one_with_the_rounded_weight_forward_and_backward(make, sizes, block):
    plain = make(*sizes)
    layer = Linear4bit(plain, block=block)
    alike = nn.Linear(*sizes)
    alike.weight, alike.bias = nn.Parameter(layer.dense_weight()), plain.bias
    weight = plain.weight if isinstance(plain, nn.Linear) else plain.weight.T
    # The scales are rounded to a byte, so that the weight differs from the plainly rounded one by a little more.
    torch.testing.assert_close(layer.weight, rounded(weight, block=block), rtol=0.05, atol=1e-3)
    x = torch.randn(2, 5, sizes[0], requires_grad=True)
    same_x = x.detach().clone().requires_grad_(True)
    torch.testing.assert_close(layer(x), alike(same_x))
    layer(x).square().mean().backward()
    alike(same_x).square().mean().backward()
    torch.testing.assert_close(x.grad, same_x.grad)


def test_a_packed_layer_holds_about_half_a_byte_a_weight_and_keeps_no_whole_one():
    layer = nn.Sequential(Linear4bit(nn.Linear(512, 512, bias=False)), nn.Linear(512, 2))
    bits = 8 * sum(buffer.numel() * buffer.element_size() for buffer in layer[0].buffers()) / 512**2
    assert bits == pytest.approx(4 + 8 / 64 + 32 / 64 / 256, abs=0.001)
    assert not list(layer[0].parameters())
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    x = torch.randn(3, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert max(kept) < 512**2


def test_the_ledger_counts_what_is_packed(net):
    X, y = torch.randn(50, 12), torch.randn(50, 6)
    quantize_linear_layers(net, ["fc1", "fc2"])
    replace_linear_with_lora(net, 2)
    packed = sum(b.numel() * b.element_size() for b in net.buffers())
    assert 0 < packed < 0.6 * 16 * 28 + 100
    assert memory_ledger(net, X, y)["weights"] == packed + 4 * count_parameters(net).total


def test_lora_beside_four_bits_trains_and_comes_back_from_a_file(net, x, tmp_path):
    quantize_linear_layers(net)
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3)
    assert torch.equal(net(x), base(x))
    before = copy.deepcopy(dict(net.named_buffers()))
    history = train_model(net, x, torch.randn(5, 6), epochs=60, lr=0.02)
    assert history.train[-1] < 0.5 * history.train[0]
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    save_adapter(net, tmp_path)
    load_adapter(base, tmp_path)
    torch.testing.assert_close(base(x), net(x))


def test_merging_into_four_bits_is_refused_and_changes_nothing(net, x):
    quantize_linear_layers(net, "fc2")
    replace_linear_with_lora(net, 3)
    speak(net)
    before = net(x)
    with pytest.raises(ValueError, match=r"a Linear4bit keeps its weight in fewer bits.*dequantize_linear_layers"):
        merge_lora(net)
    assert all(layer.merged is None for layer in lora_layers(net).values())
    assert torch.equal(net(x), before)


def test_with_plain_layers_in_their_place_it_can_be_merged_and_be_rounded_again(net, x):
    quantize_linear_layers(net)
    replace_linear_with_lora(net, 3, targets=["fc1", "fc2"])
    speak(net)
    net.eval()
    before = net(x)
    assert dequantize_linear_layers(net) == ["fc1", "fc2", "head"]
    torch.testing.assert_close(net(x), before)
    assert not net.head.weight.requires_grad and not net.fc1.linear.weight.requires_grad
    merge_lora(net)
    torch.testing.assert_close(net(x), before)
    remove_lora(net)
    torch.testing.assert_close(net(x), before)
    assert type(net.fc1) is nn.Linear
    quantize_linear_layers(net)
    assert 0.001 < (net(x) - before).abs().max() < 0.3 * before.abs().max()


def test_only_what_is_named_is_packed_and_the_rest_is_refused_by_name(net):
    assert quantize_linear_layers(net, exclude="head") == ["fc1", "fc2"]
    assert type(net.head) is nn.Linear
    replace_linear_with_lora(net, 2, targets="fc1")
    with pytest.raises(ValueError, match="this model has LoRA in fc1"):
        quantize_linear_layers(net)
    with pytest.raises(ValueError, match="no part of this model is a layer of four bits"):
        dequantize_linear_layers(nn.Sequential(nn.Linear(3, 3)))


def test_what_cant_be_packed_leaves_the_model_as_it_was(net):
    with torch.no_grad():
        net.head.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="head: the weight contains NaN"):
        quantize_linear_layers(net)
    assert all(type(layer) is nn.Linear for layer in (net.fc1, net.fc2, net.head))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_packed_model_travels_as_a_state_dict(net, x):
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    quantize_linear_layers(net)
    quantize_linear_layers(other)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


def test_printing_shows_the_format():
    assert (
        repr(Linear4bit(nn.Linear(8, 4)))
        == "Linear4bit(in_features=8, out_features=4, bias=True, form='nf4', block=64)"
    )


def test_half_precision_stays_half_precision(x):
    layer = Linear4bit(nn.Linear(12, 8).bfloat16())
    assert layer(x.bfloat16()).dtype == layer.weight.dtype == torch.bfloat16


def test_what_comes_back_is_what_bitsandbytes_gives_back():
    """bitsandbytes is no part of the course: its wheel is large and made for GPUs. Where it is installed, it agrees."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    torch.testing.assert_close(functional.get_4bit_type("nf4", device="cpu"), nf4_levels(), rtol=0, atol=1e-6)
    weight = torch.randn(128, 128)
    back = functional.dequantize_4bit(*functional.quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    torch.testing.assert_close(back, rounded(weight), rtol=0, atol=1e-5)


def test_scales_of_all_sizes_keep_their_sign_and_their_size():
    """One block far larger than the others, and some far smaller, in one group."""
    weight = 0.02 * torch.randn(256, 64)
    weight[:128] *= 0.1
    weight[0, 0] = 10.0
    plain = nn.Linear(64, 256, bias=False)
    with torch.no_grad():
        plain.weight.copy_(weight)
    layer = Linear4bit(plain)
    error = (layer.weight - weight)[1:].norm(dim=1) / weight[1:].norm(dim=1)
    assert error.max() < 0.2
    torch.testing.assert_close(layer.weight[0, 0], torch.tensor(10.0))


def test_a_block_of_zeros_stays_zero():
    plain = nn.Linear(64, 4, bias=False)
    with torch.no_grad():
        plain.weight[1:3] = 0
    assert not Linear4bit(plain).weight[1:3].any()
    with torch.no_grad():
        plain.weight.zero_()
    assert not Linear4bit(plain).weight.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_packed_model_goes_to_another_precision_whole(net, x, dtype):
    quantize_linear_layers(net)
    before, weight = net(x), net.fc1.weight
    net.to(dtype)
    assert net.fc1.weight.dtype == dtype
    assert torch.equal(net.fc1.weight, weight.to(dtype))
    torch.testing.assert_close(net(x.to(dtype)).float(), before, rtol=0.05, atol=0.02)


def test_it_trains_under_autocast(net, x):
    quantize_linear_layers(net)
    replace_linear_with_lora(net, 3)
    speak(net)
    x.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(x).float().square().mean()
    loss.backward()
    assert x.grad.dtype == torch.float32 and net.fc1.lora.A.grad.any()


@pytest.mark.parametrize(("one", "other"), [("int4", "nf4"), ("nf4", "int4"), ("fp4", "nf4")])
def test_a_state_brings_its_format_with_it(one, other):
    layer, another = Linear4bit(nn.Linear(64, 32), one), Linear4bit(nn.Linear(64, 32), other)
    another.load_state_dict(layer.state_dict())
    assert torch.equal(another.weight, layer.weight) and repr(another) == repr(layer)


def test_a_tied_weight_and_a_lone_layer_are_refused_by_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 8)
            self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    with pytest.raises(
        ValueError, match=r"head: its weight is one tensor in several places, embedding.weight, head.wei"
    ):
        quantize_linear_layers(model)
    assert type(model.up) is nn.Linear
    assert quantize_linear_layers(model, exclude="head") == ["up"]
    with pytest.raises(ValueError, match=r"Linear4bit\(model\) packs it"):
        quantize_linear_layers(nn.Linear(8, 8))


def test_the_packed_layers_bias_is_its_own():
    plain = nn.Linear(64, 32)
    layer = Linear4bit(plain)
    with torch.no_grad():
        plain.bias.add_(1)
    assert not torch.equal(layer.bias, plain.bias) and not layer.bias.requires_grad and plain.bias.requires_grad
