"""Adapters on disk, in PEFT's format: A and B in ``adapter_model.safetensors``, the rest in ``adapter_config.json``.

This is the one place that knows PEFT's orientation: it stores A as (rank, in) and B as (out, rank), and we keep A as
(in, rank) and B as (rank, out). DoRA's magnitudes have a place there, and PiSSA is kept as the plain LoRA that it comes
to. Whatever else was trained goes into the same file, as PEFT does it: whole modules beside the adapter
(``modules_to_save``) and biases (``bias``).
"""

import json
import re
from pathlib import Path

import safetensors.torch
import torch

from .adapt import model_parts, wrap_layers
from .disk import replacing
from .find import joined, linear_layers, listed, lora_layers, nearest, owners, plain_state
from .layer import LinearWithLoRA
from .peft_config import AdapterFileError, PeftConfig
from .variants import LinearWithDoRA, LinearWithPiSSA

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
# Our names for what is in an adapter, and PEFT's.
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def save_adapter(model, folder):
    """Write all that a model has learned into a folder as PEFT would; return the folder.

    A goes in as (rank, in) and B as (out, rank), and beside them what else was trained: a new head, biases.
    ``PeftModel.from_pretrained(base, folder)`` reads it. What the format has no place for is refused by name, before
    anything is written. The strength dial is not part of an adapter and is not saved.
    """
    layers = lora_layers(model)
    if "" in layers:
        raise ValueError("PEFT's format names layers inside a model, but this model is itself the adapted layer")
    layers = {name: _portable(name, layer) for name, layer in layers.items()}
    modules, bias, beside = _beside_the_adapter(model, layers)
    tensors = {f"{name}.{PARTS[part]}": _turned(tensor) for name, part, tensor in _parts(layers)}
    tensors |= {_peft_name(name, layers): tensor for name, tensor in beside.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            layer, part = _layer_and_part(name) or (name, None)
            raise ValueError(
                f"{joined(layer, part)} contains NaN or infinity, so nothing was saved; train at a lower lr"
            )
    content = {PREFIX + name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    options = PeftConfig.describing(model, layers).options | {"bias": bias}
    options |= {"modules_to_save": modules} if modules else {}
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE, folder / CONFIG_FILE) as (weights, configuration):
        weights.write_bytes(safetensors.torch.save(content, metadata={"format": "pt"}))
        configuration.write_text(json.dumps(options, indent=2, sort_keys=True), encoding="utf-8")
    return folder


def load_adapter(model, folder, dtype=None):
    """Put an adapter that ``save_adapter`` or PEFT wrote into a model; return the names of the layers it adapts.

    The model is frozen and ends up with this adapter alone, ready to use or to train on; A and B are in ``dtype``, or
    else in each layer's own precision. A head or biases that came with it replace the model's own, and learn on, too.
    All or nothing: if the files are damaged, don't fit the model or ask for what is not honoured here,
    AdapterFileError says so and the model is as it was.
    """
    folder = Path(folder).expanduser()
    config = PeftConfig.read(folder / CONFIG_FILE)
    parts, beside = read_tensors(folder)
    try:
        names = _check_names(config, {name for name, _ in parts}, linear_layers(model))
        _check_beside(config, names, beside, model)
        settings = {name: config.settings(name) | {"dtype": dtype} for name in names}
        kind = LinearWithDoRA if config.options.get("use_dora") else LinearWithLoRA
        wrap_layers(model, settings, {joined(*place): _turned(tensor) for place, tensor in parts.items()}, kind)
    except (ValueError, TypeError, re.error) as error:
        raise AdapterFileError(f"{folder}: {error}") from error
    live = plain_state(model)
    with torch.no_grad():
        for name, tensor in beside.items():
            live[name].copy_(tensor)
            if isinstance(live[name], torch.nn.Parameter):
                live[name].requires_grad_(True)
    return names


def _portable(name, layer):
    """The layer in a form that PEFT's format has: PiSSA as plain LoRA."""
    try:
        return layer.as_lora() if isinstance(layer, LinearWithPiSSA) else layer
    except ValueError as error:
        raise ValueError(f"{name}: {error}; nothing was saved") from None


def _parts(layers):
    """Every A and B, and what else PEFT knows, with its layer's name: ("fc1", "A", tensor), …"""
    for name, layer in layers.items():
        for part, parameter in layer.adapter().items():
            if part not in PARTS:
                kind = type(layer).__name__
                raise ValueError(f"{name} is a {kind}, and PEFT's LoRA has no place for its {part!r}; not saved")
            yield name, part, parameter


def _turned(tensor):
    """A matrix from our orientation to PEFT's, or back; a vector has none."""
    return tensor.T if tensor.dim() == 2 else tensor


def _layer_and_part(name):
    """Of one of PEFT's names the layer and our name of the part: ("fc1", "A"), or None if it is no part of LoRA."""
    for own, theirs in PARTS.items():
        if name.endswith("." + theirs):
            return name.removesuffix("." + theirs), own
    return None


def _beside_the_adapter(model, layers):
    """What else was trained: modules to save whole, PEFT's word for the biases, the tensors by their plain names."""
    trained = set(model_parts(model)["head"])
    state = plain_state(model)
    biases = {name for name in state if name.rpartition(".")[2] == "bias"}
    own_biases = {joined(name, "bias") for name in layers} & biases
    if trained and trained == biases:
        return [], "all", {name: state[name] for name in sorted(biases)}
    bias = "lora_only" if trained & own_biases else "none"
    modules = sorted({name.rpartition(".")[0] for name in trained - own_biases})
    lost = [
        f"{module or 'the model itself'} ({why})" for module in modules if (why := _why_lost(model, layers, module))
    ]
    if lost:
        raise ValueError(f"PEFT's format has no place for all that was trained, so nothing was saved: {listed(lost)}")
    carried = PeftConfig({"modules_to_save": modules, "bias": bias}).beside(state, layers)
    return modules, bias, {name: state[name] for name in state if name in carried}


def _why_lost(model, layers, module):
    """Why a module with trained parameters can't be saved whole beside the adapter, or an empty string if it can."""
    if not module:
        return "its parameters lie in no module of their own"
    if module in layers:
        return "it is adapted, and its own weight was trained as well"
    inside = [name for name in layers if name.startswith(module + ".")]
    if inside:
        return f"{inside[0]}, inside it, is adapted"
    alike = [name for name, _ in model.named_modules() if name != module and name.endswith(module)]
    if alike:
        return f"PEFT would take its name to mean {alike[0]}, too"
    known = owners(model)
    shared = [names for p in model.get_submodule(module).parameters() if len(names := known[id(p)]) > 1]
    return f"its weight is one tensor in several places, {listed(shared[0])}" if shared else ""


def _peft_name(name, layers):
    """A plain name as PEFT has it, where an adapted layer's bias lies in its ``base_layer``."""
    owner, _, own = name.rpartition(".")
    return f"{owner}.base_layer.{own}" if owner in layers else name


def read_tensors(folder):
    """The tensors of an adapter: LoRA's, ``{("fc1", "A"): (rank, in), …}``, and others by their plain names."""
    path = Path(folder) / WEIGHTS_FILE
    if not path.exists() and path.with_name("adapter_model.bin").exists():
        raise AdapterFileError(
            f"{path.parent} has its weights in adapter_model.bin, a pickle, which can run code when it is opened; "
            "if you trust it, load it with PEFT and save it again: it becomes safetensors"
        )
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFileError(f"{path} does not exist; is the download complete?") from None
    except Exception as error:  # the reader has a type of its own for damage, and others for strange headers
        raise AdapterFileError(f"{path} is damaged or is not a safetensors file: {error}") from None
    parts, beside = {}, {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if name == key or not name:
            raise AdapterFileError(f"{path}: {key!r} is not a key like '{PREFIX}<layer>.lora_A.weight'")
        # With bias="all" PEFT writes the biases of a module that it saves again, under its own wrapper's names.
        if ".original_module." in name or ".modules_to_save." in name:
            continue
        if not (place := _layer_and_part(name)):
            beside[re.sub(r"\.base_layer\.(?=bias$)", ".", name)] = tensor
        elif tensor.dim() != 2 and place[1] in ("A", "B"):
            raise AdapterFileError(f"{path}: {key!r} has shape {tuple(tensor.shape)}, but A and B are matrices")
        else:
            parts[place] = tensor
    return parts, beside


def _check_names(config, stored, layers):
    """The adapter's layers in the model's order, if configuration, weights and model agree on which they are."""
    foreign = sorted(stored - set(layers))
    if foreign:
        hint = nearest(foreign[0], layers)
        raise ValueError(f"the weights are for {foreign[0]!r}, which is no linear layer of this model; {hint}")
    targeted = {name for name in layers if config.adapts(name)}
    if targeted != stored:
        odd = min(targeted ^ stored)
        fault = "target_modules names it, but it has no weights" if odd in targeted else "it is not in target_modules"
        raise ValueError(f"configuration and weights disagree on {odd!r}: {fault}")
    return [name for name in layers if name in stored]


def _check_beside(config, adapted, stored, model):
    """ValueError unless what comes beside the adapter is what the configuration names, and fits the model."""
    state, known = plain_state(model), owners(model)
    wanted = config.beside(state, adapted)
    if wanted != set(stored):
        lacking, strange = sorted(wanted - set(stored)), sorted(set(stored) - wanted)
        raise ValueError(
            f"configuration, weights and model disagree on what comes beside the adapter: the file lacks "
            f"{listed(lacking) or 'nothing'} and has {listed(strange) or 'nothing'} that nobody asks for"
        )
    for name, tensor in stored.items():
        live = state[name]
        if tensor.shape != live.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but this model needs {tuple(live.shape)}")
        if tensor.is_floating_point() != live.is_floating_point():
            raise ValueError(f"{name} is of type {tensor.dtype}, but this model needs {live.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity; was it saved after a training that diverged?")
        if len(known.get(id(live), [])) > 1:
            raise ValueError(
                f"{name} is one tensor in several places, {listed(known[id(live)])}; it can't change alone"
            )
