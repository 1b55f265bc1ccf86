"""Several adapters made into one, by what each adds to the weights: as a sum, cut to a lower rank, by TIES, by DARE.

An update here is a matrix ΔW, (in, out), as ``LoRALayer.delta()`` gives it. What comes out is one of the same shape;
only a sum, and what ``low_rank_approximation`` makes of any, is of low rank again.
"""

import copy

import torch

from .checks import finite_number, positive_number, refuse_merging, weight_of
from .find import adapted_layers, linear_layers, listed, lora_layers, refuse_tied
from .layer import LinearWithLoRA


def updates_of(model):
    """What an adapted model adds to its weights: ``{"fc1": ΔW (in, out), …}``. For PiSSA and DoRA, too."""
    updates = {}
    for name, layer in lora_layers(model).items():
        plain = type(layer) is LinearWithLoRA
        delta = layer.lora.delta() if plain else (layer.total_weight() - weight_of(layer.linear)).T
        updates[name] = delta.detach()
    return updates


def with_updates(model, updates, strength=1.0):
    """A copy of a plain model whose weights have these updates, {name: (in, out)}, added to them."""
    if adapted_layers(model):
        raise ValueError("this model has an adapter already; take it out with remove_lora(model) first")
    strength, moved = finite_number("strength", strength, "try 1"), copy.deepcopy(model)
    layers = linear_layers(moved)
    strange = [name for name in updates if name not in layers]
    if strange:
        raise ValueError(f"the updates are for {listed(strange)}, which this model does not have")
    refuse_tied(
        moved, {name: layers[name] for name in updates}, "the update would change all of them; leave its update out"
    )
    for name, delta in updates.items():
        refuse_merging(layers[name])
        if delta.T.shape != weight_of(layers[name]).shape:
            wanted = tuple(weight_of(layers[name]).T.shape)
            raise ValueError(f"the update of {name} is {tuple(delta.shape)}, and the layer takes {wanted}")
    with torch.no_grad():
        for name, delta in updates.items():
            weight_of(layers[name]).add_(strength * delta.T)
    return moved


def each_layer(combine, *all_updates, **options):
    """``combine`` of the updates of every layer: the layers' names and what comes out, {name: (in, out)}."""
    names = dict.fromkeys(name for updates in all_updates for name in updates)
    return {name: combine([updates[name] for updates in all_updates if name in updates], **options) for name in names}


def added(deltas):
    """The sum of updates (in, out): each adds what it would add alone."""
    return _together(deltas).sum(0)


def trimmed(delta, keep):
    """An update (in, out) with its largest numbers alone, a share ``keep`` of them; all others are zero."""
    count = max(1, round(_share("keep", keep) * delta.numel()))
    kept = delta.flatten().abs().topk(count).indices
    thin = torch.zeros_like(delta).flatten()
    thin[kept] = delta.flatten()[kept]
    return thin.view_as(delta)


def ties(deltas, keep=0.2):
    """Updates (in, out) by TIES: trimmed, then at each place the mean of those that have the sign of their sum.

    (Yadav and others 2023, arXiv:2306.01708.) So that the result is as large as one of them, and not as their sum.
    """
    thin = torch.stack([trimmed(delta, keep) for delta in _together(deltas)])
    elected = thin.sum(0).sign()
    agree = (thin.sign() == elected) & (thin != 0)
    return (thin * agree).sum(0) / agree.sum(0).clamp(min=1)


def dare(delta, drop=0.9, seed=0):
    """An update (in, out) by DARE: a share ``drop`` of its numbers, drawn by lot, is zero, and the others are larger.

    Divided by 1 − drop, they add the same on average (Yu and others 2023, arXiv:2311.03099).
    """
    keep = 1 - _share("drop", drop, below=1)
    drawn = torch.rand(delta.shape, generator=torch.Generator().manual_seed(seed)).to(delta.device)
    return torch.where(drawn < keep, delta / keep, 0.0)


def _together(deltas):
    """Updates (in, out) as one tensor, (updates, in, out)."""
    deltas = list(deltas)
    if not deltas:
        raise ValueError("there is no update to combine; updates_of(model) gives those of an adapted model")
    if len({delta.shape for delta in deltas}) > 1:
        shapes = ", ".join(str(tuple(delta.shape)) for delta in deltas)
        raise ValueError(f"updates of different layers can't be combined: {shapes}; each_layer does it layer by layer")
    return torch.stack(deltas)


def _share(name, value, below=None):
    value = finite_number(name, value, "try 0.2") if below else positive_number(name, value, "try 0.2")
    if not 0 <= value <= 1 or value == below:
        limit = "from 0 up to, not including, 1" if below else "above 0 and at most 1"
        raise ValueError(f"{name}={value!r} is not a share {limit}; try 0.2")
    return value
