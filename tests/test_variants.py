"""The family: each variant begins where it should, computes as PEFT's own does, and goes into files or is refused."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from test_peft import MODELS, run, same
from torch import nn

from conftest import SmallNet, speak
from lora_lab import (
    LinearWithLoRA,
    count_parameters,
    doctor,
    load_adapter,
    load_lora_state,
    lora_disabled,
    lora_layers,
    lora_state,
    memory_ledger,
    merge_lora,
    replace_linear_with_lora,
    save_adapter,
    set_seed,
    set_strength,
    train_model,
    unmerge_lora,
)
from lora_lab.adapt import wrap_layers
from lora_lab.checks import weight_of
from lora_lab.find import lora_parameters
from lora_lab.variants import LinearWithDoRA, LinearWithLoRAFA, LinearWithPiSSA, lora_plus

CLASSES = [LinearWithDoRA, LinearWithPiSSA, LinearWithLoRAFA]
# What PEFT is told for each kind, and what we are.
KINDS = {
    "rsLoRA": ({"use_rslora": True}, {"scaling": "alpha/sqrt(r)"}),
    "PiSSA": ({"init_lora_weights": "pissa"}, {"layer": LinearWithPiSSA}),
    "DoRA": ({"use_dora": True}, {"layer": LinearWithDoRA}),
    "LoRA-FA": ({}, {"layer": LinearWithLoRAFA}),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=MODELS)
def base_and_targets(request):
    make, targets = MODELS[request.param]
    return make(), targets


PEFTS = {
    "A": "lora_A.default.weight",
    "B": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
}


def pairs(ours, theirs):
    """Whatever both have: our parameter, and PEFT's."""
    weights = dict(theirs.named_parameters())
    for name, layer in lora_layers(ours).items():
        for part, own in layer.adapter().items():
            if part in PEFTS:
                yield own, weights[f"base_model.model.{name}.{PEFTS[part]}"]


def turned(tensor):
    return tensor.T if tensor.dim() == 2 else tensor


def both(base, targets, kind, rank=3, alpha=5):
    """Our model and PEFT's around the same weights, each as it starts."""
    options, settings = kind
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks that Conv1D is transposed, and puts it right
        theirs, ours = get_peft_model(copy.deepcopy(base), config).eval(), copy.deepcopy(base)
    replace_linear_with_lora(ours, rank, alpha, targets, **settings)
    return ours, theirs


def as_if_trained(ours, theirs):
    """The same start, PEFT's, and the same steps away from it, in both."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for own, their in pairs(ours, theirs):
            own.copy_(turned(their))
        for layer in lora_layers(ours).values():
            if isinstance(layer, LinearWithPiSSA):  # the signs of singular vectors are anybody's choice
                layer.start.load_state_dict(layer.lora.state_dict())
        for own, their in pairs(ours, theirs):
            step = 0.3 * torch.randn(own.shape, generator=random) * own.requires_grad
            own += step
            their += turned(step)


def test_each_of_the_family_computes_as_pefts_does_and_has_pefts_gradients(base_and_targets, kind):
    base, targets = base_and_targets
    ours, theirs = both(base, targets, kind)
    same(run(ours), run(base))
    same(run(theirs), run(base))
    as_if_trained(ours, theirs)
    assert (run(ours) - run(base)).abs().max() > 0.01
    same(run(ours), run(theirs))
    for model in (ours, theirs):
        run(model).square().mean().backward()
    for own, their in pairs(ours, theirs):
        if own.requires_grad:
            same(own.grad, turned(their.grad))
    merge_lora(ours)
    same(run(ours), run(theirs))


def test_pissa_takes_what_peft_takes_out_of_the_weight(net):
    ours, theirs = both(net, ["fc1", "fc2"], KINDS["PiSSA"])
    for name, layer in lora_layers(ours).items():
        left = dict(theirs.named_parameters())[f"base_model.model.{name}.base_layer.weight"]
        same(layer.linear.weight - layer.lora.delta().T, left)


def test_lora_plus_takes_the_steps_that_pefts_optimizer_takes(net, x):
    ours, theirs = both(net, ["fc1", "head"], ({}, {}))
    as_if_trained(ours, theirs)
    adam = create_loraplus_optimizer(theirs, torch.optim.Adam, lr=0.01, loraplus_lr_ratio=8)
    train_model(ours, x, torch.zeros(5, 6), epochs=3, lr=0.01, optimizer=lora_plus(ours, 8))
    for _ in range(3):
        adam.zero_grad()
        theirs(x).square().mean().backward()
        adam.step()
    for own, their in pairs(ours, theirs):
        same(own, turned(their))


def test_what_is_not_a_b_keeps_lora_pluss_plain_rate_and_a_ratio_is_a_positive_number(net):
    replace_linear_with_lora(net, 2)
    net.head.linear.bias.requires_grad_(True)
    parameters = [p for p in net.parameters() if p.requires_grad]
    slow, fast = lora_plus(net, 4)(parameters, lr=0.5).param_groups
    assert (slow["lr"], fast["lr"]) == (0.5, 2.0)
    assert {id(p) for p in fast["params"]} == {id(layer.lora.B) for layer in lora_layers(net).values()}
    assert len(slow["params"]) == 4
    with pytest.raises(ValueError, match="ratio=0 is not a positive number"):
        lora_plus(net, 0)


def test_pefts_lora_fa_steps_differ_from_ours_by_the_inverse_of_a_times_a_transposed(net, x):
    """Its optimizer corrects B's gradient for how A is stretched, which Adam then nearly takes out again."""
    ours, theirs = both(net, ["fc1"], KINDS["LoRA-FA"])
    as_if_trained(ours, theirs)
    adam = create_lorafa_optimizer(theirs, r=3, lora_alpha=5, lr=0.01)
    weights = dict(theirs.named_parameters())
    before = weights["base_model.model.fc1.lora_B.default.weight"].detach().clone()
    theirs(x).square().mean().backward()
    adam.step()
    A, B = ours.fc1.lora.A, ours.fc1.lora.B
    ours(x).square().mean().backward()
    with torch.no_grad():
        corrected = torch.linalg.inv(A.T @ A) @ B.grad
        step = weights["base_model.model.fc1.lora_B.default.weight"] - before
    assert step.any()
    assert (corrected.T.sign() == -step.sign()).float().mean() > 0.95  # theirs is computed in bfloat16


@pytest.mark.parametrize("layer", CLASSES)
@pytest.mark.parametrize("scaling", ["alpha/r", "alpha", "alpha/sqrt(r)"])
def test_a_variant_begins_as_the_pretrained_model_to_the_bit(base_and_targets, layer, scaling):
    base, targets = base_and_targets
    ours = copy.deepcopy(base)
    replace_linear_with_lora(ours, 3, 5, targets, scaling=scaling, layer=layer)
    assert torch.equal(run(ours), run(base))
    for own in lora_layers(ours).values():
        assert torch.equal(own.adapted_weight(), weight_of(own.linear))


@pytest.mark.parametrize("layer", CLASSES)
def test_merged_switched_off_and_turned_down_a_variant_is_what_it_says(net, x, layer):
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, 5, layer=layer)
    train_model(net, x, torch.randn(5, 6), epochs=20)
    tuned = net(x)
    assert (tuned - base(x)).abs().max() > 0.05
    set_strength(net, 0.5)
    half = net(x)
    merge_lora(net)
    same(net(x), half)
    set_strength(net, 0)
    assert torch.equal(net(x), base(x))
    set_strength(net, 1)
    same(net(x), tuned)
    with lora_disabled(net):
        assert torch.equal(net(x), base(x))
    unmerge_lora(net)
    assert torch.equal(net(x), tuned)


@pytest.mark.parametrize("layer", CLASSES)
def test_a_variants_state_comes_back(net, x, layer):
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, 5, layer=layer)
    train_model(net, x, torch.randn(5, 6), epochs=5)
    replace_linear_with_lora(base, 3, 5, layer=layer)
    load_lora_state(base, lora_state(net))
    same(base(x), net(x))


@pytest.mark.parametrize("layer", CLASSES)
def test_float32_parts_on_a_bfloat16_base(net, x, layer):
    net.bfloat16()
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, 5, dtype=torch.float32, layer=layer)
    assert all(p.dtype == torch.float32 for p in lora_parameters(net).values())
    assert torch.equal(net(x.bfloat16()), base(x.bfloat16()))
    speak(net)
    assert net(x.bfloat16()).dtype == torch.bfloat16
    before = net(x.bfloat16())
    merge_lora(net)
    torch.testing.assert_close(net(x.bfloat16()), before, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layer", CLASSES)
def test_dropout_takes_a_share_in_training_and_nothing_otherwise(net, x, layer):
    replace_linear_with_lora(net.eval(), 3, 5, dropout=0.5, layer=layer)
    speak(net)
    still = net(x)
    net.train()
    assert not torch.equal(net(x), still) and not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), still)


@pytest.mark.parametrize("layer", CLASSES)
def test_the_doctor_finds_nothing_wrong_with_a_variant(net, x, layer):
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, 5, layer=layer)
    assert doctor(net, x, torch.randn(5, 6), base).problems == []
    train_model(net, x, torch.randn(5, 6), epochs=3)
    assert doctor(net, x, torch.randn(5, 6), base, trained=True).problems == []
    assert doctor(net, x, torch.randn(5, 6), base).problems  # it has been trained, which nobody said


def test_lora_fa_trains_b_alone_and_keeps_no_x(net):
    net.act = nn.GELU()  # unlike ReLU, it has no use for its own output
    alike = copy.deepcopy(net)
    replace_linear_with_lora(alike, 3, 5)
    replace_linear_with_lora(net, 3, 5, layer=LinearWithLoRAFA)
    before = net.fc1.lora.A.clone()
    assert count_parameters(net).trainable == sum(layer.lora.B.numel() for layer in lora_layers(net).values())
    x, y = torch.randn(500, 12), torch.randn(500, 6)
    assert memory_ledger(net, x, y)["activations"] < 0.6 * memory_ledger(alike, x, y)["activations"]
    train_model(net, x, y, epochs=3)
    assert torch.equal(net.fc1.lora.A, before) and net.fc1.lora.B.any()


def test_doras_lengths_are_the_magnitudes_and_count_as_constants(net):
    replace_linear_with_lora(net, 3, 5, "fc1", layer=LinearWithDoRA)
    speak(net)
    with torch.no_grad():
        net.fc1.magnitude.copy_(torch.rand(16) + 1)
    torch.testing.assert_close(net.fc1.adapted_weight().norm(dim=1), net.fc1.magnitude.detach())


def test_doras_magnitudes_travel_to_peft_and_back(base_and_targets, tmp_path):
    base, targets = base_and_targets
    ours, theirs = both(base, targets, KINDS["DoRA"])
    as_if_trained(ours, theirs)
    save_adapter(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    same(run(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "ours").eval()), run(ours))
    back = copy.deepcopy(base)
    load_adapter(back, tmp_path / "theirs")
    assert all(type(layer) is LinearWithDoRA for layer in lora_layers(back).values())
    same(run(back), run(theirs))


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(base_and_targets, tmp_path):
    base, targets = base_and_targets
    ours, theirs = both(base, targets, KINDS["PiSSA"])
    as_if_trained(ours, theirs)
    set_strength(ours, 1.5)  # a setting of the running model, which a file does not have
    save_adapter(ours, tmp_path)
    set_strength(ours, 1)
    back = copy.deepcopy(base)
    load_adapter(back, tmp_path)
    assert all(type(own) is LinearWithLoRA and own.lora.rank == 6 for own in lora_layers(back).values())
    for model in (back, PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval(), theirs):
        same(run(model), run(ours))


def test_pissa_of_too_high_a_rank_for_a_file_is_refused_by_name(net, tmp_path):
    replace_linear_with_lora(net, 4, targets=["fc1", "head"], layer=LinearWithPiSSA)
    with pytest.raises(ValueError, match="head: rank=8 is not a whole number from 1 to 6"):
        save_adapter(net, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_what_a_variant_has_and_pefts_format_has_not_is_refused_by_name(net, tmp_path):
    class LinearWithGain(LinearWithLoRA):
        def __init__(self, *settings, **named):
            super().__init__(*settings, **named)
            self.gain = nn.Parameter(torch.ones(1))

        def adapter(self):
            return super().adapter() | {"gain": self.gain}

    replace_linear_with_lora(net, 3, 5, ["fc1"], layer=LinearWithGain)
    assert list(lora_state(net)) == ["fc1.A", "fc1.B", "fc1.gain"]
    with pytest.raises(ValueError, match="fc1 is a LinearWithGain, and PEFT's LoRA has no place for its 'gain'"):
        save_adapter(net, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_dora_in_some_layers_only_has_no_place_in_a_file(net, tmp_path):
    replace_linear_with_lora(net, 3, targets="fc1", layer=LinearWithDoRA)
    net.fc2 = LinearWithLoRA(net.fc2, 3)
    with pytest.raises(ValueError, match="some layers have DoRA's magnitudes and others have none"):
        save_adapter(net, tmp_path / "adapter")


@pytest.mark.parametrize(("scale", "start", "ratio"), [(4, 0.5, 1), (1 / 4, 2, 1), (1, 1 / 4, 16)])
def test_under_adam_scale_start_and_ratio_are_two_knobs(scale, start, ratio):
    """With s times the scale, or B at ``ratio`` times the rate, and a start and a rate to match: the same training."""

    def losses(scale, start, ratio, lr):
        set_seed(0)
        net, x = SmallNet(), torch.randn(50, 12)
        replace_linear_with_lora(net, 3, scale, scaling="alpha")
        with torch.no_grad():
            for layer in lora_layers(net).values():
                layer.lora.A.mul_(start)
        return train_model(net, x, torch.randn(50, 6), epochs=30, lr=lr, optimizer=lora_plus(net, ratio)).train

    plain = losses(1, 1, 1, 0.01)
    turned_knobs = losses(scale, start, ratio, 0.01 / (scale * ratio) ** 0.5)
    torch.testing.assert_close(torch.tensor(turned_knobs), torch.tensor(plain), rtol=1e-3, atol=1e-4)
    assert plain[-1] < 0.9 * plain[0]


@pytest.mark.parametrize("layer", [LinearWithLoRA, *CLASSES])
def test_saving_leaves_a_model_as_it_is_and_keeps_trained_biases(net, x, layer, tmp_path):
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, layer=layer)
    biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
    for bias in biases:
        bias.requires_grad_(True)
    train_model(net, x, torch.randn(5, 6), epochs=20)
    random = torch.get_rng_state()
    save_adapter(net, tmp_path)
    assert torch.equal(random, torch.get_rng_state())
    assert all(bias.requires_grad for bias in biases)
    load_adapter(base, tmp_path)
    same(base(x), net(x))


def test_a_layer_that_cant_be_made_leaves_the_model_as_it_was(net):
    class Picky(LinearWithLoRA):
        def __init__(self, linear, rank):
            super().__init__(linear, rank)

    with torch.no_grad():
        net.fc2.weight[0, 0] = float("nan")
    before = list(net.children())
    with pytest.raises(ValueError, match="fc2: the weight contains NaN or infinity"):
        replace_linear_with_lora(net, 2, layer=LinearWithPiSSA)
    with pytest.raises(TypeError, match="alpha"):
        replace_linear_with_lora(net, 2, layer=Picky)
    assert all(now is then for now, then in zip(net.children(), before, strict=True))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_row_of_zeros_stays_a_row_of_zeros_under_dora(net, x):
    with torch.no_grad():
        net.fc1.weight[3] = 0
    base = copy.deepcopy(net)
    replace_linear_with_lora(net, 2, layer=LinearWithDoRA)
    assert torch.equal(net(x), base(x))
    train_model(net, x, torch.randn(5, 6), epochs=5)
    assert net(x).isfinite().all() and net.fc1.total_weight().isfinite().all()


def test_at_strength_0_dora_is_whatever_w_it_has_now(net, x):
    replace_linear_with_lora(net, 2, layer=LinearWithDoRA)
    speak(net)
    with torch.no_grad():
        net.fc1.linear.weight.mul_(2)
    set_strength(net, 0)
    with lora_disabled(net):
        expected = net(x)
    assert torch.equal(net(x), expected)


def test_lora_plus_takes_parameters_one_by_one(net):
    replace_linear_with_lora(net, 2)
    adam = lora_plus(net)((p for p in net.parameters() if p.requires_grad), lr=0.01)
    assert [len(group["params"]) for group in adam.param_groups] == [3, 3]


def test_of_pissa_a_and_b_learn_and_its_start_stays(net, x):
    replace_linear_with_lora(net, 3, layer=LinearWithPiSSA)
    start = copy.deepcopy(net.fc1.start.state_dict())
    learning = {name.split(".")[1] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {"lora"}
    train_model(net, x, torch.randn(5, 6), epochs=5)
    assert all(torch.equal(value, start[name]) for name, value in net.fc1.start.state_dict().items())


@pytest.mark.parametrize("strength", [0.5, 1])
def test_pissa_as_plain_lora_computes_the_same_at_each_strength(net, x, strength):
    replace_linear_with_lora(net, 3, 5, layer=LinearWithPiSSA)
    train_model(net, x, torch.randn(5, 6), epochs=5)
    set_strength(net, strength)
    same(net.fc1.as_lora()(x), net.fc1(x))


@pytest.mark.parametrize("layer", CLASSES)
def test_a_variant_goes_in_with_a_state_and_one_that_does_not_fit_leaves_no_trace(net, x, layer):
    other = copy.deepcopy(net)
    replace_linear_with_lora(net, 3, targets="fc1", layer=layer)
    train_model(net, x, torch.randn(5, 6), epochs=5)
    state = lora_state(net)
    with pytest.raises(ValueError, match=r"needs? \(12, 2\)"):
        wrap_layers(other, {"fc1": {"rank": 2}}, state, layer)
    assert type(other.fc1) is nn.Linear and all(parameter.requires_grad for parameter in other.parameters())
    wrap_layers(other, {"fc1": {"rank": 3}}, state, layer)
    same(other(x), net(x))
