"""Many adapters beside one model, and a batch in which every row wants another one: a gather and two small products.

Nothing is merged and nothing is swapped. W is multiplied once for the whole batch, as if there were no adapters.
"""

from contextlib import contextmanager

import torch
from torch import nn

from .adapt import wrap_layers
from .adapter_file import load_adapter
from .checks import weight_of
from .find import adapted_layers, linear_layers, listed, lora_layers


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
        tokens = x.view(len(x), -1, x.shape[-1])
        return y + (tokens @ A @ B).view(y.shape)


def put_side_by_side(model, folders):
    """Put several adapters beside a model, {name: folder}; the model computes as before until rows name theirs.

    Each is loaded as ``load_adapter`` does, so a file that does not fit is refused, and the model is as it was.
    """
    if adapted_layers(model):
        raise ValueError("this model has an adapter already; take it out with remove_lora(model) first")
    found = {}
    try:
        for name, folder in folders.items():
            load_adapter(model, folder)
            found[name] = {place: layer.lora for place, layer in lora_layers(model).items()}
    finally:
        wrap_layers(model, {})
    layers = linear_layers(model)
    for place in layers:
        if any(place in loras for loras in found.values()):
            side_by_side = LinearWithManyLoRAs(layers[place], [loras.get(place) for loras in found.values()])
            model.set_submodule(place, side_by_side)
    model.adapter_names = list(folders)


@contextmanager
def which_adapter(model, names):
    """Within the ``with`` block row i of a batch gets the adapter ``names[i]``; None is the model without any."""
    strange = sorted({name for name in names if name is not None} - set(model.adapter_names))
    if strange:
        raise ValueError(f"there is no adapter {strange[0]!r} beside this model; it has {listed(model.adapter_names)}")
    which = torch.tensor([-1 if name is None else model.adapter_names.index(name) for name in names])
    layers = [module for module in model.modules() if isinstance(module, LinearWithManyLoRAs)]
    try:
        for layer in layers:
            layer.which = which.to(layer.A.device)
        yield model
    finally:
        for layer in layers:
            layer.which = None
