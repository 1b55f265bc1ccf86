"""The training: a model of transformers with PEFT's LoRA, a text, steps, held-out losses, and an end in time."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from . import checkpoint
from .team import held_here

HISTORY = "history.json"


@dataclass(frozen=True)
class Settings:
    """What a training is told. One that goes on must be told the same, but for how long."""

    text: str
    out: str
    checksum: int = 0  # of the text
    model: str = "tinygpt"
    rank: int = 8
    alpha: float = 8
    targets: str = "all-linear"
    all_weights: bool = False
    rate: float = 1e-3
    steps: int = 300
    batch: int = 16
    length: int = 64
    every: int = 25
    patience: int = 4
    seed: int = 0

    def differs(self, other):
        """The names of what another training was told otherwise and must not have been."""
        free = {"steps", "every", "patience", "out", "text"}
        return [name for name, value in asdict(self).items() if name not in free and other.get(name) != value]


@dataclass
class Progress:
    """How far a training has come: what was measured, when it was best, and for how many measurements it was not."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    waited: int = 0
    measured: list[dict] = field(default_factory=list)

    def note(self, step, train, held_out):
        """Write down a measurement; return whether it is the best so far."""
        self.step = step
        self.measured.append({"step": step, "train": train, "held out": held_out})
        better = held_out < self.best
        if better:
            self.best, self.best_step, self.waited = held_out, step, 0
        else:
            self.waited += 1
        return better


def train(model, pieces, settings, team, state=None):
    """Train until the steps are done or the held-out loss has not fallen for a while; return the Progress.

    The best adapter so far is always in ``settings.out``, and beside it a checkpoint and the history. ``state`` is the
    checkpoint of a training that goes on.
    """
    run = team.prepare(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], settings.rate, weight_decay=0.0)
    progress = Progress()
    if state is not None:
        checkpoint.restore(state, run, optimizer, team)
        progress = Progress(**state["progress"]["trained"])
        team.say(f"going on from step {progress.step}")
    _say_who_holds_what(model, team)
    if state is None:
        _measure(0, [], run, model, optimizer, pieces, settings, progress, team)
    losses, done = [], progress.step
    with _bar(done, settings.steps, team) as bar:
        for step in range(done + 1, settings.steps + 1):
            if progress.waited >= settings.patience:
                break
            losses.append(_step(run, optimizer, pieces, step, settings, team))
            bar.update()
            if step % settings.every == 0 or step == settings.steps:
                _measure(step, losses, run, model, optimizer, pieces, settings, progress, team)
                losses = []
    if team.sent:
        team.say(f"each process sent {team.sent // (progress.step - done):,} bytes a step")
    return progress


def _step(run, optimizer, pieces, step, settings, team):
    """One step on this process's share of the batch; the loss of the whole batch."""
    share = pieces.batch(step, settings.batch, settings.seed)[team.rank :: team.size].to(team.device)
    run.train()
    loss = run(input_ids=share, labels=share).loss
    optimizer.zero_grad()
    loss.backward()
    value = team.mean(loss)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss of step {step} is {value}: most likely the rate, {settings.rate:g}, is too high; "
            f"start anew with --rate {settings.rate / 3:.2g} and another --out"
        )
    optimizer.step()
    return value


def _measure(step, losses, run, model, optimizer, pieces, settings, progress, team):
    """The held-out loss, said and written down; the adapter where it is the best so far, and a checkpoint."""
    train, sent = sum(losses) / len(losses) if losses else None, team.sent
    held_out = _held_out(run, pieces.held_out, settings.batch, team)
    team.sent = sent  # of training alone
    if progress.note(step, train, held_out):
        _save(run, model, settings, team)
    told = asdict(settings)
    checkpoint.write(settings.out, run, optimizer, {"told": told, "trained": asdict(progress)}, team)
    if team.leads:
        Path(settings.out, HISTORY).write_text(json.dumps(progress.measured, indent=1))
    learned = "" if train is None else f"loss {train:.3f}, "
    team.say(f"step {step:4}: {learned}held out {held_out:.3f}" + " ·" * (progress.waited > 0))


@torch.no_grad()
def _held_out(run, held_out, size, team):
    """The mean loss on all pieces (m, length) that are held out. Everybody measures all: shards need everybody."""
    run.eval()
    total = 0.0
    for part in held_out.to(team.device).split(size):
        total += run(input_ids=part, labels=part).loss.item() * len(part)
    return total / len(held_out)


def _save(run, model, settings, team):
    """The adapter, or with ``all_weights`` the model, whole from wherever its parts lie."""
    weights = checkpoint.trained_weights(run)
    if not team.leads:
        return
    if settings.all_weights:
        model.save_pretrained(settings.out, state_dict=weights)
    else:
        model.save_pretrained(settings.out, state_dict=weights, save_embedding_layers=False)


def _say_who_holds_what(model, team):
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    team.say(f"{trained:,} of {total:,} numbers learn")
    if team.size > 1:
        held = " and ".join(f"{each:,}" for each in team.everybody(held_here(model)))
        team.say(f"{team.size} processes ({team.engine}) hold {held} numbers")


def _bar(done, steps, team):
    from tqdm import tqdm

    # None: a bar where there is a terminal, and none in a file or a notebook's output.
    off = None if team.leads else True
    return tqdm(total=steps, initial=done, desc="training", unit="step", leave=False, disable=off)
