"""Which layers a name means, and what is said if it means none."""

import re

import pytest
import torch
from torch import nn

from conftest import SmallNet
from lora_lab import LinearWithLoRA, replace_linear_with_lora
from lora_lab.find import linear_layers, listed, nearest, plain_state, select_layers


def named(*names):
    """A model of linear layers with these names."""
    return nn.ModuleDict({name: nn.Linear(4, 4) for name in names})


def test_a_names_ending_counts_only_after_a_dot():
    model = nn.ModuleDict({"block": named("xfc1", "fc1"), "fc1": nn.ModuleDict({"inner": nn.Linear(4, 4)})})
    assert select_layers(model, exclude="fc1") == ["block.xfc1", "fc1.inner"]
    assert select_layers(named("xfc1", "fc1"), "fc1") == ["fc1"]


def test_the_layers_come_in_the_models_order():
    assert select_layers(named("c", "a", "b"), ["b", "c", "a"]) == ["c", "a", "b"]


@pytest.mark.parametrize("pattern", ["fc", re.compile("fc"), re.compile("c1")])
def test_a_regular_expression_must_fit_the_whole_name(pattern):
    with pytest.raises(ValueError, match="matches no linear layer"):
        select_layers(named("fc1", "fc2"), pattern)


def test_a_pattern_that_means_nothing_is_refused_among_others_that_do():
    with pytest.raises(ValueError, match="exclude 'zzzz' matches no"):
        select_layers(named("fc1", "fc2"), exclude=["fc1", "zzzz"])


def test_several_exclusions_leave_out_each():
    assert select_layers(named("a", "b", "c"), exclude=["a", "c"]) == ["b"]


def test_names_may_come_one_after_the_other_and_must_be_names():
    assert select_layers(named("a", "b", "c"), (name for name in "ab"), iter(["b"])) == ["a"]
    for wrong in (0, [0], [["a"]]):
        with pytest.raises(TypeError, match=r"targets=.* is neither the name of a layer"):
            select_layers(named("a"), wrong)


def test_an_adapted_layer_is_listed_once_and_the_frozen_one_inside_it_is_not():
    net = SmallNet()
    plain = linear_layers(net)
    replace_linear_with_lora(net, 2, targets="fc1")
    assert linear_layers(net) == plain
    assert select_layers(net) == ["fc1", "fc2", "head"]


def test_a_name_that_is_also_a_module_of_another_kind_is_refused_with_only_its_own_layers():
    model = nn.ModuleDict({"a": named("x"), "ab": named("y")})
    with pytest.raises(TypeError, match=r"the linear layers in it are a\.x$"):
        select_layers(model, "a")


def test_the_nearest_names_are_endings_too_and_at_most_three():
    layers = ["blocks.0.q_proj", "blocks.0.k_proj", "blocks.0.v_proj", "blocks.0.o_proj"]
    assert nearest("q_porj", layers).startswith("did you mean 'q_proj'")
    assert nearest("x_proj", layers).count("_proj") == 3


def test_a_regular_expression_finds_its_nearest_names_as_well():
    with pytest.raises(ValueError, match="it has fc1, fc2"):
        select_layers(named("fc1", "fc2"), re.compile("zzzz"))


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (2, "0, 1"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4 and 2 more")]
)
def test_a_list_of_names_stops_at_five_and_counts_the_rest(count, said):
    assert listed(str(number) for number in range(count)) == said


def test_the_plain_state_is_the_same_before_and_after_lora_buffers_included():
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    before = list(model.state_dict())
    replace_linear_with_lora(model, 2)
    assert list(plain_state(model)) == before
    assert torch.equal(plain_state(model)["fc.weight"], model["fc"].linear.weight)


def test_the_plain_state_of_a_lone_adapted_layer_has_the_plain_layers_names():
    assert list(plain_state(LinearWithLoRA(nn.Linear(4, 4), 2))) == ["weight", "bias"]
