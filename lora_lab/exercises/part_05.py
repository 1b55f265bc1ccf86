"""The exercises of notebook 05."""

import copy

import torch
from torch import nn

from ..adapt import count_parameters
from ..layer import LinearWithLoRA, LoRALayer
from .engine import Exercise


def adapt(model, rank):
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, LinearWithLoRA(module, rank))


def _wrap_then_freeze(model, rank):
    _wrap_only(model, rank)
    model.requires_grad_(False)


def _wrap_only(model, rank):
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank))
        else:
            _wrap_only(child, rank)


def _top_only(model, rank):
    model.requires_grad_(False)
    _top_only_unfrozen(model, rank)


def _top_only_unfrozen(model, rank):
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank))


def _wrap_a_variable(model, rank):
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module = LinearWithLoRA(module, rank)


def _dotted_setattr(model, rank):
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            setattr(model, name, LinearWithLoRA(module, rank))


def _update_alone(model, rank):
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, LoRALayer(module.in_features, module.out_features, rank))


def _adapt_a_copy(model, rank):
    model = copy.deepcopy(model)
    adapt.reference(model, rank)
    return model


def _norm_only(model, rank):
    _wrap_only(model, rank)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(False)


def _freeze_in_the_loop(model, rank):
    for name, child in list(model.named_children()):
        model.requires_grad_(False)
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank))
        else:
            _freeze_in_the_loop(child, rank)


def _first_only(model, rank):
    model.requires_grad_(False)
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank))
            return
        _first_only(child, rank)


def _always_rank_4(model, rank):
    adapt.reference(model, 4)


def _into_the_wrapped(model, rank):
    model.requires_grad_(False)
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank))
        _into_the_wrapped(getattr(model, name), rank)


def _observe_adapting(answer, rank):
    """What has LoRA now and what learns, in a model with layers inside a layer, a norm and an embedding."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 6))
    model = nn.ModuleDict({"codes": nn.Embedding(7, 6), "block": block, "head": nn.Linear(6, 5)})
    places = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    answer(model, rank)
    layers = {name: model.get_submodule(name) for name in places}
    adapted = {name: layer.lora.rank for name, layer in layers.items() if isinstance(layer, LinearWithLoRA)}
    alone = [name for name, layer in layers.items() if isinstance(layer, LoRALayer)]
    others = [name for name, p in model.named_parameters() if p.requires_grad and ".lora." not in name]
    return {
        "the set of adapted layers, with their ranks,": str(adapted),
        "the list of layers where the update stands alone": str(alone),
        "the list of what else still learns": str(others),
        "the number of trainable parameters": str(count_parameters(model).trainable),
    }


adapt = Exercise(
    title="LoRA into a whole model",
    reference=adapt,
    cases=[(2,), (3,)],
    observe=_observe_adapting,
    hints=[
        "Two jobs, in this order: freeze what is there, then put something new beside it.",
        "The notes' loop reaches every linear layer already. What does it leave out, and where must that stand?",
        "model.requires_grad_(False) first, in a line of its own, and then the loop with setattr(parent, name, LinearWithLoRA(child, rank)).",
    ],
    misconceptions=[
        (
            _wrap_then_freeze,
            "Frozen after wrapping: A and B were frozen with the rest, and nothing is left to train. Freeze first.",
        ),
        (
            _wrap_only,
            "The linear layers are right, but the norm and the embedding still learn. Freeze the whole model first: model.requires_grad_(False).",
        ),
        (
            _top_only,
            "Only the layers on the top floor have LoRA. Those inside block are out of reach: call adapt on children that are no nn.Linear.",
        ),
        (
            _top_only_unfrozen,
            "Two things are missing: the layers inside block have no LoRA, and what has none still learns. Freeze first, and go down into the children.",
        ),
        (
            _wrap_a_variable,
            "Everything is frozen and nothing has LoRA. If you wrote module = LinearWithLoRA(…): that gives a new meaning to a name. The model changes with setattr(parent, name, …).",
        ),
        (
            _dotted_setattr,
            "setattr(model, 'block.0', …) hangs a new module with a dot in its name on the top, and the layer inside block stays. Use model.set_submodule(name, …), or setattr on the layer's own parent.",
        ),
        (
            _update_alone,
            "The update stands where the frozen layer stood, and W is gone. LinearWithLoRA keeps both, side by side.",
        ),
        (
            _adapt_a_copy,
            "The model that was given is as it was. Change model itself, not a copy of it.",
        ),
        (
            _norm_only,
            "The norm is frozen, and what is neither norm nor linear, here an embedding, still learns. Freeze the whole model: model.requires_grad_(False).",
        ),
        (
            _freeze_in_the_loop,
            "Only the last layer learns: requires_grad_(False) stands inside the loop and freezes the A and B that the loop has just made. Once, above the loop.",
        ),
        (_first_only, "Only the first linear layer that was met has LoRA. A return inside the loop ends it."),
        (_always_rank_4, "The rank is 4 whatever was asked for. Use the argument, in the call to itself, too."),
        (
            _into_the_wrapped,
            "The function goes down into what it has just wrapped and freezes A and B, or wraps the frozen layer again. Go down only where the child is no nn.Linear.",
        ),
    ],
    praise="Freeze first, then wrap, floor by floor. replace_linear_with_lora does this, and checks before it touches anything.",
)


def rank_for(shapes, budget):
    return budget // sum(m + n for m, n in shapes)


rank_for = Exercise(
    title="A rank for a budget",
    reference=rank_for,
    cases=[
        ([(64, 256), (256, 256)], 2600),
        ([(64, 256)], 2600),
        ([(256, 10), (10, 10), (4, 4)], 900),
        ([(30, 20)], 140),
        ([(4, 4)], 24),
    ],
    hints=[
        "What does one rank cost, over all the layers together?",
        "A layer of m → n takes m + n numbers for each rank.",
        "budget // sum(m + n for m, n in shapes)",
    ],
    misconceptions=[
        (
            lambda shapes, budget: budget / sum(m + n for m, n in shapes),
            "A rank is a whole number, and the budget is not to be exceeded: round down, with //.",
        ),
        (
            lambda shapes, budget: round(budget / sum(m + n for m, n in shapes)),
            "Rounding to the nearest may go up, and then the budget is exceeded. Use //.",
        ),
        (
            lambda shapes, budget: budget // sum(m * n for m, n in shapes),
            "m · n is the size of the frozen weight. One rank costs m + n.",
        ),
        (
            lambda shapes, budget: budget // (shapes[0][0] + shapes[0][1]),
            "That spends the whole budget on the first layer. The rank is for all of them: add up their costs. If you do, look where the return stands: inside the loop it ends it.",
        ),
        (
            lambda shapes, budget: min(budget // (m + n) for m, n in shapes),
            "That gives every layer the whole budget. They have to share it: add up what one rank costs in all of them.",
        ),
        (
            lambda shapes, budget: budget // sum(m + n for m, n in shapes) + 1,
            "One too many: that rank no longer fits into the budget. In a loop, return the last one that did.",
        ),
        (
            lambda shapes, budget: budget // len(shapes) // (shapes[0][0] + shapes[0][1]),
            "Equal shares of the budget give unequal ranks. One rank for all costs sum(m + n).",
        ),
        (
            lambda shapes, budget: [budget // len(shapes) // (m + n) for m, n in shapes],
            "That is a rank for each layer, from equal shares. Asked for is one rank for all of them.",
        ),
        (
            lambda shapes, budget: sum(m + n for m, n in shapes) // budget,
            "Upside down: how often does the cost of one rank go into the budget?",
        ),
        (
            lambda shapes, budget: budget // sum(m for m, n in shapes),
            "That counts the A matrices alone. Each rank costs n numbers of B as well.",
        ),
        (
            lambda shapes, budget: budget // sum(n for m, n in shapes),
            "That counts the B matrices alone. Each rank costs m numbers of A as well.",
        ),
    ],
    praise="Each rank costs the sum of all sides.",
)
