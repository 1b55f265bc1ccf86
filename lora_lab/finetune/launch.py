"""Several processes on this machine, started as ``torchrun`` starts them, and one sentence if one of them dies."""

import logging
import os
import signal
import socket
import sys
import uuid

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(words, processes, port=None):
    """Run ``python -m lora_lab.finetune`` with these words in several processes; return the exit status.

    They meet at a port of this machine: a free one, or the one that is named.
    """
    if port is not None:
        _refuse_taken(port)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the sentence below says it
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"localhost:{port or 0}",
        local_addr="localhost",  # or they look for the machine's own name, which not every container knows
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "lora_lab.finetune", *words)
    except SignalException as error:  # Ctrl-C, or somebody's kill
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        # Who was killed, and not who was told to stop because of that.
        killed = {rank: -failure.exitcode for rank, failure in error.failures.items() if failure.exitcode < 0}
        for rank, number in killed.items():
            if number != signal.SIGTERM:
                name = signal.Signals(number).name
                print(f"error: process {rank} of {processes}, counted from 0, was killed ({name})", file=sys.stderr)
        return max(1, *(failure.exitcode for failure in error.failures.values()))
    return 0


def _refuse_taken(port):
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("localhost", port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} can't be had ({error}); name another, or leave --port out") from None
