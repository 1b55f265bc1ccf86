"""The exercises of notebook 13."""

import torch

from ..material.models import DigitClassifier
from .clinic_peft import with_peft
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

half_wrong = Guess("a list of names of which one is wrong gives", ["an error", "a warning", "nothing"])
without_prefix = Guess("an adapter whose names don't fit gives", ["an error", "a warning", "nothing"])
new_rows = Guess("nats for a new token, when only LoRA learns (100 tokens by chance: 4.6)")


def numbers_of_lora(shapes, targets, rank):
    total = 0
    for name, (inputs, outputs) in shapes.items():
        if name.split(".")[-1] in targets:
            total += rank * (inputs + outputs)
    return total


_BLOCK = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64), "up_proj": (64, 172)}
_SHAPES = {f"layers.{i}.{name}": shape for i in range(3) for name, shape in _BLOCK.items()} | {"lm_head": (64, 500)}


def _count(shapes, targets, rank, meant=lambda name, target: name.split(".")[-1] == target, each=sum):
    """What a way of counting gives: which layers a target means, and what each of them counts."""
    return sum(rank * each(shape) for name, shape in shapes.items() if any(meant(name, t) for t in targets))


numbers_of_lora = Exercise(
    title="Count before you train",
    reference=numbers_of_lora,
    cases=[
        (_SHAPES, ["q_proj", "v_proj"], 8),
        (_SHAPES, ["k_proj"], 1),
        (_SHAPES, ["proj"], 4),
        (_SHAPES, ["q_proj", "query"], 8),
        (_SHAPES, ["lm_head", "up_proj"], 2),
    ],
    hints=[
        "A layer of (in, out) has an A of (in, rank) and a B of (rank, out). A target means every layer whose name ends in it, after a dot.",
        'Go through shapes.items(). name.split(".")[-1] is the end of a name.',
        "Add rank * (inputs + outputs) for each layer whose name's end is among the targets.",
    ],
    misconceptions=[
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, each=lambda shape: shape[0] * shape[1]),
            "in · out is the weight itself. A and B have rank · (in + out).",
        ),
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, lambda name, target: target in name),
            '"proj" is part of many names and the end of none after a dot: PEFT takes whole parts of a name.',
        ),
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, lambda name, target: name.endswith(target)),
            '"proj" is part of many names and the end of none after a dot: PEFT takes whole parts of a name.',
        ),
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, lambda name, target: name == target),
            'The names in shapes are whole, "layers.0.q_proj", and a target is the end of one.',
        ),
        (
            lambda shapes, targets, rank: _count(_BLOCK | {"lm_head": (64, 500)}, targets, rank),
            "Each kind of layer stands in every block. Count all of them.",
        ),
        (lambda shapes, targets, rank: _count(shapes, targets, 1), "The rank is missing."),
        (
            lambda shapes, targets, rank: _count(shapes, targets, 2 * rank),
            "One A and one B for each layer: that is rank · (in + out), once.",
        ),
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, each=lambda shape: shape[0]),
            "That is A alone. B has rank · out more.",
        ),
        (
            lambda shapes, targets, rank: _count(shapes, targets, rank, each=lambda shape: shape[1]),
            "That is B alone. A has rank · in more.",
        ),
        (
            lambda shapes, targets, rank: _count(shapes, list(_BLOCK), rank),
            "That is LoRA in all layers of the blocks. Count those that are targets.",
        ),
    ],
    praise="Compare it with what print_trainable_parameters() says. If the two differ, a name is wrong.",
)


def theirs(name):
    for ours, other in {
        "blocks": "model.decoder.layers",
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.o": "self_attn.out_proj",
        ".up": ".fc1",
        ".down": ".fc2",
    }.items():
        name = name.replace(ours, other)
    return name


def _theirs_but(**changes):
    """The reference, less one of its replacements or with another one."""

    def wrong(name):
        right = theirs.reference(name)
        for old, new in changes.items():
            right = right.replace(old.replace("_dot_", "."), new)
        return right

    return wrong


_KEYS = [
    f"base_model.model.blocks.{i}.{layer}.lora_{half}.weight"
    for i, layer, half in [
        (0, "attention.q", "A"),
        (1, "attention.k", "B"),
        (2, "attention.v", "A"),
        (3, "attention.o", "B"),
        (3, "up", "A"),
        (0, "down", "B"),
    ]
]

theirs = Exercise(
    title="The same layer under another name",
    reference=theirs,
    cases=[(key,) for key in _KEYS],
    hints=[
        "Print the names of both models' layers below each other. Seven parts of a name are different.",
        'name.replace("blocks", "model.decoder.layers") is the first of the seven. The prefix base_model.model. stays.',
        "attention.q → self_attn.q_proj, k and v likewise, attention.o → self_attn.out_proj, .up → .fc1, .down → .fc2",
    ],
    misconceptions=[
        (lambda name: name, "The names are still TinyGPT's."),
        (
            lambda name: theirs.reference(name).removeprefix("base_model.model."),
            "The prefix base_model.model. is PEFT's own and stays in front: without it nothing is found.",
        ),
        (
            lambda name: theirs.reference(name).replace("model.decoder.", ""),
            "In OPT the blocks lie in model.decoder: a name begins there.",
        ),
        (_theirs_but(out_proj="o_proj"), "In Llama it is o_proj, and in OPT out_proj."),
        (_theirs_but(self_attn="attention"), "OPT's attention is called self_attn."),
        (
            _theirs_but(fc1="up_proj", fc2="down_proj"),
            "up_proj and down_proj are Llama's names. In OPT they are fc1 and fc2.",
        ),
        (
            lambda name: theirs.reference(name).replace("fc1", "fcx").replace("fc2", "fc1").replace("fcx", "fc2"),
            "up comes first and is fc1; down is fc2. Their shapes tell them apart.",
        ),
        (
            lambda name: theirs.reference(name).replace("_proj", ""),
            "The names of the projections end in _proj there.",
        ),
        (
            lambda name: theirs.reference(name).replace(".weight", ".default.weight"),
            "default is the adapter's name in memory. In a file it is left out.",
        ),
        (lambda name: theirs.reference(name).replace("layers", "blocks"), "OPT's blocks are called layers."),
        (
            lambda name: theirs.reference(name).rpartition(".lora_")[0],
            "That is the layer. The key goes on: .lora_A.weight or .lora_B.weight stays at its end.",
        ),
    ],
    praise="Whoever converts an adapter does this, and then looks whether the outputs changed.",
)


def lost(model):
    from peft import get_peft_model_state_dict

    saved = {tensor.data_ptr() for tensor in get_peft_model_state_dict(model).values()}
    return [name for name, p in model.named_parameters() if p.requires_grad and p.data_ptr() not in saved]


def _names(answer, model, case, wanted):
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    given = answer(model)
    require(isinstance(given, (list, tuple, set)), f"Return a list of names; this is of type {type(given).__name__}.")
    now = {name: p.requires_grad for name, p in model.named_parameters()}
    require(now == before, "The model is another one now: what learns has been changed. Look, and leave it as it is.")
    known = dict(model.named_parameters())
    kinds = {
        "is not the name of a parameter of the model. Take them from named_parameters().": set(given) - set(known),
        "does not learn, so nothing of it can be lost.": {
            n for n in given if n in known and not known[n].requires_grad
        },
        "is LoRA's own, and is in the file.": {name for name in given if "lora_" in name},
        "is in the file.": set(given) - set(wanted),
        "learns and is in no file. It is not in your list.": set(wanted) - set(given),
    }
    for fault, names in kinds.items():
        require(not names, f"{case}: {min(names, default='')} {fault}")


def _fresh():
    torch.manual_seed(0)
    return DigitClassifier()


def _a_head(answer):
    model = with_peft(_fresh())
    model.base_model.model.head.requires_grad_(True)
    wanted = ["base_model.model.head.weight", "base_model.model.head.bias"]
    _names(answer, model, "A head switched on", wanted)


def _nothing(answer):
    _names(answer, with_peft(_fresh()), "LoRA alone", [])


def _named(answer):
    _names(answer, with_peft(_fresh(), modules_to_save=["head"]), "A head in modules_to_save", [])


def _biases(answer):
    _names(answer, with_peft(_fresh(), bias="lora_only"), 'bias="lora_only"', [])
    model = with_peft(_fresh())
    for name, p in model.named_parameters():
        p.requires_grad_(p.requires_grad or name.endswith("bias"))
    wanted = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    _names(answer, model, "Biases switched on by hand", wanted)


def _ending(*endings):
    """All that learns and does not end in one of these, or is LoRA's."""

    def wrong(model):
        learns = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
        return [name for name in learns if not name.endswith(endings)]

    return wrong


lost = Task(
    title="What will be lost?",
    reference=lost,
    stages={
        "a head that was switched on by hand": _a_head,
        "nothing, where LoRA alone learns": _nothing,
        "nothing, where the head is in modules_to_save": _named,
        "biases, asked for and switched on by hand": _biases,
    },
    hints=[
        "Two lists: what requires a gradient, and what the file holds. What is in the first and not in the second is lost.",
        "peft.get_peft_model_state_dict(model) is what will be written. Its names are shorter than the model's. The tensors are the same: data_ptr() says where one lies.",
        "saved = {tensor.data_ptr() for tensor in get_peft_model_state_dict(model).values()}, and then the names of parameters that require a gradient and whose data_ptr() is not in it.",
    ],
    misconceptions=[
        (
            lambda model: [name for name, p in model.named_parameters() if p.requires_grad],
            "A head switched on: base_model.model.fc1.lora_A.default.weight is LoRA's own, and is in the file.",
        ),
        (
            lambda model: [],
            "A head switched on: base_model.model.head.bias learns and is in no file. It is not in your list.",
        ),
        (
            lambda model: [n for n, p in model.named_parameters() if "lora_" not in n],
            "A head switched on: base_model.model.fc1.base_layer.bias does not learn, so nothing of it can be lost.",
        ),
        (
            _ending("nothing"),
            "A head in modules_to_save: base_model.model.head.modules_to_save.default.bias is in the file.",
        ),
        (
            lambda model: ["base_model.model.head.weight", "base_model.model.head.bias"],
            "LoRA alone: base_model.model.head.bias does not learn, so nothing of it can be lost.",
        ),
        (
            lambda model: sum(p.requires_grad for p in model.parameters()),
            "Return a list of names; this is of type int.",
        ),
        (
            _ending("bias"),
            "A head switched on: base_model.model.head.bias learns and is in no file. It is not in your list.",
        ),
        (
            lambda model: [n for n in _ending("nothing")(model) if "modules_to_save" not in n],
            'bias="lora_only": base_model.model.fc1.base_layer.bias is in the file.',
        ),
        (lambda model: ["head"], "A head switched on: head is not the name of a parameter of the model."),
        (
            lambda model: [n for n, p in model.requires_grad_(False).named_parameters() if p.requires_grad],
            "The model is another one now",
        ),
    ],
    praise="An empty list is what you want to see before a long training.",
)


def labels_for(tokens, starts):
    labels = tokens.clone()
    for row, start in enumerate(starts):
        labels[row, :start] = -100
    return labels


def _labels(mask, fill=-100):
    """The tokens, with a fill where ``mask(place, start)`` says so."""

    def wrong(tokens, starts):
        places = torch.arange(tokens.shape[1])
        hidden = torch.stack([mask(places, start) for start in starts])
        return tokens.clone().masked_fill(hidden, fill)

    return wrong


_TOKENS = torch.arange(1, 25).view(3, 8)

labels_for = Exercise(
    title="Learn the answer, not the question",
    reference=labels_for,
    cases=[(_TOKENS, [3, 5, 1]), (_TOKENS, [0, 8, 4]), (_TOKENS[:1], [2])],
    hints=[
        "Each row has a start of its own. What stands before it is not to be learned.",
        "Copy the tokens with clone(), then write −100 into the beginning of each row: labels[row, :start] = -100.",
        "for row, start in enumerate(starts): labels[row, :start] = -100",
    ],
    misconceptions=[
        (lambda tokens, starts: tokens.clone(), "Nothing is masked: the question would be learned, too."),
        (
            _labels(lambda places, start: places >= start),
            "It is the other way round: what stands before start is masked, the answer is learned.",
        ),
        (_labels(lambda places, start: places < start, fill=0), "0 is a token. What is left out of the loss is −100."),
        (_labels(lambda places, start: places < start, fill=-1), "The loss leaves out −100, not −1."),
        (
            _labels(lambda places, start: places <= start),
            "The answer's first token stands at start, and is to be learned.",
        ),
        (
            _labels(lambda places, start: places < start - 1),
            "One token too few is masked. The model shifts by one itself; the labels stand where the tokens stand.",
        ),
        (
            lambda tokens, starts: labels_for.reference(tokens, starts).roll(-1, dims=1),
            "The labels are not shifted: a model of transformers shifts by one itself.",
        ),
        (
            lambda tokens, starts: labels_for.reference(tokens, [starts[0]] * len(starts)),
            "Each row has a start of its own.",
        ),
        (
            lambda tokens, starts: labels_for.reference(tokens, starts).float(),
            "Labels are whole numbers, of the type of the tokens.",
        ),
    ],
    praise="Padding at a row's end is masked in the same way.",
)
