"""Adapter files: what is written is what is read, and what is damaged or does not fit changes nothing."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import nn

from conftest import SmallNet, assert_untouched, snapshot, speak
from lora_lab import (
    AdapterFileError,
    LinearWithLoRA,
    count_parameters,
    load_adapter,
    lora_layers,
    lora_state,
    merge_lora,
    replace_linear_with_lora,
    save_adapter,
    set_strength,
)
from lora_lab.adapt import model_parts, wrap_layers
from lora_lab.peft_config import PeftConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def saved(net, tmp_path):
    """A folder with an adapter for fc1 and head of rank 3, alpha 6."""
    model = copy.deepcopy(net)
    replace_linear_with_lora(model, 3, 6, ["fc1", "head"])
    return save_adapter(speak(model), tmp_path / "adapter")


def edit_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value != "left out"}))


def edit_weights(folder, edit):
    tensors = safetensors.load_file(folder / WEIGHTS)
    edit(tensors)
    safetensors.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS)


def key(layer, half):
    return f"base_model.model.{layer}.lora_{half}.weight"


def test_what_is_saved_loads_into_the_pretrained_model_and_computes_the_same(net, x, tmp_path):
    pretrained = copy.deepcopy(net)
    replace_linear_with_lora(net, 4, 8)
    save_adapter(speak(net), tmp_path)
    assert load_adapter(pretrained, tmp_path) == ["fc1", "fc2", "head"]
    assert torch.equal(pretrained(x), net(x))


def test_on_disk_a_is_rank_by_in_and_b_is_out_by_rank(net, tmp_path):
    replace_linear_with_lora(net, 4, 8, "fc1")
    save_adapter(speak(net), tmp_path)
    tensors, lora = safetensors.load_file(tmp_path / WEIGHTS), net.fc1.lora
    assert torch.equal(tensors[key("fc1", "A")], lora.A.T) and lora.A.shape == (12, 4)
    assert torch.equal(tensors[key("fc1", "B")], lora.B.T) and lora.B.shape == (4, 16)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, CONFIG}


def test_only_a_and_b_are_stored(net, tmp_path):
    replace_linear_with_lora(net, 4, 8)
    save_adapter(net, tmp_path)
    stored = sum(tensor.numel() for tensor in safetensors.load_file(tmp_path / WEIGHTS).values())
    assert stored == count_parameters(net).trainable


def test_loading_replaces_the_adapter_that_was_there_merged_or_not(net, x, saved):
    fresh = copy.deepcopy(net)
    load_adapter(fresh, saved)
    for merged in (False, True):
        model = copy.deepcopy(net)
        replace_linear_with_lora(model, 2, targets=["fc2", "head"])
        speak(model)
        if merged:
            merge_lora(model)
        load_adapter(model, saved)
        assert list(lora_layers(model)) == ["fc1", "head"]
        assert torch.equal(model(x), fresh(x))


def test_the_strength_dial_is_not_saved(net, x, saved, tmp_path):
    load_adapter(net, saved)
    before = net(x)
    set_strength(net, 0.5)
    save_adapter(net, tmp_path)
    load_adapter(net, tmp_path)
    assert torch.equal(net(x), before)


def test_a_loaded_adapter_can_be_trained_on(net, saved):
    load_adapter(net, saved)
    assert count_parameters(net).trainable == 3 * (12 + 16) + 3 * (16 + 6)


def test_float32_adapters_load_into_a_bfloat16_model(net, saved):
    net.bfloat16()
    load_adapter(net, saved)
    assert {tensor.dtype for tensor in lora_state(net).values()} == {torch.bfloat16}


def test_a_failed_save_leaves_the_adapter_that_was_there(net, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    load_adapter(net, saved)
    with torch.no_grad():
        net.head.lora.B[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"head.B contains NaN.*nothing was saved"):
        save_adapter(net, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_layer_alone_has_no_name_to_be_saved_under(tmp_path):
    with pytest.raises(ValueError, match="is itself the adapted layer"):
        save_adapter(LinearWithLoRA(nn.Linear(4, 4), 2), tmp_path)


def scale_of_its_own(net):
    net.scale = nn.Parameter(torch.ones(()))


def adapted_weight(net):
    net.fc1.linear.weight.requires_grad_(True)


def around_an_adapted_layer(net):
    net.inner = nn.Module()
    net.inner.gate, net.inner.fc = nn.Parameter(torch.ones(3)), LinearWithLoRA(nn.Linear(4, 4), 2)


def a_name_that_ends_another(net):
    net.inner = nn.ModuleDict({"head": nn.Linear(4, 4).requires_grad_(False)})
    net.head.requires_grad_(True)


def a_name_that_ends_another_without_a_dot(net):
    net.forehead = nn.Linear(4, 4).requires_grad_(False)
    net.head.requires_grad_(True)


def a_tied_head(net):
    net.twin = nn.Linear(16, 6).requires_grad_(False)
    net.twin.weight = net.head.weight
    net.head.requires_grad_(True)


@pytest.mark.parametrize(
    ("train", "lost"),
    [
        (scale_of_its_own, r"the model itself \(its parameters lie in no module of their own\)"),
        (adapted_weight, r"fc1 \(it is adapted, and its own weight was trained as well\)"),
        (around_an_adapted_layer, r"inner \(inner.fc, inside it, is adapted\)"),
        (a_name_that_ends_another, r"head \(PEFT would take its name to mean inner.head, too\)"),
        (a_name_that_ends_another_without_a_dot, r"head \(PEFT would take its name to mean forehead, too\)"),
        (a_tied_head, r"head \(its weight is one tensor in several places, head.weight, twin.weight\)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_format_has_no_place_for_is_named_and_nothing_is_saved(net, saved, train, lost):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    replace_linear_with_lora(net, 2, targets=["fc1", "fc2"])
    train(net)
    with pytest.raises(ValueError, match=f"has no place for all that was trained, so nothing was saved: {lost}"):
        save_adapter(net, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_different_dropouts_are_not_saved_as_one(net, tmp_path):
    wrap_layers(net, {"fc1": {"rank": 2, "dropout": 0.1}, "fc2": {"rank": 2}})
    with pytest.raises(ValueError, match=r"the layers have dropouts \[0.0, 0.1\], but PEFT's format has one"):
        save_adapter(net, tmp_path)


@pytest.fixture
def with_head(net, tmp_path):
    """A folder with an adapter for fc1 and fc2, fc1's and fc2's biases and a trained head with a buffer."""
    model = copy.deepcopy(net)
    model.head.register_buffer("seen", torch.tensor(3))
    net.head.register_buffer("seen", torch.tensor(0))
    replace_linear_with_lora(model, 3, 6, ["fc1", "fc2"])
    for name, parameter in speak(model).named_parameters():
        if name.startswith("head") or name.endswith("bias"):
            nn.init.normal_(parameter.requires_grad_(True))
    return save_adapter(model, tmp_path / "with head"), model


def test_a_head_and_biases_come_back_with_the_adapter_and_learn_on(net, x, with_head):
    folder, model = with_head
    load_adapter(net, folder)
    assert torch.equal(net(x), model(x)) and net.head.seen == 3
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = model_parts(net)
    assert set(parts["head"]) == {"fc1.bias", "fc2.bias", "head.weight", "head.bias"}
    assert set(parts["adapter"]) == {"fc1.A", "fc1.B", "fc2.A", "fc2.B"}
    assert set(parts["base"]) == {"fc1.weight", "fc2.weight"}
    assert sum(p.numel() for p in {**parts["adapter"], **parts["head"]}.values()) == count_parameters(net).trainable


def test_parts_of_a_model_without_lora_are_head_and_base(net):
    net.fc1.requires_grad_(False)
    parts = model_parts(net)
    assert parts["adapter"] == {} and list(parts["base"]) == ["fc1.weight", "fc1.bias"] and len(parts["head"]) == 4


def without(name):
    return lambda folder: edit_weights(folder, lambda tensors: tensors.pop(f"base_model.model.{name}"))


def spoilt(name, value):
    return lambda folder: edit_weights(folder, lambda tensors: tensors.update({f"base_model.model.{name}": value}))


DAMAGE_BESIDE = {
    "no head": (without("head.weight"), "the file lacks head.weight and has nothing that nobody asks for"),
    "no bias": (without("fc1.base_layer.bias"), "the file lacks fc1.bias and has nothing"),
    "a strange module": (
        spoilt("tail.weight", torch.ones(2)),
        "and has tail.weight that nobody asks for",
    ),
    "a head nobody asks for": (
        lambda f: edit_config(f, modules_to_save=None),
        "has head.bias, head.seen, head.w",
    ),
    "biases nobody asks for": (lambda f: edit_config(f, bias="none"), "and has fc1.bias, fc2.bias that nobody"),
    "a head of another shape": (
        spoilt("head.weight", torch.ones(7, 16)),
        r"weight has shape \(7, 16\).*needs \(6, 16",
    ),
    "a head of integers": (spoilt("head.bias", torch.ones(6).int()), "head.bias is of type torch.int32.*torch.float32"),
    "a count that is a fraction": (spoilt("head.seen", torch.tensor(0.5)), "head.seen is of type torch.float32"),
    "NaN in the head": (spoilt("head.bias", torch.full((6,), torch.nan)), "head.bias contains NaN"),
    "infinity in the head": (spoilt("head.bias", torch.full((6,), torch.inf)), "head.bias contains NaN or infinity"),
    "no kind of bias": (lambda f: edit_config(f, bias=None), "'bias' is None; it is"),
    "blocks no numbers": (lambda f: edit_config(f, layers_to_transform=["1"]), "'layers_to_transform' is .'1'., not a"),
    "a kind of bias": (lambda f: edit_config(f, bias="some"), "'bias' is 'some'; it is 'none', 'all' or 'lora_only'"),
    "modules a name": (lambda f: edit_config(f, modules_to_save="head"), "'modules_to_save' is 'head', not a list"),
    "modules no names": (
        lambda f: edit_config(f, modules_to_save=[1]),
        r"'modules_to_save' is \[1\], not a list",
    ),
    "blocks a text": (lambda f: edit_config(f, layers_to_transform="1"), "'layers_to_transform' is '1', not a number"),
    "a pattern a number": (lambda f: edit_config(f, layers_pattern=3), "'layers_pattern' is 3, not a name or a list"),
    "dropout of one": (lambda f: edit_config(f, lora_dropout=1), "dropout=1.* is not a share from 0"),
    "a head adapted, too": (
        lambda f: edit_config(f, modules_to_save=["head", "fc1"]),
        "'fc1': it is not in target_modules",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE_BESIDE.values(), ids=DAMAGE_BESIDE)
def test_damage_to_what_comes_beside_the_adapter_is_refused_with_the_model_as_it_was(net, with_head, damage, reason):
    damage(with_head[0])
    before = snapshot(net)
    with pytest.raises(AdapterFileError, match=reason):
        load_adapter(net, with_head[0])
    assert_untouched(net, before)


def test_a_head_that_is_tied_to_another_weight_is_not_loaded(net, with_head):
    net.twin = nn.Linear(16, 6)
    net.twin.weight = net.head.weight
    before = snapshot(net)
    with pytest.raises(AdapterFileError, match=r"head.weight is one tensor in several places, head.weight, twin.w"):
        load_adapter(net, with_head[0])
    assert_untouched(net, before)


def transposed(tensors):
    tensors[key("fc1", "A")] = tensors[key("fc1", "A")].T


DAMAGE = {
    "no config": (lambda f: (f / CONFIG).unlink(), "adapter_config.json does not exist"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors does not exist; is the download"),
    "a pickle": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "a pickle, which can run code"),
    "config cut off": (lambda f: (f / CONFIG).write_text('{"r": 3'), "is not JSON"),
    "config deep": (lambda f: (f / CONFIG).write_text("[" * 100_000), "is not JSON"),
    "config a list": (lambda f: (f / CONFIG).write_text("[1]"), "holds a list"),
    "config not text": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\xfa"), "is not JSON"),
    "weights cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-7]), "is damaged"),
    "weights empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is damaged"),
    "another method": (lambda f: edit_config(f, peft_type="LOHA"), "'peft_type' is 'LOHA'"),
    "no alpha": (lambda f: edit_config(f, lora_alpha="left out"), "'lora_alpha' is missing; guessing"),
    "no rank": (lambda f: edit_config(f, r=None), "'r' is missing"),
    "rank a text": (lambda f: edit_config(f, r="3"), "r='3' is not a whole number"),
    "another rank": (lambda f: edit_config(f, r=2), r"has shape \(.*3.*\), but this model and rank need \(.*2.*\)"),
    "rank of zero": (lambda f: edit_config(f, r=0), "r=0 is not a whole number from 1"),
    "alpha infinite": (lambda f: edit_config(f, lora_alpha=float("inf")), "lora_alpha=inf is not a positive number"),
    "pattern a list": (lambda f: edit_config(f, rank_pattern=[3]), r"'rank_pattern' is \[3\], not an object of names"),
    "pattern no regex": (lambda f: edit_config(f, alpha_pattern={"(": 3}), r"missing \)"),
    "rslora a text": (lambda f: edit_config(f, use_rslora="no"), "'use_rslora' is 'no', not true or false"),
    "targets a number": (lambda f: edit_config(f, target_modules=[1]), r"'target_modules' is \[1\], but"),
    "a target without weights": (lambda f: edit_config(f, target_modules=["fc1", "fc2", "head"]), "'fc2'.*no weights"),
    "weights without a target": (lambda f: edit_config(f, target_modules=["head"]), "'fc1': it is not in target_mod"),
    "an option of tomorrow": (lambda f: edit_config(f, use_magic=0.5), "'use_magic' is 0.5, which is not honoured"),
    "keys without prefix": (
        lambda f: edit_weights(f, lambda t: t.update({"fc1.lora_A.weight": t.pop(key("fc1", "A"))})),
        "'fc1.lora_A.weight' is not a key like",
    ),
    "another model's layer": (
        lambda f: edit_weights(f, lambda t: t.update({key("fc7", h): t[key("fc1", h)].clone() for h in "AB"})),
        "weights are for 'fc7'.*did you mean 'fc",
    ),
    "half a layer": (lambda f: edit_weights(f, lambda t: t.pop(key("head", "B"))), "lacks head.B"),
    "a vector": (lambda f: edit_weights(f, lambda t: t.update({key("head", "B"): torch.ones(6)})), "are matrices"),
    "transposed": (lambda f: edit_weights(f, transposed), r"fc1.A has shape \(3, 12\).*need \(12, 3\)"),
    "NaN": (lambda f: edit_weights(f, lambda t: t[key("fc1", "A")].fill_(float("nan"))), "fc1.A contains NaN"),
    "integers": (
        lambda f: edit_weights(f, lambda t: t.update({key("fc1", "A"): t[key("fc1", "A")].int()})),
        "fc1.A is of type torch.int32",
    ),
}


@pytest.mark.parametrize("adapted", [False, True], ids=["onto a plain model", "onto an adapted one"])
@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_file_is_refused_with_the_reason_and_the_model_as_it_was(
    net, saved, damage, reason, adapted
):
    if adapted:
        replace_linear_with_lora(net, 2)
        speak(net)
    damage(saved)
    before = snapshot(net)
    with pytest.raises(AdapterFileError, match=reason):
        load_adapter(net, saved)
    assert_untouched(net, before)


@st.composite
def mangled(draw, content):
    """The content of a file with bytes changed, dropped, doubled or added."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["flip", "truncate", "drop", "insert", "double"])):
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "truncate":
                del content[at:]
            case "drop":
                del content[at : at + draw(st.integers(1, 9))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 40))]
    return bytes(content)


ADAPTER = {}


@settings(max_examples=1000)
@given(data=st.data())
def test_a_mangled_file_loads_as_what_it_says_or_is_refused_with_the_model_bit_equal(data, tmp_path_factory):
    if not ADAPTER:  # once, and the same for every example
        model = SmallNet()
        replace_linear_with_lora(model, 3, 6, ["fc1", "head"])
        for parameter in [*model.fc2.parameters(), model.fc1.bias, model.head.bias]:
            nn.init.normal_(parameter.requires_grad_(True))
        folder = save_adapter(speak(model), tmp_path_factory.mktemp("original"))
        ADAPTER.update({name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)})
        ADAPTER["folder"] = tmp_path_factory.mktemp("mangled")
    folder, victim = ADAPTER["folder"], data.draw(st.sampled_from([WEIGHTS, CONFIG]))
    for name in (WEIGHTS, CONFIG):
        (folder / name).write_bytes(ADAPTER[name])
    (folder / victim).write_bytes(data.draw(mangled(ADAPTER[victim])))

    model, x = SmallNet(), torch.randn(5, 12)
    pretrained = copy.deepcopy(model)
    before = snapshot(model)
    try:
        load_adapter(model, folder)
    except AdapterFileError as error:
        assert str(folder) in str(error)
        assert_untouched(model, before)
    else:
        torch.testing.assert_close(model(x), _computed_by_hand(pretrained, folder, x), rtol=1e-3, atol=1e-4)


def _computed_by_hand(model, folder, x):
    """What PEFT's format says this folder computes: W + scale · B A, added into the plain weights."""
    tensors = safetensors.load_file(folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_bytes())
    for layer in ("fc1", "head"):
        A, B = tensors[key(layer, "A")].float(), tensors[key(layer, "B")].float()
        scale = config["lora_alpha"] / (len(A) ** 0.5 if config.get("use_rslora") else len(A))
        getattr(model, layer).weight.data += scale * (B @ A)
        getattr(model, layer).bias.data = tensors[f"base_model.model.{layer}.base_layer.bias"].float()
    model.fc2.load_state_dict({own: tensors[f"base_model.model.fc2.{own}"].float() for own in ("weight", "bias")})
    return model(x)


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha", "alpha/sqrt(r)"])
def test_the_strength_dial_changes_no_byte_of_the_file(net, tmp_path, scaling):
    replace_linear_with_lora(net, 3, 5, scaling=scaling)
    save_adapter(speak(net), tmp_path / "before")
    set_strength(net, 0.5)
    save_adapter(net, tmp_path / "after")
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_layers_of_different_scaling_conventions_are_saved_as_what_they_compute(net, x, tmp_path):
    fresh = copy.deepcopy(net)
    kinds = {"fc1": "alpha/r", "fc2": "alpha", "head": "alpha/sqrt(r)"}
    wrap_layers(net, {name: {"rank": 3, "alpha": 5, "scaling": kind} for name, kind in kinds.items()})
    load_adapter(fresh, save_adapter(speak(net), tmp_path))
    torch.testing.assert_close(fresh(x), net(x))


@pytest.mark.parametrize("writes", ["write_bytes", "write_text"], ids=["weights", "configuration"])
def test_a_crash_while_writing_leaves_the_adapter_that_was_there_whole(net, saved, monkeypatch, writes):
    before = {name: (saved / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    load_adapter(net, saved)
    speak(net)

    def half(path, content, **options):
        with path.open("wb" if isinstance(content, bytes) else "w", **options) as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"pathlib.Path.{writes}", half)
    with pytest.raises(OSError, match="No space left on device; nothing was saved, and what was there before is as it"):
        save_adapter(net, saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_the_weights_file_says_that_it_is_torchs(saved):
    with safe_open(saved / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_names_come_back_in_the_models_order_and_saving_makes_the_folders(tmp_path):
    model = nn.ModuleDict({"z": nn.Linear(4, 4), "a": nn.Linear(4, 4), "m": nn.Linear(4, 4)})
    plain = copy.deepcopy(model)
    replace_linear_with_lora(model, 2)
    folder = tmp_path / "a" / "new" / "folder"
    assert save_adapter(model, str(folder)) == folder
    assert load_adapter(plain, folder) == ["z", "a", "m"]


@pytest.mark.parametrize(("name", "written"), [("gpt2", "gpt2"), ("", None), (None, None)])
def test_the_base_models_name_is_written_where_it_is_known(net, tmp_path, name, written):
    net.config = SimpleNamespace(name_or_path=name)
    replace_linear_with_lora(net, 2)
    save_adapter(net, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == written


PATTERNS = {
    "the first that fits": ({"fc1": 2, ".*": 3}, {"fc1": 2, "inner.fc1": 2, "xfc1": 3}),
    "from a dot on": ({"fc1": 2}, {"fc1": 2, "inner.fc1": 2, "xfc1": 1}),
    "from the beginning alone": ({"^fc1": 2}, {"fc1": 2, "inner.fc1": 1, "xfc1": 1}),
    "either of two": ({"fc2|fc1": 2}, {"fc1": 2, "inner.fc1": 2, "xfc1": 1}),
    "to the end": ({"inner": 2}, {"fc1": 1, "inner.fc1": 1, "xfc1": 1}),
    "each of several": ({"^fc1|xfc1": 2}, {"fc1": 2, "inner.fc1": 1, "xfc1": 2}),
    "none": (None, {"fc1": 1, "inner.fc1": 1, "xfc1": 1}),
}


@pytest.mark.parametrize(("patterns", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_of_ranks_or_alphas_means_whole_names_or_their_ends(patterns, expected):
    config = PeftConfig({"r": 1, "lora_alpha": 1, "rank_pattern": patterns, "alpha_pattern": patterns})
    assert {name: config.settings(name)["rank"] for name in expected} == expected
    assert {name: config.settings(name)["alpha"] for name in expected} == expected


@pytest.mark.parametrize("key", ["lora_bias", "use_qalora", "use_magic"])
@pytest.mark.parametrize("value", [0, "", 0.0])
def test_nothing_is_taken_to_be_off_but_null_false_and_empty_collections(net, saved, key, value):
    edit_config(saved, **{key: value})
    with pytest.raises(AdapterFileError, match=f"'{key}' is {value!r}, which is not honoured"):
        load_adapter(net, saved)


def test_what_is_off_is_not_in_the_way(net, saved):
    edit_config(saved, one=None, two=False, three=[], four={}, lora_dropout=None, rank_pattern=None)
    assert load_adapter(net, saved) == ["fc1", "head"] and net.fc1.lora.dropout == 0


@pytest.mark.parametrize("pattern", ["fc1|hea", "c1|head", "fc|head"])
def test_a_regular_expression_of_targets_must_fit_the_whole_name(net, saved, pattern):
    edit_config(saved, target_modules=pattern)
    with pytest.raises(AdapterFileError, match="is not in target_modules"):
        load_adapter(net, saved)


def test_a_head_whose_name_begins_another_layers_is_saved(net, x, tmp_path):
    """As ``fc`` begins ``fc1``: the layer lies beside it and not inside it."""
    net.fc, start = nn.Linear(3, 3), copy.deepcopy(net)
    replace_linear_with_lora(net, 2, targets=["fc1"])
    nn.init.normal_(net.fc.requires_grad_(True).weight)
    start.fc = nn.Linear(3, 3)
    load_adapter(start, save_adapter(speak(net), tmp_path))
    assert torch.equal(start.fc.weight, net.fc.weight) and torch.equal(start(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_head_of_another_precision_takes_the_models(net, with_head, dtype):
    folder, model = with_head
    halved = ["base_model.model.head.weight", "base_model.model.head.bias"]
    edit_weights(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype) for name in halved}))
    load_adapter(net, folder)
    assert net.head.weight.dtype == torch.float32
    assert torch.equal(net.head.weight, model.head.weight.to(dtype).float())


def test_a_model_that_has_no_biases_has_trained_none(tmp_path):
    model = nn.ModuleDict({"fc": nn.Linear(3, 3, bias=False)})
    replace_linear_with_lora(model, 2)
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["bias"] == "none"


def test_the_biases_of_adapted_layers_come_back_also_where_one_of_them_has_none(x, tmp_path):
    def start():
        return nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3, bias=False), "still": nn.Linear(3, 3)})

    model, other = start(), start()
    replace_linear_with_lora(model, 2, targets=["one", "two"])
    nn.init.ones_(model.one.bias.requires_grad_(True))
    load_adapter(other, save_adapter(model, tmp_path))
    assert json.loads((tmp_path / CONFIG).read_text())["bias"] == "lora_only"
    assert torch.equal(other.one.bias, torch.ones(3)) and other.one.bias.requires_grad


def test_layers_whose_names_are_alike_keep_their_own_ranks_and_stay_apart(tmp_path):
    """A dot in a name is no sign for any letter, and a name is not the end of a longer one."""

    def start():
        kinds = {"fc": nn.Linear(3, 3), "axb": nn.Linear(3, 3), "a": nn.ModuleDict({"b": nn.Linear(3, 3)})}
        kinds["inner"] = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("fc", "q", "k", "v")})
        return nn.ModuleDict(kinds)

    ranks = {"fc": 2, "a.b": 3} | dict.fromkeys(["axb", "inner.fc", "inner.q", "inner.k", "inner.v"], 1)
    for name, adapted in (("all", ranks), ("some", {"fc": 2, "a.b": 2})):
        model, other = start(), start()
        wrap_layers(model, {layer: {"rank": rank} for layer, rank in adapted.items()})
        load_adapter(other, save_adapter(speak(model), tmp_path / name))
        assert {layer: found.lora.rank for layer, found in lora_layers(other).items()} == adapted


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_a_way_of_starting_that_changes_the_pretrained_weights_is_refused(net, saved, start):
    edit_config(saved, init_lora_weights=start)
    with pytest.raises(AdapterFileError, match=f"'init_lora_weights' is '{start}', which is not honoured here"):
        load_adapter(net, saved)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_a_way_of_starting_that_leaves_the_pretrained_weights_alone_is_read(net, saved, start):
    edit_config(saved, init_lora_weights=start)
    assert load_adapter(net, saved) == ["fc1", "head"]


def test_a_module_to_save_is_meant_by_the_end_of_its_name_and_carries_all_that_is_inside():
    config = PeftConfig({"modules_to_save": ["head"]})
    carried = ["head.weight", "inner.head.bias", "inner.head.fc.weight"]
    assert all(map(config.carries, carried)) and not any(map(config.carries, ["ahead.weight", "inner.weight"]))
