"""The clinic of notebook 13: patients twelve to seventeen, whose LoRA is PEFT's, on the digit classifier of the others.

What ails them comes late: most of them train well, and are ill when they are saved, or loaded somewhere else.
"""

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..material.models import DigitClassifier
from .clinic import adam
from .ward import Patient, World, digit_world


def with_peft(model, **settings):
    """PEFT's LoRA in the model, rank 4 in the two layers before the head unless something else is said."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": ["fc1", "fc2"]} | settings))


def healthy(model):
    model = with_peft(model)
    return model, adam(model)


# The six: sick and cured. Each gets the pretrained model and returns PEFT's and the optimizer.


def head_sick(model):
    model.head.reset_parameters()  # a new head, for a new task
    model = with_peft(model)
    model.base_model.model.head.requires_grad_(True)
    return model, adam(model)


def head_cured(model):
    model.head.reset_parameters()
    model = with_peft(model, modules_to_save=["head"])
    return model, adam(model)


class Checkpointed(DigitClassifier):
    """A digit classifier that computes its first two layers again in the backward pass, (n, 64) → (n, 10)."""

    reentrant = False

    def block(self, x):
        """(n, 64) → (n, 256): what is not kept."""
        return F.relu(self.fc2(F.relu(self.fc1(x))))

    def forward(self, x):
        """(n, 64) → (n, 10)."""
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant) if self.training else self.block(x))


def cut_off_sick(model):
    model.reentrant = True
    model = with_peft(model, target_modules=["fc1", "fc2", "head"])
    return model, adam(model)


def cut_off_cured(model):
    model.reentrant = False
    model = with_peft(model, target_modules=["fc1", "fc2", "head"])
    return model, adam(model)


def other_targets_sick(model):
    with_peft(model, target_modules=["fc1", "fc2"])
    model = with_peft(model, target_modules=["fc2"])  # the same cell, edited and run again
    return model, adam(model)


def other_targets_cured(model):
    model = with_peft(model, target_modules=["fc1", "fc2"])
    return model, adam(model)


def scale_healthy(model):
    model = with_peft(model, r=16, lora_alpha=16, use_rslora=True)
    return model, adam(model)


# What is done with the trained model before it is used.


def fresh():
    """The pretrained model as another program makes it, whose new head is another one."""
    torch.manual_seed(1)
    return DigitClassifier.pretrained().double()


def fresh_with_a_new_head():
    model = fresh()
    model.head.reset_parameters()
    return model


def load(folder, base):
    """What everybody does with an adapter's file."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder)


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load(folder, fresh())


def saved_and_loaded_with_a_new_head(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load(folder, fresh_with_a_new_head())


def names_sick(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder, "adapter_model.safetensors")
        tensors = load_file(file)  # a script that makes names shorter
        save_file({name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}, file)
        return load(folder, fresh())


def scale_sick(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder, "adapter_config.json")
        options = json.loads(file.read_text())
        known = {"peft_type", "r", "lora_alpha", "target_modules"}  # to an engine that knows LoRA as it was in 2021
        file.write_text(json.dumps({name: value for name, value in options.items() if name in known}))
        return load(folder, fresh())


def saved_merged_sick(model):
    model.merge_adapter()  # faster for an evaluation
    state = copy.deepcopy(model.state_dict())
    model.unmerge_adapter()
    again = with_peft(fresh())
    again.load_state_dict(state)
    return again


def saved_merged_cured(model):
    state = copy.deepcopy(model.state_dict())
    again = with_peft(fresh())
    again.load_state_dict(state)
    return again


@cache
def _checkpointed():
    model = Checkpointed().double().eval()
    world = digit_world()
    model.load_state_dict(world.pretrained.state_dict())
    return World(model, world.new, world.old)


MORE_PATIENTS = [
    Patient(
        12,
        "head",
        head_sick,
        head_cured,
        ("not loaded", "frozen", "head", "names"),
        {
            "not loaded": "Then the output in use would be that of a base without LoRA. Look for what else has learned, and count.",
            "frozen": "Then nothing would have been learned, and training ended as well as the twin's.",
            "names": "Then the LoRA would be missing in use. It is there, and works for another head than the one it has now.",
        },
        "The head was new and trained, and PEFT saves A and B and whatever modules_to_save names. The head is in no file. Where the adapter is loaded, a new head is made at random, and no warning comes.",
        "unslothai/unsloth#3317, where the head of a classifier was left out of the file",
        afterwards=(saved_and_loaded_with_a_new_head, saved_and_loaded_with_a_new_head),
    ),
    Patient(
        13,
        "cut off",
        cut_off_sick,
        cut_off_cured,
        ("slow", "cut off", "optimizer", "both zero"),
        {
            "slow": "Then all layers would learn a little. Of three layers one has learned something, and the others nothing at all.",
            "optimizer": "An optimizer that was made too early holds no A and no B at all, and here one layer has learned.",
            "both zero": "A is as large as the twin's.",
        },
        "What a checkpoint of the older, reentrant kind gets has to require a gradient, or none goes in. Its input is the digits, which need none, so A and B inside are never reached. The head lies outside and learns alone. (transformers switches its checkpoints to the other kind, or makes the embeddings' output require a gradient.)",
        "locuslab/open-unlearning#178, where B stayed zero in all blocks, and huggingface/peft#137, where the head had no LoRA and an error came",
        world=_checkpointed,
    ),
    Patient(
        14,
        "other targets",
        other_targets_sick,
        other_targets_cured,
        ("other targets", "twice", "names", "rank"),
        {
            "twice": "LoRA inside LoRA would be four layers. There are two, as in the twin, and both have learned.",
            "names": "Then the model in use would be the pretrained one. It is something in between.",
            "rank": "Both have the same rank, and the same count of numbers that learn.",
        },
        "The first call put LoRA into fc1 and fc2. The second one, on the same model, names fc2 alone, leaves what is in fc1 where it is, and writes its own list into the file. Both layers train, both are saved, and whoever loads the file makes a LoRA for fc2 alone; the rest is left out without a word.",
        "huggingface/peft#2295; PEFT warns since that one is modifying a model for a second time",
        afterwards=(saved_and_loaded, saved_and_loaded),
    ),
    Patient(
        15,
        "names",
        healthy,
        healthy,
        ("turned", "saved merged", "scale", "names"),
        {
            "turned": "Then the output in use would be another one than the pretrained model's. It is exactly that one.",
            "saved merged": "Then the pretrained numbers would have changed in use.",
            "scale": "At another scale there would be some effect. There is none.",
        },
        "PEFT looks for names that begin with base_model.model. What it does not find it warns of, once, and leaves at the start: B is zero. The model answers, as the pretrained one.",
        "vllm-project/vllm#34186, where no warning came, and huggingface/peft#2699, where one came",
        afterwards=(names_sick, saved_and_loaded),
    ),
    Patient(
        16,
        "scale",
        scale_healthy,
        scale_healthy,
        ("merged twice", "scale", "not loaded", "turned"),
        {
            "merged twice": "Nothing was merged: the pretrained numbers are the same. And merging twice makes the change larger. Here it is smaller.",
            "not loaded": "Then the output would be the pretrained model's. It differs, but by less than the twin's.",
            "turned": "Numbers in wrong places give a change that helps nobody. This one helps, and not enough.",
        },
        "It was trained with the scale α/√r = 4. Whoever loads it without knowing use_rslora takes α/r = 1, and ΔW is a quarter of what was learned. The two differ by √r.",
        "sgl-project/sglang#40835 and NVIDIA/TensorRT-LLM#1668, engines that did not read the option",
        afterwards=(scale_sick, saved_and_loaded),
    ),
    Patient(
        17,
        "saved merged",
        healthy,
        healthy,
        ("merged twice", "scale", "saved merged", "names"),
        {
            "merged twice": "Close: the change in use is twice the twin's. But the pretrained numbers have changed only once, and LoRA is still beside them.",
            "scale": "The scale is the same. Look at the pretrained numbers, which no scale touches.",
            "names": "Then there would be less of an effect, and there is more.",
        },
        "For a faster evaluation the update was merged, and a checkpoint of the whole model was written at that moment: W + ΔW, and A and B as well. Where it is loaded, ΔW is added once more. Layers that merge themselves in eval(), as loralib's do, are saved like this whenever one saves after an evaluation.",
        "the layers of loralib, which merge in eval() unless they are told merge_weights=False",
        afterwards=(saved_merged_sick, saved_merged_cured),
    ),
]
