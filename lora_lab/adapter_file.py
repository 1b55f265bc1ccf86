"""Adapters on disk, in PEFT's format: ``adapter_model.safetensors`` with the numbers, ``adapter_config.json`` with the rest.

This is the one place that knows PEFT's orientation: it stores A as (rank, in) and B as (out, rank), we keep A as
(in, rank) and B as (rank, out).
"""

import json
import os
import re
from collections import Counter
from pathlib import Path

import safetensors.torch
import torch

from .adapt import is_called, linear_layers, lora_layers, nearest, wrap_layers
from .layer import SCALINGS

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

# Options of PEFT's that this reader understands.
HONOURED = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
}  # fmt: skip
# Options that tell of the past or of training and leave what the file computes alone. fan_in_fan_out is among them
# because the kind of layer decides it: PEFT itself corrects a file that contradicts the layer.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
# Options that are off at these values. Every other option is off at null, false, [] or {}.
OFF = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}


class AdapterFileError(ValueError):
    """An adapter file that can't be read as what it claims to be, or does not fit the model."""


def save_adapter(model, folder):
    """Write a model's adapter into a folder, as PEFT would: A as (rank, in), B as (out, rank). Returns the folder.

    ``PeftModel.from_pretrained(base, folder)`` reads it. The strength dial is not part of an adapter and is not saved.
    """
    layers = lora_layers(model)
    if "" in layers:
        raise ValueError("PEFT's format names layers inside a model, but this model is itself the adapted layer")
    tensors = {}
    for name, layer in layers.items():
        for half, parameter in (("A", layer.lora.A), ("B", layer.lora.B)):
            if not parameter.isfinite().all():
                raise ValueError(
                    f"{name}.{half} contains NaN or infinity, so nothing was saved; train again, more slowly"
                )
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = parameter.detach().T.contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(_describe(model, layers), indent=2, sort_keys=True)
    _replace(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    _replace(folder / CONFIG_FILE, config.encode())
    return folder


def load_adapter(model, folder):
    """Put the adapter in a folder, written by ``save_adapter`` or by PEFT, into a model; return the names of its layers.

    The model is frozen and ends up with this adapter alone, ready to use or to train on. All or nothing: if the files
    are damaged, don't fit the model or ask for what is not honoured here, AdapterFileError says so and the model is
    as it was.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    halves = _read_halves(folder / WEIGHTS_FILE)
    layers = linear_layers(model)
    try:
        names = _check_names(config, {name for name, _ in halves}, layers)
        settings = {name: _settings(config, name) for name in names}
        wrap_layers(model, settings, {f"{name}.{half}": tensor.T for (name, half), tensor in halves.items()})
    except (ValueError, TypeError) as error:
        raise AdapterFileError(f"{folder}: {error}") from error
    return names


def _describe(model, layers):
    """The configuration that makes PEFT compute what these layers compute."""
    loras = {name: layer.lora for name, layer in layers.items()}
    rslora = all(lora.scaling == "alpha/sqrt(r)" for lora in loras.values())
    alphas = {name: lora.alpha if rslora else _plain_alpha(lora) for name, lora in loras.items()}
    ranks = {name: lora.rank for name, lora in loras.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _tidy(alpha),
        "use_rslora": rslora,
        "rank_pattern": {_exactly(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {_exactly(name): _tidy(a) for name, a in alphas.items() if a != alpha},
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


def _tidy(alpha):
    return int(alpha) if alpha == int(alpha) else alpha


def _exactly(name):
    """A pattern for this name alone: PEFT lets a bare name also stand for the end of a longer one."""
    return f"^{re.escape(name)}"


def _targets(names, layers):
    """The names as a list, or as one regular expression where PEFT would read the list as naming other layers too."""
    others = set(layers) - set(names)
    if any(is_called(other, name) for other in others for name in names):
        return "|".join(map(re.escape, names))
    return names


def _replace(path, content):
    """Write a file so that there is never half of it, also where one stood before."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    os.replace(beside, path)


def _read_config(path):
    """The configuration as a dictionary of options that are all honoured here, its numbers checked."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFileError(
            f"{path} does not exist; an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterFileError(f'{path}: peft_type is {kind!r}, but only "LORA" can be read here')
    for key, value in config.items():
        off = value in OFF[key] if key in OFF else value is None or value is False or value in ([], {})
        if key not in HONOURED | WITHOUT_EFFECT and not off:
            raise AdapterFileError(
                f"{path}: option {key!r} is {value!r}, which is not honoured here; load it with PEFT"
            )
    for key in ("r", "lora_alpha", "target_modules"):
        if config.get(key) is None:
            raise AdapterFileError(
                f"{path}: {key!r} is missing, and guessing it would change what the adapter computes"
            )
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise AdapterFileError(f"{path}: {key!r} is {config[key]!r}, but it maps names to numbers")
    if not isinstance(config.get("use_rslora") or False, bool):
        raise AdapterFileError(f"{path}: 'use_rslora' is {config['use_rslora']!r}, but it is true or false")
    return config


def _read_halves(path):
    """The tensors of a weights file by layer and half: ``{("fc1", "A"): (rank, in), ("fc1", "B"): (out, rank)}``."""
    if not path.exists() and path.with_name("adapter_model.bin").exists():
        raise AdapterFileError(
            f"{path.parent} has its weights in adapter_model.bin, a pickle, which can run code when it is opened; "
            "open it in PEFT if you trust it and save it again, and it becomes safetensors"
        )
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFileError(f"{path} does not exist; is the download complete?") from None
    except Exception as error:  # the reader has an exception type of its own, and raises others on strange headers
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
    """The layers that the file is for, in the model's order, if configuration, weights and model agree on them."""
    foreign = sorted(stored - set(layers))
    if foreign:
        raise ValueError(
            f"the file has weights for {foreign[0]!r}, which is no linear layer of this model; {nearest(foreign[0], layers)}"
        )
    targeted = {
        name
        for name in layers
        if _means(config, "target_modules", name) and not _means(config, "exclude_modules", name)
    }
    if targeted != stored:
        odd = sorted(targeted ^ stored)
        where = (
            "target_modules names it and the weights are missing"
            if odd[0] in targeted
            else "target_modules leaves it out"
        )
        raise ValueError(f"configuration and weights disagree on {len(odd)} layers, first {odd[0]!r}: {where}")
    return [name for name in layers if name in stored]


def _means(config, key, name):
    """Whether a list of names, or a regular expression, means this layer, by PEFT's rules."""
    patterns = config.get(key) or []
    if isinstance(patterns, str):
        return bool(_regex(re.fullmatch, patterns, name))
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{key!r} is {patterns!r}, but it is a list of names or one regular expression")
    return any(is_called(name, pattern) for pattern in patterns)


def _settings(config, name):
    """Rank, alpha and scaling of one layer, patterns applied by PEFT's rules: the first that matches counts."""
    found = {}
    for key, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        items = (config.get(patterns) or {}).items()
        found[key] = next((value for p, value in items if _regex(re.match, rf"(.*\.)?({p})$", name)), config[key])
    scaling = "alpha/sqrt(r)" if config.get("use_rslora") else "alpha/r"
    return {"rank": found["r"], "alpha": found["lora_alpha"], "scaling": scaling}


def _regex(match, pattern, name):
    try:
        return match(pattern, name)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
