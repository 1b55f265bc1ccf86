"""The bug clinic of notebook 07: eleven patients, each with one planted bug, its cure, and where it was met in the wild.

A patient is two short pieces of code that differ in one place, ``sick`` and ``cured``. Both are run on the same small
task, so that the symptoms can be measured on both: that is the affair of ``ward``.
"""

import math
from functools import cache

import torch
from torch import nn

from ..adapt import replace_linear_with_lora
from ..find import lora_layers
from ..layer import LinearWithLoRA
from ..material.data import Split
from ..training import train_model
from .ward import LR, Patient, World


def put_in(model, rank=4, **settings):
    """LoRA into the two layers before the head; returns the adapted layers."""
    replace_linear_with_lora(model, rank, targets=["fc1", "fc2"], **settings)
    return list(lora_layers(model).values())


def adam(model):
    """Adam over whatever learns now; None if nothing does, since torch makes no optimizer for that."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=LR) if parameters else None


def sgd(model):
    """Plain gradient descent, for owners who want no optimizer state."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.25)


# The eleven: sick and cured. Each gets the pretrained model, changes it in place and returns the optimizer.


def bias_sick(model):
    for layer in put_in(model):
        layer.linear.weight.requires_grad_(False)
        layer.linear.bias.requires_grad_(True)
    return adam(model)


def bias_cured(model):
    for layer in put_in(model):
        layer.linear.requires_grad_(False)
    return adam(model)


def random_b_sick(model):
    for layer in put_in(model):
        nn.init.normal_(layer.lora.B)
    return adam(model)


def random_b_cured(model):
    for layer in put_in(model):
        nn.init.zeros_(layer.lora.B)
    return adam(model)


def both_zero_sick(model):
    for layer in put_in(model):
        nn.init.zeros_(layer.lora.A)
        nn.init.zeros_(layer.lora.B)
    return adam(model)


def both_zero_cured(model):
    for layer in put_in(model):
        nn.init.kaiming_uniform_(layer.lora.A.T, a=math.sqrt(5))
        nn.init.zeros_(layer.lora.B)
    return adam(model)


def fan_sick(model):
    for layer in put_in(model):
        nn.init.kaiming_uniform_(layer.lora.A, a=math.sqrt(5))
    return sgd(model)


def fan_cured(model):
    for layer in put_in(model):
        nn.init.kaiming_uniform_(layer.lora.A.T, a=math.sqrt(5))
    return sgd(model)


def alpha_sick(model):
    put_in(model, rank=16, alpha=32, scaling="alpha")
    return adam(model)


def alpha_cured(model):
    put_in(model, rank=16, alpha=32, scaling="alpha/r")
    return adam(model)


def frozen_sick(model):
    put_in(model)
    model.requires_grad_(False)
    return adam(model)


def frozen_cured(model):
    model.requires_grad_(False)
    put_in(model)
    return adam(model)


def twice_sick(model):
    put_in(model)
    for layer in lora_layers(model).values():
        layer.linear = LinearWithLoRA(layer.linear, rank=4)
    return adam(model)


def one_adapter_for_each_layer(model):
    """What arrives where the file is opened: it has room for one adapter for each layer."""
    for layer in list(lora_layers(model).values()):
        if isinstance(layer.linear, LinearWithLoRA):
            layer.linear = layer.linear.linear


def optimizer_sick(model):
    optimizer = adam(model)
    put_in(model)
    return optimizer


def optimizer_cured(model):
    put_in(model)
    optimizer = adam(model)
    return optimizer


def healthy(model):
    put_in(model)
    return adam(model)


# What is done with the trained model before it is used.


def merge_in_place(model):
    """W += ΔW, and the adapter is switched off."""
    for layer in lora_layers(model).values():
        layer.linear.weight.data += layer.lora.delta().T
        layer.enabled = False


def merged_twice_sick(model):
    merge_in_place(model)  # at the end of the training script
    merge_in_place(model)  # at the beginning of the export script


def merged_twice_cured(model):
    merge_in_place(model)


def _files(model):
    """A as (rank, in) and B as (out, rank), as the common file format has them."""
    return [(layer.lora.A.detach().T.clone(), layer.lora.B.detach().T.clone()) for layer in lora_layers(model).values()]


def turned_sick(model):
    for layer, (A, B) in zip(lora_layers(model).values(), _files(model), strict=True):
        layer.lora.A.data = A.reshape(layer.lora.A.shape)
        layer.lora.B.data = B.reshape(layer.lora.B.shape)


def turned_cured(model):
    for layer, (A, B) in zip(lora_layers(model).values(), _files(model), strict=True):
        layer.lora.A.data = A.T
        layer.lora.B.data = B.T


class Speller(nn.Module):
    """A model that says which letter comes next, (n,) → (n, 26), and uses one matrix for reading and for writing."""

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(26, 16)
        self.think = nn.Linear(16, 16)
        self.head = nn.Linear(16, 26, bias=False)
        self.head.weight = self.letters.weight  # tied

    def forward(self, tokens):
        return self.head(torch.tanh(self.think(self.letters(tokens))))


def tied_sick(model):
    model.requires_grad_(False)
    model.head = LinearWithLoRA(model.head, rank=8)
    return adam(model)


def tied_cured(model):
    model.requires_grad_(False)
    model.head.weight = nn.Parameter(model.head.weight.clone())
    model.head = LinearWithLoRA(model.head, rank=8)
    return adam(model)


@cache
def _letters():
    """After each letter comes another one, always the same; in the new world a different one."""
    torch.manual_seed(0)
    letters = torch.arange(26)
    worlds = [Split(letters, after, letters, after) for after in (torch.randperm(26), torch.randperm(26))]
    model = Speller().double()
    train_model(model, worlds[0].X, worlds[0].y, epochs=300, lr=0.02, progress=False)
    return World(model, new=worlds[1], old=worlds[0], epochs=300)


PATIENTS = [
    Patient(
        1,
        "frozen",
        frozen_sick,
        frozen_cured,
        ("both zero", "slow", "frozen", "optimizer"),
        {
            "both zero": "Then 3,328 numbers would want to learn, and find no gradient. Look at how many want to learn.",
            "slow": "A loss that falls too slowly still falls, and B would have a gradient.",
            "optimizer": "Then B would have a gradient that nobody uses. Here there is none.",
        },
        "Freezing came last and froze A and B with the rest. Freeze first, then put LoRA in. (torch itself complains, of an empty parameter list or of a loss that does not require grad. This owner's loop did not listen.)",
        "huggingface/trl#3926, where a preparing step froze the adapters of a model that already had them",
    ),
    Patient(
        2,
        "random B",
        random_b_sick,
        random_b_cured,
        ("random B", "bias", "fan", "fast"),
        {
            "bias": "Then more numbers would learn than in the twin. The counts agree.",
            "fan": "The largest number in A is the twin's. And while B is zero, no A changes the output.",
            "fast": "The output was another one before the first step. No learning rate had a part in that.",
        },
        "With B at random, A B is a random change of every layer: training starts from a damaged model. Here it was repaired by training; with little data it may not be.",
        "mflux-community/mflux#739, and ggml-org/llama.cpp#4082, which zeroed B",
    ),
    Patient(
        3,
        "optimizer",
        optimizer_sick,
        optimizer_cured,
        ("frozen", "both zero", "slow", "optimizer"),
        {
            "frozen": "3,328 numbers want to learn, as many as in the twin.",
            "both zero": "Then B would have no gradient. It has the same as the twin's.",
            "slow": "At a ten-thousandth of the rate the last digit would already have moved. (At a rate of 0, or without step(), it would look just like this.)",
        },
        "The optimizer was made before A and B existed, so it moves the old parameters, which are frozen. The gradients are there and nobody uses them.",
        "adapter-hub/adapters#260: the same with another kind of adapter, solved by making the optimizer afterwards",
    ),
    Patient(
        4,
        "both zero",
        both_zero_sick,
        both_zero_cured,
        ("frozen", "both zero", "random B", "optimizer"),
        {
            "frozen": "3,328 numbers want to learn, as many as in the twin. What do they learn from?",
            "random B": "With A at zero the output would indeed stay. But then A would have a gradient, and the loss would fall.",
            "optimizer": "Then there would be a gradient and nobody to use it. B has none.",
        },
        "A's gradient is something times B, and B's is something times A. With both at zero both gradients are, and stay, zero.",
        "NovaSky-AI/SkyRL#852, where a reused adapter came back with A at zero",
    ),
    Patient(
        5,
        "bias",
        bias_sick,
        bias_cured,
        ("twice", "bias", "rank", "merged twice"),
        {
            "twice": "Then there would be more LoRA layers than in the twin.",
            "rank": "It is the same rank. And the pretrained numbers have changed, which no rank can do.",
            "merged twice": "Nothing was merged. The pretrained numbers changed during training.",
        },
        "The weight was frozen and the bias was not. Nothing crashes, and the adapter file, which holds A and B alone, no longer describes the model.",
        "hao-ai-lab/FastVideo#926, where base weights and biases got gradients beside LoRA's; the notes of notebook 02",
    ),
    Patient(
        6,
        "alpha",
        alpha_sick,
        alpha_cured,
        ("fast", "rank", "fan", "alpha"),
        {
            "fast": "The twin is trained at the same rate. What makes every change of B count so much more here?",
            "rank": "Both have 13,312 numbers: the rank is the same.",
            "fan": "The largest number in A is the twin's. And B's gradient is 16 times the twin's, which is the rank.",
        },
        "The scale is 32 instead of 32/16 = 2: every step moves the model 16 times as far in the beginning, as a rate 16 times as high would.",
        "rasbt/LLMs-from-scratch#821 and Blaizzy/mlx-vlm#845",
    ),
    Patient(
        7,
        "twice",
        twice_sick,
        healthy,
        ("twice", "rank", "turned", "bias"),
        {
            "rank": "Twice the rank would double the count as well. But how many LoRA layers are there?",
            "turned": "That could explain what happened in use. It can't explain the count at the start.",
            "bias": "Two biases are 512 numbers. Here are 3,328 more, as many as A and B have together.",
        },
        "There is a LoRA inside the LoRA. It trains well, all four together. Many a reader of files has room for one adapter for each layer and drops the inner ones. (load_adapter of this course refuses the file.)",
        "huggingface/cookbook#338, where a trainer adds the LoRA that the notebook had added; nested in huggingface/peft#2390",
        afterwards=(one_adapter_for_each_layer, one_adapter_for_each_layer),
    ),
    Patient(
        8,
        "fan",
        fan_sick,
        fan_cured,
        ("random B", "fast", "fan", "alpha"),
        {
            "random B": "Then the output would have changed before training.",
            "fast": "The twin is trained at the same rate and is well. Why is it too high for this one alone?",
            "alpha": "That would raise B's gradient and leave A as it is. The largest number in A is 0.50 here, and 0.50 is 1/√4: what has 4?",
        },
        "kaiming_uniform_ reads an (in, rank) matrix as rank inputs, so A is √(in/rank) times too large: B's steps count more, like a hidden higher learning rate. At a lower rate the patient would even have learned faster, which is why this goes unnoticed.",
        "pytorch/pytorch#129834 on the orientation; NVIDIA-NeMo/Megatron-Bridge#5840, where the fan was that of a slice of A",
    ),
    Patient(
        9,
        "merged twice",
        healthy,
        healthy,
        ("turned", "merged twice", "fast", "tied"),
        {
            "turned": "Then the change would be another one. This one is the twin's, times two: 1.44 and 0.72.",
            "fast": "After training it was as good as the twin. It was lost on the way into use.",
            "tied": "No two layers of this model share a weight. By how much did the pretrained numbers change, compared with the twin's?",
        },
        "W + ΔW was merged again to W + 2 ΔW. Both scripts were right, each for itself.",
        "huggingface/peft#1355, which made merging again harmless",
        afterwards=(merged_twice_sick, merged_twice_cured),
    ),
    Patient(
        10,
        "turned",
        healthy,
        healthy,
        ("not loaded", "merged twice", "fast", "turned"),
        {
            "not loaded": "Then the output in use would be the pretrained model's. It differs, and helps nobody.",
            "merged twice": "The pretrained numbers have not changed at all, so nothing was merged.",
            "fast": "After training it was as good as the twin. It was lost on the way into use.",
        },
        "The file holds A as (rank, in). reshape makes (in, rank) of it without complaint and with every number in the wrong place; .T is what was meant.",
        "osaurus-ai/vmlx-swift#320, on files whose matrices fit both ways round",
        afterwards=(turned_sick, turned_cured),
    ),
    Patient(
        11,
        "tied",
        tied_sick,
        tied_cured,
        ("tied", "merged twice", "turned", "random B"),
        {
            "merged twice": "Then the change would be twice the twin's. It is the same, but in two layers instead of one.",
            "turned": "Nothing was read from a file. The update was merged in memory, in both.",
            "random B": "Then the output would have changed before training.",
        },
        "Reading and writing use one matrix. The update was trained for writing, and merging it changed the reading, too. Untie first, or leave tied layers out.",
        "huggingface/peft#2018",
        afterwards=(merge_in_place, merge_in_place),
        world=_letters,
    ),
]
