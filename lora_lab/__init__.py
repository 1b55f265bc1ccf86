"""lora_lab: the small package behind the course, LoRA as short as it can be said.

``layer`` is the idea, ``adapt`` puts it into a model and takes it out again, ``adapter_file`` keeps it on disk,
``variants`` change it, ``four_bits`` make its base smaller, ``anatomy`` looks inside weights, ``checkup`` finds what is
wrong with a model, ``training`` trains it, ``budget`` says what that takes. Four wings use them: ``material`` gives it
something to do, ``finetune`` trains a model of your own with it, ``pictures`` shows it, ``exercises`` ask for it.
"""

from .adapt import (
    count_parameters,
    load_lora_state,
    lora_disabled,
    lora_state,
    merge_lora,
    remove_lora,
    replace_linear_with_lora,
    set_strength,
    unmerge_lora,
)
from .adapter_file import AdapterFileError, load_adapter, save_adapter
from .anatomy import amplification_factor, break_even_rank, low_rank_approximation, spectrum, subspace_similarity
from .checkup import doctor
from .find import lora_layers
from .layer import LinearWithLoRA, LoRALayer
from .training import accuracy, evaluate, memory_ledger, set_seed, train_model

__version__ = "0.2.0"

__all__ = [
    "AdapterFileError",
    "LinearWithLoRA",
    "LoRALayer",
    "accuracy",
    "amplification_factor",
    "break_even_rank",
    "count_parameters",
    "doctor",
    "evaluate",
    "load_adapter",
    "load_lora_state",
    "lora_disabled",
    "lora_layers",
    "lora_state",
    "low_rank_approximation",
    "memory_ledger",
    "merge_lora",
    "remove_lora",
    "replace_linear_with_lora",
    "save_adapter",
    "set_seed",
    "set_strength",
    "spectrum",
    "subspace_similarity",
    "train_model",
    "unmerge_lora",
]
