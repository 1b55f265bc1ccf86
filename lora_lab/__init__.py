"""lora_lab: the small package behind the course, LoRA as short as it can be said.

``layer`` is the idea, ``adapt`` puts it into a model and takes it out again, ``adapter_file`` keeps it on disk,
``anatomy`` looks inside weights, ``checkup`` finds what is wrong with a model; ``data``, ``texts``, ``models`` and
``training`` give it something to do.
"""

from .adapt import (
    count_parameters,
    load_lora_state,
    lora_disabled,
    lora_layers,
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
from .data import create_planted_task, create_toy_dataset, digits
from .layer import LinearWithLoRA, LoRALayer
from .models import DigitClassifier, TinyGPT, shipped_adapter, windows
from .texts import held_out, own_text, python_code, python_prose, split_by_file, tales, unicode_names
from .training import History, accuracy, default_loss, evaluate, memory_ledger, set_seed, train_model

__version__ = "0.1.0"

__all__ = [
    "AdapterFileError",
    "DigitClassifier",
    "History",
    "LinearWithLoRA",
    "LoRALayer",
    "TinyGPT",
    "accuracy",
    "amplification_factor",
    "break_even_rank",
    "count_parameters",
    "create_planted_task",
    "create_toy_dataset",
    "default_loss",
    "digits",
    "doctor",
    "evaluate",
    "held_out",
    "load_adapter",
    "load_lora_state",
    "lora_disabled",
    "lora_layers",
    "lora_state",
    "low_rank_approximation",
    "memory_ledger",
    "merge_lora",
    "own_text",
    "python_code",
    "python_prose",
    "remove_lora",
    "replace_linear_with_lora",
    "save_adapter",
    "set_seed",
    "set_strength",
    "shipped_adapter",
    "spectrum",
    "split_by_file",
    "subspace_similarity",
    "tales",
    "train_model",
    "unicode_names",
    "unmerge_lora",
    "windows",
]
