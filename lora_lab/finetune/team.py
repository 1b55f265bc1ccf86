"""The processes that train together, by torch's own engines: one alone, copies (DDP) or shards (FSDP2)."""

import os
import warnings
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

ENGINES = ("ddp", "fsdp")
# torch renamed them in 2.13.
GATHER = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
SUM_INTO_SHARDS = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class Team:
    """This process and those beside it. ``sent`` counts the bytes that it has sent to them, as a ring of n does.

    There a sum over all takes 2 (n − 1) / n of what is summed, and gathering, or summing shards, half of that.
    """

    def __init__(self, engine):
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.engine = engine if self.size > 1 else "alone"
        self.leads = self.rank == 0
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)  # or all processes would meet on the first card
        self.sent = 0

    def prepare(self, model):
        """The model as it is run: itself, in DDP's wrapper, or cut into shards in place."""
        if self.engine != "fsdp":  # which moves a block at a time, and keeps its shard
            model.to(self.device)
        if self.engine == "ddp":
            model = DistributedDataParallel(model)
            model.register_comm_hook(None, self._count)
        if self.engine == "fsdp":
            # A block is gathered when it is needed and let go again, and what lies outside all blocks at the end.
            for module in list(model.modules()):
                if type(module).__name__ in model._no_split_modules:
                    self._shard(module)
            self._shard(model)
        return model

    def _shard(self, module):
        fully_shard(module)
        module.set_custom_all_gather(_Counted(self, GATHER))
        module.set_custom_reduce_scatter(_Counted(self, SUM_INTO_SHARDS))

    def count(self, tensor, times):
        """Count what a ring sends for a whole tensor that goes round so many times."""
        self.sent += times * (self.size - 1) * tensor.numel() * tensor.element_size() // self.size

    def _count(self, _, bucket):
        self.count(bucket.buffer(), 2)
        return allreduce_hook(None, bucket)

    def mean(self, value):
        """The mean of a number over all processes, as a float."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value.item() / self.size

    def everybody(self, thing):
        """What each process has, by rank, for all to see."""
        found = [thing] * self.size
        if self.size > 1:
            dist.all_gather_object(found, thing)
        return found

    def say(self, *words):
        """Print once, and not once for each process."""
        if self.leads:
            print(*words, flush=True)


@contextmanager
def together(engine):
    """A Team for as long as it works: its members meet at the beginning and part at the end.

    Where they have met before, by ``init_process_group``, they stay together afterwards.
    """
    team = Team(engine)
    meet = team.size > 1 and not dist.is_initialized()
    if meet:
        dist.init_process_group(timeout=timedelta(minutes=10))
    try:
        with warnings.catch_warnings():
            # FSDP2 warns of changes in place that transformers' blocks do not make.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield team
        if team.size > 1:
            dist.barrier()  # nobody leaves while others still need an answer
    finally:
        if meet:
            dist.destroy_process_group()


class _Counted:
    """torch's way of gathering shards, or of summing into shards, with a count of what it sends."""

    def __init__(self, team, send):
        self.team, self.send = team, send

    def allocate(self, size, *, dtype, device):
        """Room for what arrives."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor, input_tensor, group, *reduction, async_op=False, **named):
        self.team.count(max(output_tensor, input_tensor, key=torch.numel), 1)
        return self.send(output_tensor, input_tensor, *reduction, group=group, async_op=async_op, **named)


def held_here(model):
    """How many numbers of a model this process keeps: all of them, or its shards."""
    return sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters())
