"""Finding layers: which ones LoRA can go into, which have it, and which ones somebody means by a name."""

import difflib
import re
from collections.abc import Iterable

from .checks import weight_of
from .layer import LinearWithLoRA


def lora_layers(model):
    """The adapted layers by name: ``{"fc1": LinearWithLoRA, …}``. ValueError if there is none."""
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("this model has no LoRA layers; put them in with replace_linear_with_lora(model, rank, alpha)")
    return layers


def adapted_layers(model):
    """As ``lora_layers``, and an empty dictionary if there is none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}


def lora_parameters(model):
    """What LoRA trains in every adapted layer, by ``lora_state``'s names: the parameters themselves."""
    layers = lora_layers(model).items()
    return {joined(name, own): parameter for name, layer in layers for own, parameter in layer.adapter().items()}


def plain_state(model):
    """Parameters and buffers but the adapter's, by the names they have without LoRA: "fc1.weight", adapted or not."""
    layers = adapted_layers(model)
    inside = {joined(name, "linear"): name for name in layers}
    ours = {id(parameter) for layer in layers.values() for parameter in layer.adapter().values()}
    plain = {}
    for full_name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, own = full_name.rpartition(".")
        if id(tensor) not in ours:
            plain[joined(inside.get(owner, owner), own)] = tensor
    return plain


def linear_layers(model):
    """Every layer that LoRA can go into, or has gone into, by name: ``{"fc1": nn.Linear, …}``."""
    layers, wrapped = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, LinearWithLoRA):
            layers[name] = module.linear
            wrapped.add(module.linear)
        elif module not in wrapped and not _why_not(module):
            layers[name] = module
    return layers


def select_layers(model, targets=None, exclude=()):
    """The names of the linear layers that ``targets`` picks and ``exclude`` does not, in the model's order.

    >>> from torch import nn
    >>> model = nn.ModuleDict({name: nn.ModuleDict({"q": nn.Linear(4, 4), "v": nn.Linear(4, 4)}) for name in "ab"})
    >>> select_layers(model, targets="q"), select_layers(model, targets="a.*", exclude="v")
    (['a.q', 'b.q'], ['a.q'])
    """
    if not _why_not(model):
        raise ValueError("the model is itself a linear layer; wrap it with LinearWithLoRA(model, rank, alpha)")
    layers = linear_layers(model)
    if not layers:
        raise ValueError(f"this {type(model).__name__} has no linear layer that LoRA could go into")
    chosen, exclude = set(layers), _each("exclude", exclude)
    if targets is not None:
        targets = _each("targets", targets)
        for pattern in targets:
            _refuse_other_kinds(_called(model, pattern), layers)
        chosen = _matching(model, layers, targets, "target")
    chosen -= _matching(model, layers, exclude, "exclude")
    if not chosen:
        given = (None if names is None else f"[{listed(map(repr, names))}]" for names in (targets, exclude))
        raise ValueError("no layer is left to adapt: targets={} and exclude={} cancel out".format(*given))
    return [name for name in layers if name in chosen]


def is_called(name, short):
    """Whether a module's dotted name is ``short``, or ends in it after a dot: "blocks.0.fc1" is called "fc1"."""
    return name == short or name.endswith("." + short)


def joined(*names):
    """A dotted name of its parts; the model itself is called "", and leaves no dot."""
    return ".".join(filter(None, names))


def nearest(pattern, layers):
    """The end of an error message: the real names nearest to a pattern, or else the first few there are."""
    endings = {".".join(name.split(".")[start:]) for name in layers for start in range(name.count(".") + 1)}
    near = difflib.get_close_matches(str(pattern), sorted(endings), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {listed(layers)}"


def listed(names, limit=5):
    """A few names for a message, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def owners(model):
    """Every name of each parameter, by the parameter's id: a tied weight has several."""
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def refuse_tied(model, layers, harm):
    """ValueError if several modules share the weight of one of the layers, {name: layer}.

    ``harm`` says what it would do, and what can be done about it.
    """
    known = owners(model)
    for name, layer in layers.items():
        places = known.get(id(layer._parameters.get("weight")), [])
        if len(places) > 1:
            raise ValueError(
                f"{name}: its weight is one tensor in several places, {listed(places)} (a tied weight), and {harm}"
            )


def _each(option, patterns):
    """One name or pattern, or several, as a list."""
    several = [patterns] if isinstance(patterns, (str, re.Pattern)) else patterns
    if isinstance(several, Iterable):
        several = list(several)
        if all(isinstance(pattern, (str, re.Pattern)) for pattern in several):
            return several
    raise TypeError(
        f"{option}={patterns!r} is neither the name of a layer, nor a regular expression, nor a list of such"
    )


def _called(model, pattern):
    """The modules of any kind that have the pattern as a name."""
    if not isinstance(pattern, str):
        return {}
    return {name: module for name, module in model.named_modules() if is_called(name, pattern)}


def _matching(model, layers, patterns, role):
    """The names of linear layers that the patterns mean, a name before a regular expression; each must mean one."""
    chosen = set()
    for pattern in patterns:
        hits = set(_called(model, pattern)) & set(layers) or {name for name in layers if _fullmatch(pattern, name)}
        if not hits:
            raise ValueError(f"{role} {pattern!r} matches no linear layer; {nearest(pattern, layers)}")
        chosen |= hits
    return chosen


def _fullmatch(pattern, name):
    try:
        return re.fullmatch(pattern, name)
    except re.error as error:
        raise ValueError(f"{pattern!r} is neither the name of a layer nor a regular expression: {error}") from None


def _why_not(module):
    """Why LoRA can't go into a module, or an empty string if it can."""
    try:
        weight_of(module)
    except TypeError as error:
        return str(error)
    return ""


def _refuse_other_kinds(modules, layers):
    for name, module in modules.items():
        if name not in layers:
            inside = [layer for layer in layers if layer.startswith(name + ".")]
            hint = f"; the linear layers in it are {listed(inside)}" if inside else ""
            raise TypeError(f"{name}: {_why_not(module)}{hint}")
