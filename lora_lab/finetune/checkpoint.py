"""What an interrupted training goes on from, the same for one process and for many, in copies or shards.

torch gathers the trainable weights and the optimizer's state whole, so a training that was begun by two processes can
be finished by one.
"""

import errno
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..disk import replacing

FILE = "checkpoint.pt"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def trained_weights(model):
    """What has been trained, whole, on the CPU: ``{name: tensor}``. In a team everybody asks, and rank 0 gets it."""
    return get_model_state_dict(model, options=WHOLE)


def write(folder, weights, model, optimizer, progress, team):
    """Write a checkpoint so that half of one is never seen: the one before it stays until the new one is whole."""
    state = {"model": weights, "optimizer": get_optimizer_state_dict(model, optimizer, options=WHOLE)}
    if team.leads:
        with replacing(Path(folder, FILE)) as (beside,):
            try:
                torch.save(state | {"progress": progress}, beside)
            except RuntimeError as error:  # torch's own, of a disk that is full
                raise OSError(errno.ENOSPC, f"{FILE} could not be written; is the disk full? ({error})") from error


def read(folder):
    """The checkpoint in a folder, or None; ValueError if there is one and it can't be read."""
    path = Path(folder, FILE)
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive meets many kinds of errors
        raise ValueError(f"{path} is damaged ({error}); take the folder away and start anew") from None


def restore(state, model, optimizer, team):
    """Put a checkpoint's weights and the optimizer's state into the model, whatever it is run by."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=team.size > 1, strict=False)
    set_model_state_dict(model, state["model"], options=options)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
