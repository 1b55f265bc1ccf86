"""TinyGPT in a folder that transformers opens: the same logits, the same alphabet, and it writes."""

import pytest
import torch

from lora_lab.material import TinyGPT, shipped_adapter
from lora_lab.material.hub import save_for_transformers, transformers_name
from lora_lab.material.models import ALPHABET, encode

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_for_transformers(tmp_path_factory.mktemp("hub") / "tinygpt")


def test_transformers_opens_it_and_gives_tinygpts_logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(len(ALPHABET), (3, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = TinyGPT.pretrained()(tokens), model(tokens).logits
    assert (ours - theirs).abs().max() < 1e-4 < 1 < ours.abs().max()


def test_each_character_is_a_token_and_comes_back(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(ALPHABET, return_tensors="pt").input_ids[0]
    assert torch.equal(tokens, encode(ALPHABET)) and tokenizer.decode(tokens) == ALPHABET
    assert tokenizer("é fox").input_ids == encode(" fox").tolist(), "what TinyGPT does not know is left out"


def test_it_writes_on(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = encode("The file ")[None]
    written = model.generate(prompt, max_new_tokens=20, do_sample=False)
    assert written.shape == (1, 29) and torch.equal(written[:, :9], prompt)
    with torch.no_grad():
        assert written[0, 9] == TinyGPT.pretrained()(prompt)[0, -1].argmax()


def test_a_model_of_other_sizes_goes_the_same_way(tmp_path):
    torch.manual_seed(0)
    small = TinyGPT(width=24, depth=2, heads=3, context=16).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(save_for_transformers(tmp_path, small))
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.allclose(small(tokens), theirs(tokens).logits, atol=1e-5)


def test_every_layer_that_an_adapter_names_is_there_under_its_other_name(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    ours = {name for name, module in TinyGPT().named_modules() if isinstance(module, torch.nn.Linear)}
    assert {transformers_name(name) for name in ours} == theirs and shipped_adapter("tales").exists()
