"""Many adapters beside one model, and a batch in which every row wants another one: a gather and two small products.

Nothing is merged and nothing is swapped. W is multiplied once for the whole batch, as if there were no adapters.
"""

import copy
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from .adapter_file import CONFIG_FILE, AdapterFileError, load_adapter
from .checks import weight_of
from .find import adapted_layers, linear_layers, listed, lora_layers
from .peft_config import PeftConfig


class LinearWithManyLoRAs(nn.Module):
    """A frozen linear layer and n updates: row i of x gets the update ``which[i]``, or none where that is −1.

    A is (n + 1, in, rank) and B (n + 1, rank, out), each B multiplied by its scale. Updates of a lower rank are filled
    up with zeros, and the last of them is all zeros, which is what −1 means.
    """

    def __init__(self, linear, updates):
        super().__init__()
        self.linear, self.which = linear, None
        weight = weight_of(linear)
        rank = max((lora.rank for lora in updates if lora is not None), default=0)
        self.register_buffer("A", weight.new_zeros(len(updates) + 1, weight.shape[1], rank))
        self.register_buffer("B", weight.new_zeros(len(updates) + 1, rank, weight.shape[0]))
        for i, lora in enumerate(updates):
            if lora is not None:
                self.A[i, :, : lora.rank] = lora.A.detach()
                self.B[i, : lora.rank] = lora.scale * lora.B.detach()

    def forward(self, x):
        """(rows, …, in) → (rows, …, out)."""
        y = self.linear(x)
        if self.which is None:
            return y
        if len(self.which) != len(x):
            raise ValueError(f"the batch has {len(x)} rows and which_adapter names {len(self.which)}; one for each row")
        A, B = self.A[self.which], self.B[self.which]
        tokens = x.flatten(1, -2) if x.dim() > 2 else x[:, None]
        return y + (tokens @ A @ B).reshape(y.shape)


def put_side_by_side(model, folders):
    """Put several adapters beside a model, {name: folder}, and freeze it; it computes as before until rows name theirs.

    Each is read as ``load_adapter`` does it. A file that does not fit, that is no plain LoRA or that brings a head or
    biases with it is refused, and the model is as it was.
    """
    if adapted_layers(model) or _side_by_side(model):
        raise ValueError("this model has adapters already; begin with a plain one, or with remove_lora(model)")
    learned, found = [parameter for parameter in model.parameters() if parameter.requires_grad], {}
    # The same weights in other layers, into which one adapter after the other is loaded.
    shell = copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]})
    try:
        for name, folder in folders.items():
            found[name] = _loras(shell, folder)
    except Exception:
        for parameter in learned:
            parameter.requires_grad_(True)
        raise
    layers = linear_layers(model)
    for place in layers:
        if any(place in loras for loras in found.values()):
            updates = [loras.get(place) for loras in found.values()]
            model.set_submodule(place, LinearWithManyLoRAs(layers[place], updates))
    model.requires_grad_(False)
    model.adapter_names = list(folders)


def _side_by_side(model):
    return [module for module in model.modules() if isinstance(module, LinearWithManyLoRAs)]


def _loras(shell, folder):
    """The LoRALayers of an adapter's file by the names of their layers, if it holds nothing else."""
    options = PeftConfig.read(Path(folder) / CONFIG_FILE).options
    beside = [key for key in ("modules_to_save", "use_dora") if options.get(key)]
    beside += ["bias"] * (options.get("bias", "none") != "none")
    if beside:
        raise AdapterFileError(f"{folder} has {listed(beside)}; side by side there is room for plain LoRA alone")
    load_adapter(shell, folder)
    return {place: layer.lora for place, layer in lora_layers(shell).items()}


@contextmanager
def which_adapter(model, names):
    """Within the ``with`` block row i of a batch gets the adapter ``names[i]``; None is the model without any."""
    names, layers = list(names), _side_by_side(model)
    if not layers:
        raise ValueError("this model has no adapters side by side; begin with put_side_by_side(model, folders)")
    strange = sorted({name for name in names if name is not None} - set(model.adapter_names))
    if strange:
        raise ValueError(f"there is no adapter {strange[0]!r} beside this model; it has {listed(model.adapter_names)}")
    numbers = [-1 if name is None else model.adapter_names.index(name) for name in names]
    which, before = torch.tensor(numbers, dtype=torch.long), [layer.which for layer in layers]
    try:
        for layer in layers:
            layer.which = which.to(layer.A.device)
        yield model
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.which = own
