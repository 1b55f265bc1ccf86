"""LoRA into a model and out again: wrapping layers, merging, switching, and the numbers worth keeping."""

from contextlib import contextmanager
from typing import NamedTuple

import torch

from .checks import check_settings, finite_number, refuse_merging, weight_of
from .find import (
    adapted_layers,
    linear_layers,
    listed,
    lora_layers,
    lora_parameters,
    nearest,
    plain_state,
    refuse_tied,
    select_layers,
)
from .layer import LinearWithLoRA


def replace_linear_with_lora(
    model,
    rank,
    alpha=None,
    targets=None,
    exclude=(),
    scaling="alpha/r",
    dropout=0.0,
    *,
    dtype=None,
    layer=LinearWithLoRA,
):
    """Freeze a model and put LoRA beside its linear layers; return the names of the layers it wrapped.

    ``targets`` says which layers: names ("blocks.0.fc1"), dotted suffixes ("fc1") or regular expressions
    ("blocks.[01].*"), one or several; None means every linear layer. ``exclude`` takes the same and leaves layers out.
    ``dtype`` is the precision of A and B where it is not the layer's own, ``layer`` the kind of LoRA, LinearWithLoRA
    or a subclass. Either every named layer is wrapped or, on an error, the model stays as it was.

    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    >>> replace_linear_with_lora(model, rank=4, alpha=8, exclude="2")
    ['0']
    """
    _refuse_adapted(model)
    names = select_layers(model, targets, exclude)
    settings = {"rank": rank, "alpha": alpha, "scaling": scaling, "dropout": dropout, "dtype": dtype}
    wrap_layers(model, dict.fromkeys(names, settings), layer=layer)
    return names


def wrap_layers(model, settings, state=None, layer=LinearWithLoRA):
    """Freeze a model and wrap the named layers, each with settings of its own: ``{"fc1": {"rank": 4, "alpha": 8}, …}``.

    ``state`` (as ``lora_state`` returns it) gives A (in, rank) and B (rank, out) to start from, and what else that kind
    of layer has. Adapters that the model had before are gone afterwards; on an error, nothing has changed.
    """
    layers = linear_layers(model)
    for name, options in settings.items():
        if name not in layers:
            raise ValueError(f"{name!r} is no linear layer of this model; {nearest(name, layers)}")
        out_features, in_features = weight_of(layers[name]).shape
        try:
            check_settings(in_features, out_features, **options)
        except ValueError as error:
            raise ValueError(
                f"{name}: {error}; or leave this layer out, with exclude=[{name!r}] in replace_linear_with_lora"
            ) from None
    harm = "LoRA would change one of them alone. Leave the layer out, with exclude in replace_linear_with_lora"
    refuse_tied(model, {name: layers[name] for name in settings}, harm)
    wrapped = _wrapped(model, layers, settings, state, layer)
    for name, module in adapted_layers(model).items():
        model.set_submodule(name, module.linear)
    model.requires_grad_(False)
    for name, module in wrapped.items():
        model.set_submodule(name, module)
    if state is not None:
        _copy_state(state, lora_parameters(model))


def remove_lora(model):
    """Take every adapter out and put the plain layers back. What was frozen stays frozen.

    A merged layer leaves its merged weight behind, ready to be saved as a plain model; any other becomes the
    pretrained layer again.
    """
    for name, layer in lora_layers(model).items():
        if not name:
            raise ValueError("the model is itself one adapted layer; its plain layer is model.linear")
        if layer.merged is not None:
            layer.linear.weight = torch.nn.Parameter(layer.weight, requires_grad=False)
        model.set_submodule(name, layer.linear)


def merge_lora(model):
    """Merge every adapter, so that the model runs at the speed of the plain one. Undo with ``unmerge_lora``."""
    layers = lora_layers(model).values()
    for layer in layers:
        refuse_merging(layer.linear)
    for layer in layers:
        layer.merge()


def unmerge_lora(model):
    """Undo ``merge_lora``: the pretrained weights are back bit for bit, the adapters beside them."""
    for layer in lora_layers(model).values():
        layer.unmerge()


@contextmanager
def lora_disabled(model):
    """Within the ``with`` block the model computes as the pretrained model does, merged or not.

    >>> layer = LinearWithLoRA(torch.nn.Linear(64, 10), 4)
    >>> with lora_disabled(layer):
    ...     print(layer.enabled)
    False
    """
    before = {layer: layer.enabled for layer in lora_layers(model).values()}
    try:
        for layer in before:
            layer.enabled = False
        yield model
    finally:
        for layer, enabled in before.items():
            layer.enabled = enabled


def set_strength(model, strength):
    """Turn the dial of every adapter: 0 is the pretrained model, 1 the adapted one, in between and beyond both work.

    The dial is a setting of the running model: it is not saved with the adapter.
    """
    strength = finite_number("strength", strength, "try 0 to 1.5")
    for layer in lora_layers(model).values():
        layer.lora.strength = strength
        _refresh(layer)


def lora_state(model):
    """A copy of all that training changed: ``{"fc1.A": (in, rank), "fc1.B": (rank, out), …}``.

    >>> {name: tuple(value.shape) for name, value in lora_state(LinearWithLoRA(torch.nn.Linear(64, 10), 4)).items()}
    {'A': (64, 4), 'B': (4, 10)}
    """
    return {key: value.detach().clone() for key, value in lora_parameters(model).items()}


def load_lora_state(model, state):
    """Copy A (in, rank) and B (rank, out) of every layer from ``lora_state``'s dictionary into the model, all or none.

    A merged model stays merged, now with the new update.
    """
    live = lora_parameters(model)
    _check_state(state, {key: tuple(parameter.shape) for key, parameter in live.items()})
    _copy_state(state, live)
    for layer in lora_layers(model).values():
        _refresh(layer)


class ParameterCount(NamedTuple):
    """How many numbers a model has, and how many of them training may change. Prints as PEFT prints it."""

    trainable: int
    total: int

    def __str__(self):
        share = 100 * self.trainable / max(self.total, 1)
        return f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {share:.4f}"


def count_parameters(model):
    """A model's trainable and total parameters, a tied weight counted once.

    >>> print(count_parameters(LinearWithLoRA(torch.nn.Linear(64, 10), rank=4)))
    trainable params: 296 || all params: 946 || trainable%: 31.2896
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return ParameterCount(sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes))


def model_parts(model):
    """A model's parameters by what they are: ``{"adapter": {name: parameter, …}, "head": {…}, "base": {…}}``.

    The adapter is LoRA's own, the head whatever else learns (a new last layer, biases), the base what is frozen.

    >>> {part: list(own) for part, own in model_parts(LinearWithLoRA(torch.nn.Linear(64, 10), 4)).items()}
    {'adapter': ['A', 'B'], 'head': [], 'base': ['weight', 'bias']}
    """
    plain = {name: tensor for name, tensor in plain_state(model).items() if isinstance(tensor, torch.nn.Parameter)}
    return {
        "adapter": lora_parameters(model) if adapted_layers(model) else {},
        "head": {name: parameter for name, parameter in plain.items() if parameter.requires_grad},
        "base": {name: parameter for name, parameter in plain.items() if not parameter.requires_grad},
    }


def _refuse_adapted(model):
    adapted = adapted_layers(model)
    if adapted:
        raise ValueError(
            f"this model already has LoRA in {len(adapted)} layers ({listed(adapted)}); "
            "take it out with remove_lora(model) first, or load other values with load_lora_state"
        )


def _wrapped(model, layers, settings, state, kind):
    """The named layers, each in a new wrapper that the state fits; on an error the model learns what it did before."""
    learned, wrapped = [parameter for parameter in model.parameters() if parameter.requires_grad], {}
    try:
        for name, options in settings.items():
            try:
                wrapped[name] = kind(layers[name], **options)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if state is not None:
            parts = [(name, own, part) for name in wrapped for own, part in wrapped[name].adapter().items()]
            _check_state(state, {f"{name}.{own}": tuple(part.shape) for name, own, part in parts})
    except Exception:
        for parameter in learned:
            parameter.requires_grad_(True)
        raise
    return wrapped


def _check_state(state, shapes):
    """ValueError unless a state dictionary has exactly these keys and shapes, with finite numbers."""
    missing, unknown = [key for key in shapes if key not in state], [key for key in state if key not in shapes]
    if missing or unknown:
        raise ValueError(
            f"the adapter does not fit this model: it lacks {listed(missing) or 'nothing'} "
            f"and has {listed(unknown) or 'nothing'} beyond what the model asks for"
        )
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"{key} is of type {kind}, but A and B are tensors of floating-point numbers")
        if tuple(value.shape) != shapes[key]:
            raise ValueError(f"{key} has shape {tuple(value.shape)}, but this model and rank need {shapes[key]}")
        if not value.isfinite().all():
            raise ValueError(f"{key} contains NaN or infinity; was it saved after a training that diverged?")


def _copy_state(state, live):
    with torch.no_grad():
        for key, value in state.items():
            live[key].copy_(value)


def _refresh(layer):
    """Merge anew what is merged: its update has changed."""
    if layer.merged is not None:
        layer.merge()
