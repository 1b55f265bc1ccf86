"""The doctor on models that PEFT has changed, and on adapters' files: what is wrong is named, and nothing else."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_lab import doctor, lora_layers, replace_linear_with_lora, save_adapter
from lora_lab.file_checkup import file_problems
from lora_lab.material import TinyGPT
from lora_lab.material.hub import save_for_transformers
from lora_lab.peft_view import peft_layers, plain_name
from lora_lab.variants import LinearWithPiSSA

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT and transformers warn, often of what is tested here

BLOCK = "model.decoder.layers.0."
X = torch.randint(96, (2, 12), generator=torch.Generator().manual_seed(1))
Y = X.roll(-1, dims=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_for_transformers(tmp_path_factory.mktemp("small"), TinyGPT(width=16, depth=2, heads=2, context=16))


@pytest.fixture
def fresh(folder):
    return lambda: transformers.AutoModelForCausalLM.from_pretrained(folder)


def config(**options):
    return peft.LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "fc1"]} | options))


def taught(model, steps=3):
    """Some steps on the batch, so that B is no longer zero."""
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(model(X).logits.flatten(0, 1), Y.flatten()).backward()
        adam.step()
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora_dropout": 0.5},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": "all-linear"},
        {"use_rslora": True},
    ],
    ids=str,
)
def test_a_healthy_peft_model_is_healthy_before_and_after_training(fresh, options):
    model, pretrained = peft.get_peft_model(fresh(), config(**options)), fresh()
    model.train()
    report = doctor(model, X, Y, pretrained)
    assert report.problems == [] and report.measured["output differs from the pretrained by"] == "0"
    assert doctor(taught(model), X, Y, pretrained, trained=True).problems == []
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad), "gradients stay as they lay there"


def test_the_report_counts_as_peft_does(fresh):
    model = peft.get_peft_model(fresh(), config())
    trainable, total = model.get_nb_trainable_parameters()
    measured = doctor(model, X, Y).measured
    assert measured["LoRA layers"] == "4, rank 4, scale 2"
    assert measured["numbers that want to learn"].startswith(f"{trainable:,} of {total:,}")
    assert float(measured["gradient of B"]) > 0 == float(measured["gradient of A"])


def test_views_have_the_layers_own_names_and_the_weight_that_it_acts_with(fresh):
    model = taught(peft.get_peft_model(fresh(), config()))
    layers = peft_layers(model)
    assert set(layers) == {f"model.decoder.layers.{i}.{own}" for i in (0, 1) for own in ("self_attn.q_proj", "fc1")}
    layer, x = layers[BLOCK + "fc1"], torch.randn(3, 16)
    theirs = model.get_submodule("base_model.model." + BLOCK + "fc1")
    assert torch.allclose(theirs(x), x @ layer.total_weight().T + theirs.bias, atol=1e-5)
    theirs.merge()
    assert torch.allclose(peft_layers(model)[BLOCK + "fc1"].total_weight(), theirs.weight)
    saved = peft.get_peft_model(fresh(), config(modules_to_save=["lm_head"]))
    plain = {plain_name(saved, name) for name, _ in saved.named_parameters()}
    assert {name for name, _ in fresh().named_parameters()} <= plain


OTHER_WAYS = [
    {"use_dora": True},
    {"bias": "lora_only"},
    {"bias": "all"},
    {"lora_bias": True},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"trainable_token_indices": {"embed_tokens": [90, 91]}},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "gaussian"},
]


@pytest.mark.parametrize("options", OTHER_WAYS, ids=str)
def test_what_else_peft_can_do_is_no_illness(fresh, options):
    model = peft.get_peft_model(fresh(), config(**options))
    assert doctor(model, X, Y, fresh()).problems == []


def test_an_adapter_of_another_name_and_a_second_one_are_examined(fresh):
    model = peft.get_peft_model(fresh(), config(), adapter_name="mine")
    assert doctor(model, X, Y, fresh()).problems == []
    model.add_adapter("second", config(r=2))
    model.set_adapter("second")
    report = doctor(model, X, Y, fresh())
    assert report.problems == [] and "rank 2" in report.measured["LoRA layers"]
    model.base_model.set_adapter(["mine", "second"])
    report = doctor(model, X, Y, fresh())
    assert report.problems == [] and report.measured["LoRA layers"].startswith("8, rank 2, 4")


def test_merged_and_switched_off_are_told_from_broken(fresh):
    model = taught(peft.get_peft_model(fresh(), config()))
    model.merge_adapter()
    assert doctor(model, X, Y, fresh(), trained=True).problems == []
    model.unmerge_adapter()
    with model.disable_adapter():
        assert "switched off" in str(doctor(model, X, Y, fresh(), trained=True).problems)


def test_a_model_of_another_method_is_told_so(fresh):
    model = peft.get_peft_model(fresh(), peft.LoraConfig(target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match="the doctor knows no other method"):
        doctor(model, X, Y)


def head_alone(fresh):
    model = peft.get_peft_model(fresh(), config())
    model.base_model.model.lm_head.weight.requires_grad_(True)
    return model


def again_with_other_targets(fresh):
    model = fresh()
    peft.get_peft_model(model, config())
    return peft.get_peft_model(model, config(target_modules=["q_proj"]))


def checkpointed(fresh):
    model = peft.get_peft_model(fresh(), config())
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": True})
    model.get_base_model().disable_input_require_grads()
    return model


def b_at_random(fresh):
    return taught(peft.get_peft_model(fresh(), config()))


def frozen(fresh):
    model = peft.get_peft_model(fresh(), config())
    model.requires_grad_(False)
    return model


def weight_moved(fresh):
    model = peft.get_peft_model(fresh(), config())
    model.get_submodule("base_model.model." + BLOCK + "fc2").weight.data += 0.1
    return model


ILL = {
    head_alone: ["also learns: lm_head.weight", "name it in modules_to_save"],
    again_with_other_targets: [f"{BLOCK}fc1, model.decoder.layers.1.fc1: LoRA is in there"],
    lambda fresh: peft.get_peft_model(peft.get_peft_model(fresh(), config()), config(r=2)): ["inside a PEFT model"],
    checkpointed: ["use_reentrant=False does"],
    b_at_random: ["does not start as the pretrained one"],
    frozen: ["loaded without is_trainable=True"],
    weight_moved: ["something else has changed", f"{BLOCK}fc2.weight has changed"],
    lambda fresh: peft.get_peft_model(fresh(), config(lora_alpha=64)): ["is 16"],
}


@pytest.mark.parametrize(("ill", "said"), ILL.items(), ids=[said[0] for said in ILL.values()])
def test_what_went_wrong_is_named_and_nothing_else(fresh, ill, said):
    problems = doctor(ill(fresh), X, Y, fresh()).problems
    assert len({sentence for sentence in said for problem in problems if sentence in problem}) == len(said), problems
    assert all(any(sentence in problem for sentence in said) for problem in problems), problems


def test_an_optimizer_that_was_made_before(fresh):
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (problem,) = doctor(peft.get_peft_model(model, config()), X, Y, optimizer=optimizer).problems
    assert "the optimizer does not hold" in problem and "lora_A" in problem


def test_checkpointing_that_is_not_reentrant_is_healthy_and_examined_as_in_training(fresh):
    model = peft.get_peft_model(fresh(), config()).train()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    model.get_base_model().disable_input_require_grads()
    assert doctor(model, X, Y, fresh()).problems == [] and model.training


def test_checkpointing_of_ones_own_is_found_too():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

        def forward(self, x):
            inner = torch.utils.checkpoint.checkpoint(self.fc1, x, use_reentrant=True) if self.training else self.fc1(x)
            return self.fc2(inner)

    model, X, y = Own().eval(), torch.randn(5, 6), torch.randn(5, 3)
    replace_linear_with_lora(model, 2)
    (problem,) = doctor(model, X, y).problems
    assert problem.startswith("B of fc1 gets no gradient") and "use_reentrant=False" in problem


def written(fresh, folder, **options):
    model = taught(peft.get_peft_model(fresh(), config(**options)))
    model.save_pretrained(folder)
    return folder


def changed(folder, tensors=lambda tensors: tensors, **options):
    """The adapter's files with other tensors, or other options, an option of None taken out."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(tensors(load_file(weights)), weights)
    now = json.loads(settings.read_text()) | options
    settings.write_text(json.dumps({key: value for key, value in now.items() if value is not None}))
    return folder


def test_what_was_loaded_is_compared_with_its_file(fresh, tmp_path):
    folder = written(fresh, tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(), folder)
    report = doctor(loaded, X, Y, fresh(), file=folder)
    assert report.problems == [] and "those of the file" in repr(report) and "wrong way round" not in repr(report)
    assert file_problems(folder) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: changed(f, lambda t: {k.removeprefix("base_model.model."): v for k, v in t.items()}),
            "adds nothing",
        ),
        (lambda f: changed(f, lora_alpha=None), "is 0.5 times what the file means"),
        (lambda f: changed(f, use_rslora=True), "is 2 times what the file means"),
        (lambda f: changed(f, lambda t: {k: v.flip(0) for k, v in t.items()}), "is not the file's"),
    ],
    ids=["keys", "alpha", "rslora", "turned"],
)
def test_a_loading_that_went_wrong_is_seen_beside_the_right_file(fresh, tmp_path, spoil, said):
    right = written(fresh, tmp_path / "right", lora_alpha=16)
    (wrong := tmp_path / "wrong").mkdir()
    for file in right.iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    loaded = peft.PeftModel.from_pretrained(fresh(), spoil(wrong))
    problems = doctor(loaded, X, Y, fresh(), file=right).problems
    assert any(said in problem for problem in problems), problems


def test_ours_is_compared_with_its_file_too(tmp_path):
    torch.manual_seed(0)
    model = TinyGPT(width=16, depth=1, heads=2, context=16).eval()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, 4, exclude="head")
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora.B, std=0.1)
    save_adapter(model, tmp_path)
    assert doctor(model, X, Y, pretrained, file=tmp_path).problems == []
    layer = model.blocks[0].attention.q
    layer.lora.A.data = layer.lora.A.T.reshape(layer.lora.A.shape)
    (problem,) = doctor(model, X, Y, pretrained, file=tmp_path).problems
    assert problem.startswith("A of blocks.0.attention.q is not the file's")


def test_pissa_is_compared_as_the_plain_lora_that_its_file_holds(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 8))
    replace_linear_with_lora(model, 2, layer=LinearWithPiSSA)
    torch.nn.init.normal_(model[0].lora.B)
    save_adapter(model, tmp_path)
    assert file_problems(tmp_path, lora_layers(model)) == []
    replace_linear_with_lora(wide := torch.nn.Sequential(torch.nn.Linear(12, 8)), 5, layer=LinearWithPiSSA)
    (problem,) = file_problems(tmp_path, lora_layers(wide))
    assert "would not fit: rank=10" in problem


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r": 0}, "r=0 is not a whole number"),
        ({"r": "4"}, "r='4' is not a whole number"),
        ({"lora_alpha": 0}, "lora_alpha=0 is not a positive number"),
        ({"alpha_pattern": {"fc1": -1}}, "fc1=-1 is not a positive number"),
        ({"rank_pattern": {"(": 2}}, r"'rank_pattern' has '(', which is no regular expression"),
        ({"layers_pattern": "("}, r"'layers_pattern' has '(', which is no regular expression"),
        ({"target_modules": "("}, r"'target_modules' has '(', which is no regular expression"),
        ({"target_modules": ["fc1"]}, "q_proj, which its configuration does not name"),
    ],
)
def test_a_configuration_that_cant_be_meant_is_told_and_not_stumbled_over(fresh, tmp_path, options, said):
    folder = changed(written(fresh, tmp_path), **options)
    assert any(said in problem for problem in file_problems(folder)), file_problems(folder)
    model = peft.get_peft_model(fresh(), config())
    assert any(said in problem for problem in file_problems(folder, peft_layers(model)))


def test_a_pattern_of_layers_is_read_whole(fresh, tmp_path):
    assert file_problems(changed(written(fresh, tmp_path), layers_pattern="(h|layers)")) == []


def test_an_empty_adapter_is_told_by_its_keys_its_shapes_and_its_B(fresh, tmp_path):
    folder = written(fresh, tmp_path)
    whole = load_file(folder / "adapter_model.safetensors")
    assert "no A and no B" in file_problems(changed(folder, lambda t: {}))[0]
    half = {key: value[: len(value) // 2] for key, value in whole.items()}
    assert "and the configuration says rank 4" in file_problems(changed(folder, lambda t: half))[0]
    gone = {key: value[:0] for key, value in whole.items()}
    assert any("shape (0, 16)" in problem for problem in file_problems(changed(folder, lambda t: gone)))
    zero = {key: value * ("lora_A" in key) for key, value in whole.items()}
    (problem,) = file_problems(changed(folder, lambda t: zero))
    assert "is zero, so the file changes nothing there" in problem
    without = {key: value for key, value in whole.items() if "lora_B" not in key}
    assert "the file has no B for" in file_problems(changed(folder, lambda t: without))[0]
    nan = {key: value * float("nan") for key, value in whole.items()}
    assert "contains NaN" in file_problems(changed(folder, lambda t: nan))[0]
    assert file_problems(changed(folder, lambda t: whole)) == []
    assert "does not exist" in file_problems(tmp_path / "nowhere")[0]


def test_a_file_for_other_layers_says_which(fresh, tmp_path):
    folder = written(fresh, tmp_path)
    model = peft.get_peft_model(fresh(), config(target_modules=["fc1", "fc2"]))
    problems = file_problems(folder, peft_layers(model))
    assert any(problem.startswith("the file is for") and "self_attn.q_proj" in problem for problem in problems)
    assert any(problem.startswith(f"the file has nothing for {BLOCK}fc2") for problem in problems)
