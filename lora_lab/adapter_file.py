"""Adapters on disk, in PEFT's format: A and B in ``adapter_model.safetensors``, the rest in ``adapter_config.json``.

This is the one place that knows PEFT's orientation: it stores A as (rank, in) and B as (out, rank), and we keep A as
(in, rank) and B as (rank, out).
"""

import json
import os
import re
from collections import Counter
from pathlib import Path

import safetensors.torch
import torch

from .adapt import wrap_layers
from .checks import SCALINGS
from .find import is_called, linear_layers, lora_layers, nearest

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

# What this reader understands of PEFT's options.
HONOURED = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules"}
HONOURED |= {"rank_pattern", "alpha_pattern"}
# Options that tell of the file's past or of training, and leave what it computes alone. fan_in_fan_out is among them
# because the kind of layer decides: PEFT, too, corrects a file that contradicts the layer.
WITHOUT_EFFECT = {"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_dropout"}
WITHOUT_EFFECT |= {"megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"}
# Options that are off at these values; any other is off at null, false, [] or {}. The ways of initialising that are
# named here leave the pretrained weights alone, others (PiSSA, OLoRA, …) change them when the file is loaded.
OFF = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}


class AdapterFileError(ValueError):
    """An adapter file that can't be read as what it claims to be, or does not fit the model."""


def save_adapter(model, folder):
    """Write a model's adapter into a folder as PEFT would, A as (rank, in) and B as (out, rank); return the folder.

    ``PeftModel.from_pretrained(base, folder)`` reads it. The strength dial is not part of an adapter and is not saved.
    """
    layers = lora_layers(model)
    if "" in layers:
        raise ValueError("PEFT's format names layers inside a model, but this model is itself the adapted layer")
    tensors = {}
    for name, layer in layers.items():
        for half, parameter in (("A", layer.lora.A), ("B", layer.lora.B)):
            if not parameter.isfinite().all():
                raise ValueError(f"{name}.{half} contains NaN or infinity, so nothing was saved; train at a lower lr")
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = parameter.detach().T.contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    _replace(folder / CONFIG_FILE, json.dumps(_describe(model, layers), indent=2, sort_keys=True).encode())
    return folder


def load_adapter(model, folder):
    """Put an adapter that ``save_adapter`` or PEFT wrote into a model; return the names of the layers it adapts.

    The model is frozen and ends up with this adapter alone, ready to use or to train on. All or nothing: if the files
    are damaged, don't fit the model or ask for what is not honoured here, AdapterFileError says so and the model is
    as it was.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    halves = _read_halves(folder / WEIGHTS_FILE)
    try:
        names = _check_names(config, {name for name, _ in halves}, linear_layers(model))
        settings = {name: _settings(config, name) for name in names}
        wrap_layers(model, settings, {f"{name}.{half}": tensor.T for (name, half), tensor in halves.items()})
    except (ValueError, TypeError, re.error) as error:
        raise AdapterFileError(f"{folder}: {error}") from error
    return names


def _describe(model, layers):
    """The configuration that makes PEFT compute what these layers compute."""
    loras = {name: layer.lora for name, layer in layers.items()}
    rslora = all(lora.scaling == "alpha/sqrt(r)" for lora in loras.values())
    ranks = {name: lora.rank for name, lora in loras.items()}
    alphas = {name: _tidy(lora.alpha if rslora else _plain_alpha(lora)) for name, lora in loras.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": {_exactly(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {_exactly(name): value for name, value in alphas.items() if value != alpha},
        "target_modules": _targets(list(layers), linear_layers(model)),
        "fan_in_fan_out": any(not isinstance(layer.linear, torch.nn.Linear) for layer in layers.values()),
        "base_model_name_or_path": getattr(getattr(model, "config", None), "name_or_path", None) or None,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _plain_alpha(lora):
    """The alpha that gives the same scale under alpha/r."""
    return lora.alpha if lora.scaling == "alpha/r" else SCALINGS[lora.scaling](lora.alpha, lora.rank) * lora.rank


def _tidy(number):
    return int(number) if number == int(number) else number


def _exactly(name):
    """A pattern for this name alone: PEFT takes a bare name for the end of a longer one, too."""
    return f"^{re.escape(name)}"


def _targets(names, layers):
    """The names as a list, or as one regular expression where PEFT would take the list to mean other layers, too."""
    others = set(layers) - set(names)
    ambiguous = any(is_called(other, name) for other in others for name in names)
    return "|".join(map(re.escape, names)) if ambiguous else names


def _replace(path, content):
    """Write a file so that half of it is never seen, and the one before it stays until the new one is whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    os.replace(beside, path)


def _read_config(path):
    """The configuration as a dictionary, refused if it asks for anything that is not honoured here."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFileError(f"{path} does not exist; an adapter is {CONFIG_FILE} beside {WEIGHTS_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterFileError(f"{path} holds a {type(config).__name__}, but an adapter's options are a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterFileError(f"{path}: 'peft_type' is {config.get('peft_type')!r}, but only 'LORA' is read here")
    for key, value in config.items():
        if key not in HONOURED | WITHOUT_EFFECT and not _is_off(key, value):
            raise AdapterFileError(f"{path}: {key!r} is {value!r}, which is not honoured here; load it with PEFT")
    for key in ("r", "lora_alpha", "target_modules"):
        if config.get(key) is None:
            raise AdapterFileError(f"{path}: {key!r} is missing; guessing it could change what the adapter computes")
    for key, kind in (("rank_pattern", dict), ("alpha_pattern", dict), ("use_rslora", bool)):
        if config.get(key) is not None and not isinstance(config[key], kind):
            raise AdapterFileError(f"{path}: {key!r} is {config[key]!r}, not a {kind.__name__}")
    return config


def _is_off(key, value):
    return value in OFF[key] if key in OFF else value is None or value is False or value in ([], {})


def _read_halves(path):
    """The tensors of a weights file by layer and half: ``{("fc1", "A"): (rank, in), ("fc1", "B"): (out, rank)}``."""
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
    halves = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
        if not found:
            raise AdapterFileError(f"{path}: {key!r} is not a key like 'base_model.model.<layer>.lora_A.weight'")
        if tensor.dim() != 2:
            raise AdapterFileError(f"{path}: {key!r} has shape {tuple(tensor.shape)}, but A and B are matrices")
        halves[found.groups()] = tensor
    return halves


def _check_names(config, stored, layers):
    """The adapter's layers in the model's order, if configuration, weights and model agree on which they are."""
    foreign = sorted(stored - set(layers))
    if foreign:
        hint = nearest(foreign[0], layers)
        raise ValueError(f"the weights are for {foreign[0]!r}, which is no linear layer of this model; {hint}")
    targeted = {name for name in layers if _means(config, "target_modules", name)}
    targeted -= {name for name in targeted if _means(config, "exclude_modules", name)}
    if targeted != stored:
        odd = min(targeted ^ stored)
        fault = "target_modules names it, but it has no weights" if odd in targeted else "it is not in target_modules"
        raise ValueError(f"configuration and weights disagree on {odd!r}: {fault}")
    return [name for name in layers if name in stored]


def _means(config, key, name):
    """Whether a list of names, or a regular expression, means this layer by PEFT's rules."""
    patterns = config.get(key) or []
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{key!r} is {patterns!r}, but it is a list of names or one regular expression")
    return any(is_called(name, pattern) for pattern in patterns)


def _settings(config, name):
    """Rank, alpha and scaling of one layer by PEFT's rules: of the patterns, the first that matches counts."""

    def own(option, patterns):
        for pattern, value in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        return config[option]

    scaling = "alpha/sqrt(r)" if config.get("use_rslora") else "alpha/r"
    return {"rank": own("r", "rank_pattern"), "alpha": own("lora_alpha", "alpha_pattern"), "scaling": scaling}
