"""A check-up for an adapter's file: is anything in it, does it fit together, and is it what a model computes with?"""

from pathlib import Path

import torch

from .adapter_file import CONFIG_FILE, read_tensors
from .checks import SCALINGS
from .find import listed
from .peft_config import AdapterFileError, PeftConfig
from .peft_view import PeftLayer
from .variants import LinearWithPiSSA


def file_problems(folder, layers=None):
    """What is wrong with an adapter of PEFT's format, a sentence each; nothing if it is sound.

    Sound is a file with an A (rank, in) and a B (out, rank) for every layer that it names, of the rank that its
    configuration says, finite, and with a B that is not zero throughout. With ``layers``, those of a model by name, it
    also has to hold the A and B of these, and to mean the same scale.
    """
    folder = Path(folder)
    try:
        config = PeftConfig.read(folder / CONFIG_FILE)
        parts, _ = read_tensors(folder)
        names = sorted({name for name, _ in parts})
        return [*_by_itself(config, parts, names), *_beside(config, parts, names, layers or {})]
    except AdapterFileError as error:
        return [str(error)]


def _by_itself(config, parts, names):
    """The three checks of an empty adapter: are the keys there, have they the shapes, is B anything but zero?"""
    if not parts:
        yield "the file has no A and no B: nothing was saved, as when each process holds a part and none the whole"
    for half in ("A", "B"):
        lacking = [name for name in names if (name, half) not in parts]
        if lacking:
            yield f"the file has no {half} for {listed(lacking)}"
    unnamed = [name for name in names if not config.adapts(name)]
    if unnamed:
        yield f"the file has weights for {listed(unnamed)}, which its configuration does not name"
    rank_of = {"A": 0, "B": 1}
    for (name, half), tensor in sorted(parts.items(), key=lambda part: part[0]):
        rank = config.settings(name)["rank"]
        if half in rank_of and (not tensor.numel() or tensor.shape[rank_of[half]] != rank):
            yield f"{half} of {name} has shape {tuple(tensor.shape)}, and the configuration says rank {rank}"
        elif not tensor.isfinite().all():
            yield f"{half} of {name} contains NaN or infinity"
    zero = [name for name in names if (name, "B") in parts and not parts[name, "B"].any()]
    if zero:
        yield (
            f"B of {listed(zero)} is zero, so the file changes nothing there: saved before training, or from weights "
            "that were not gathered?"
        )


def _beside(config, parts, names, layers):
    """What is in the file and not in the model, or in both and not the same."""
    if not layers:
        return
    try:
        layers = {name: _as_in_a_file(layer) for name, layer in layers.items()}
    except ValueError as error:  # PiSSA's doubled rank may not fit
        yield f"as the plain LoRA that a file holds, the model's would not fit: {error}"
        return
    strange, lacking = [name for name in names if name not in layers], [name for name in layers if name not in names]
    if strange:
        yield f"the file is for {listed(strange)}, where the model has no LoRA"
    if lacking:
        yield f"the file has nothing for {listed(lacking)}, where the model has LoRA"
    for half in ("A", "B"):
        other = [name for name in names if name in layers and not _same(parts.get((name, half)), layers[name], half)]
        if other:
            yield f"{half} of {listed(other)} is not the file's: not loaded, the wrong way round, or trained on since"
    factors = {}
    for name in set(names) & set(layers):
        own = config.settings(name)
        meant = SCALINGS[own["scaling"]](own["alpha"], own["rank"])
        if abs(layers[name].lora.scale / meant - 1) > 1e-6:
            factors.setdefault(f"{layers[name].lora.scale / meant:.3g}", []).append(name)
    for factor, where in factors.items():
        yield f"the scale of {listed(sorted(where))} is {factor} times what the file means, and so is ΔW"


def _as_in_a_file(layer):
    return layer.as_lora() if isinstance(layer, LinearWithPiSSA) else layer


def _same(stored, layer, half):
    """Whether the model's half is the file's, to the precision of the coarser of the two."""
    if stored is None:
        return True  # said already
    live = layer.adapter()[half].detach()
    live = live if isinstance(layer, PeftLayer) else live.T
    coarser = min(stored.dtype, live.dtype, key=lambda dtype: dtype.itemsize)
    return live.shape == stored.shape and torch.equal(live.to(coarser), stored.to(live.device, coarser))
