"""Many adapters beside one model: each row gets what its adapter alone would give, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from lora_lab import AdapterFileError, load_adapter, lora_layers, replace_linear_with_lora, save_adapter
from lora_lab.many import LinearWithManyLoRAs, put_side_by_side, which_adapter
from lora_lab.material import DigitClassifier, TinyGPT, shipped_adapter
from lora_lab.variants import LinearWithDoRA


def written(folder, rank, targets, scaling="alpha/r", seed=0):
    torch.manual_seed(seed)
    model = DigitClassifier()
    replace_linear_with_lora(model, rank, alpha=2 * rank, targets=targets, scaling=scaling)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora.B)
    return save_adapter(model, folder)


@pytest.fixture
def folders(tmp_path):
    """Three adapters of other ranks and scales, in other layers."""
    return {
        "small": written(tmp_path / "small", 1, ["fc1"]),
        "large": written(tmp_path / "large", 8, ["fc1", "fc2"], "alpha/sqrt(r)", seed=1),
        "head": written(tmp_path / "head", 4, ["head"], seed=2),
    }


def base():
    torch.manual_seed(9)
    return DigitClassifier().eval()


def alone(folder, x):
    model = base()
    if folder is not None:
        load_adapter(model, folder)
    with torch.no_grad():
        return model(x)


def test_each_row_gets_what_its_adapter_alone_gives(folders):
    model, x = base(), torch.randn(6, 64)
    put_side_by_side(model, folders)
    want = ["large", None, "head", "small", "large", "head"]
    with torch.no_grad(), which_adapter(model, want):
        together = model(x)
    for row, name in enumerate(want):
        apart = alone(folders.get(name), x[row : row + 1])
        assert torch.allclose(together[row], apart[0], atol=1e-4), name


def test_without_a_wish_it_is_the_model_as_it_was_to_the_bit(folders):
    model, x = base(), torch.randn(5, 64)
    before = model(x)
    put_side_by_side(model, folders)
    with which_adapter(model, ["small"] * 5):
        pass
    assert torch.equal(model(x), before)
    with which_adapter(model, [None] * 5):
        assert torch.allclose(model(x), before, atol=1e-6)


def test_a_language_model_with_its_three_adapters():
    names = ["code", "names", "tales"]
    model = TinyGPT.pretrained()
    put_side_by_side(model, {name: shipped_adapter(name) for name in names})
    tokens = torch.randint(96, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), which_adapter(model, names[::-1]):
        together = model(tokens)
    for row, name in enumerate(names[::-1]):
        own = TinyGPT.pretrained()
        load_adapter(own, shipped_adapter(name))
        with torch.no_grad():
            assert torch.allclose(own(tokens[row : row + 1])[0], together[row], atol=1e-4)


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(folders):
    model = base()
    model.fc1.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AdapterFileError, match="blocks"):
        put_side_by_side(model, folders | {"tales": shipped_adapter("tales")})
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["fc1.bias"]
    assert not any(isinstance(module, LinearWithManyLoRAs) for module in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_wishes_that_cant_be_met_are_named(folders):
    model = base()
    put_side_by_side(model, folders)
    with pytest.raises(ValueError, match=r"no adapter 'big' beside this model; it has small, large, head"):
        which_adapter(model, ["small", "big"]).__enter__()
    with pytest.raises(ValueError, match="has 3 rows and which_adapter names 2"), which_adapter(model, ["small"] * 2):
        model(torch.randn(3, 64))
    with pytest.raises(ValueError, match="already"):
        put_side_by_side(model, folders)
    adapted = base()
    load_adapter(adapted, folders["small"])
    with pytest.raises(ValueError, match="has adapters already"):
        put_side_by_side(adapted, folders)


def test_the_wishes_end_with_the_block_even_after_an_error(folders):
    model, x = base(), torch.randn(2, 64)
    put_side_by_side(model, folders)
    with pytest.raises(RuntimeError), which_adapter(model, ["large", "large"]):
        raise RuntimeError("in the middle")
    assert torch.equal(model(x), alone(None, x))


def test_wishes_within_wishes_and_odd_shapes(folders):
    model, x = base(), torch.randn(2, 64)
    with pytest.raises(ValueError, match="no adapters side by side"), which_adapter(model, []):
        pass
    put_side_by_side(model, folders)
    with torch.no_grad(), which_adapter(model, (name for name in ["large", "small"])):
        outer = model(x)
        with which_adapter(model, [None, None]):
            pass
        assert torch.equal(model(x), outer)
    with which_adapter(model, []):
        assert model(x[:0]).shape == (0, 10)
    layer, across = model.fc1, torch.randn(2, 3, 4, 64).transpose(1, 2)
    layer.which = torch.tensor([0, -1])
    assert torch.allclose(layer(across), layer(across.contiguous()), atol=1e-5)


def with_a_head(folder):
    model = DigitClassifier()
    replace_linear_with_lora(model, 2, targets="fc1")
    model.head.requires_grad_(True)
    return save_adapter(model, folder)


def dora(folder):
    model = DigitClassifier()
    replace_linear_with_lora(model, 2, targets="fc1", layer=LinearWithDoRA)
    return save_adapter(model, folder)


@pytest.mark.parametrize(("make", "said"), [(with_a_head, "modules_to_save"), (dora, "use_dora")])
def test_what_is_more_than_lora_is_refused(make, said, tmp_path, folders):
    model, x = base(), torch.randn(2, 64)
    before = model(x)
    with pytest.raises(AdapterFileError, match=f"has {said}; side by side there is room for plain LoRA alone"):
        put_side_by_side(model, folders | {"more": make(tmp_path / "more")})
    assert torch.equal(model(x), before) and all(p.requires_grad for p in model.parameters())
