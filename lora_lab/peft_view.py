"""PEFT's adapted layers, seen as this course's are: what the doctor looks at, in a model that PEFT has changed.

Nothing is changed here, and nothing of PEFT is imported: what makes a layer one of its is that it has its parts.
"""

from dataclasses import dataclass

import torch

from .checks import weight_of
from .find import joined


@dataclass(frozen=True)
class PeftLoRA:
    """The A and B of one of PEFT's adapters, in its orientation: A is (rank, in) and B is (out, rank)."""

    A: torch.nn.Parameter
    B: torch.nn.Parameter
    scale: float
    strength: float = 1.0
    scaling: str = "alpha/r"

    @property
    def rank(self):
        return self.A.shape[0]

    def delta(self):
        """What is added to the weight, in our orientation: (in, out)."""
        return (self.scale * (self.B @ self.A)).detach().T


class PeftLayer:
    """One of PEFT's adapted layers with one of its adapters; has what the doctor asks of ``LinearWithLoRA``."""

    fixed = ()

    def __init__(self, name, module, adapter):
        self.name = name  # the layer's own, where several adapters are active
        self.linear, self.in_features = module.base_layer, module.in_features
        A, B = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        self.lora = PeftLoRA(A, B, module.scaling[adapter])
        self.enabled = not module.disable_adapters
        self.merged = True if adapter in module.merged_adapters else None

    def adapter(self):
        """What the adapter trains here."""
        return {"A": self.lora.A, "B": self.lora.B}

    def total_weight(self):
        """W + ΔW, (out, in)."""
        weight = weight_of(self.linear)
        return weight if self.merged else weight + self.lora.delta().T


def is_peft_layer(module):
    """Whether PEFT has put LoRA beside this linear layer: with matrices, not beside a convolution or in another way."""
    loras = getattr(module, "lora_A", {})
    return hasattr(module, "base_layer") and len(loras) > 0 and next(iter(loras.values())).weight.dim() == 2


def is_peft_model(model):
    """Whether this is what ``get_peft_model`` returns."""
    return hasattr(model, "peft_config") and hasattr(getattr(model, "base_model", None), "peft_config")


def peft_layers(model):
    """The layers that PEFT has adapted, by the names they had before, each with its active adapters."""
    found = {}
    for full_name, module in model.named_modules():
        if is_peft_layer(module):
            name = plain_name(model, full_name)
            adapters = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
            for adapter in adapters:
                found[name if len(adapters) == 1 else f"{name} ({adapter})"] = PeftLayer(name, module, adapter)
    return found


def plain_name(model, full_name):
    """What a module or parameter of a model was called before PEFT came.

    A module that PEFT trains whole and saves (``modules_to_save``) has a copy, which goes by the module's name.
    """
    while is_peft_model(model):
        full_name = full_name.removeprefix("base_model.").removeprefix("model.")
        model = model.base_model.model
    parts, plain = full_name.split("."), []
    while parts:
        part = parts.pop(0)
        if part == "modules_to_save" and parts:
            parts.pop(0)  # the adapter's name
        elif part not in ("base_layer", "original_module"):
            plain.append(part)
    return joined(*plain)


def saved_by_peft(model):
    """The ids of the parameters that ``save_pretrained`` would write: LoRA's own, and modules to save."""
    from peft import get_peft_model_state_dict

    states = [get_peft_model_state_dict(model, adapter_name=name) for name in model.peft_config]
    pointers = {tensor.data_ptr() for state in states for tensor in state.values()}
    return {id(parameter) for parameter in model.parameters() if parameter.data_ptr() in pointers}


def peft_options(model):
    """The settings of PEFT's active adapter, as they would stand in its file; an empty dictionary if there are none."""
    config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    options = config.to_dict() if config else {}
    plain = {"peft_type": getattr(options.get("peft_type"), "value", None)}
    return options | plain | {key: sorted(value) for key, value in options.items() if isinstance(value, set)}
