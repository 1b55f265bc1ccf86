"""The training: a model of transformers with PEFT's LoRA, a text, steps, held-out losses, and an end in time."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..adapt import count_parameters
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
    training = _Training(model, pieces, settings, team)
    if state is not None:
        training.go_on_from(state)
    training.say_who_holds_what()
    if state is None:
        training.measure(0)
    progress = training.progress
    losses, done = [], progress.step
    with _bar(done, settings.steps, team) as bar:
        for step in range(done + 1, settings.steps + 1):
            if progress.waited >= settings.patience:
                break
            losses.append(training.step(step))
            bar.update()
            if step % settings.every == 0 or step == settings.steps:
                training.measure(step, sum(losses) / len(losses))
                losses = []
    if team.sent:
        team.say(f"each process sent {team.sent // (progress.step - done):,} bytes a step")
    return progress


class _Training:
    """A model, what it learns from, and how far it has come. ``run`` is the model as the team runs it."""

    def __init__(self, model, pieces, settings, team):
        self.model, self.pieces, self.settings, self.team = model, pieces, settings, team
        self.run = team.prepare(model)
        learn = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learn, settings.rate, weight_decay=0.0)
        self.progress = Progress()

    def go_on_from(self, state):
        """Take up a training where its checkpoint was written."""
        checkpoint.restore(state, self.run, self.optimizer, self.team)
        self.progress = Progress(**state["progress"]["trained"])
        self.team.say(f"going on from step {self.progress.step}")

    def step(self, step):
        """One step on this process's share of the batch; the loss of the whole batch."""
        settings, team = self.settings, self.team
        share = self.pieces.batch(step, settings.batch, settings.seed)[team.rank :: team.size].to(team.device)
        self.run.train()
        loss = self.run(input_ids=share, labels=share).loss
        self.optimizer.zero_grad()
        loss.backward()
        value = team.mean(loss)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {step} is {value}: most likely the rate, {settings.rate:g}, is too high; "
                f"start anew with --rate {settings.rate / 3:.2g} and another --out"
            )
        self.optimizer.step()
        return value

    def measure(self, step, learned=None):
        """The held-out loss, said and written down; the adapter where it is the best so far, and a checkpoint.

        ``learned`` is the mean loss of the steps since the last measurement.
        """
        settings, team, progress = self.settings, self.team, self.progress
        sent = team.sent
        held_out = self.held_out()
        team.sent = sent  # of training alone
        weights = checkpoint.trained_weights(self.run)  # everybody has to ask for them
        if progress.note(step, learned, held_out) and team.leads:
            self.save(weights)
        told = {"told": asdict(settings), "trained": asdict(progress)}
        checkpoint.write(settings.out, weights, self.run, self.optimizer, told, team)
        if team.leads:
            Path(settings.out, HISTORY).write_text(json.dumps(progress.measured, indent=1))
        before = "" if learned is None else f"loss {learned:.3f}, "
        team.say(f"step {step:4}: {before}held out {held_out:.3f}" + " ·" * (progress.waited > 0))

    @torch.no_grad()
    def held_out(self):
        """The mean loss on all pieces (m, length) that are held out. Everybody measures all: shards need everybody."""
        self.run.eval()
        total, pieces = 0.0, self.pieces.held_out
        for part in pieces.to(self.team.device).split(self.settings.batch):
            total += self.run(input_ids=part, labels=part).loss.item() * len(part)
        return total / len(pieces)

    def save(self, weights):
        """The adapter, or with ``all_weights`` the model, of weights that were gathered."""
        rows = {} if self.settings.all_weights else {"save_embedding_layers": False}
        # A dictionary of its own: whatever saving does to it, a checkpoint will be written of the same weights.
        self.model.save_pretrained(self.settings.out, state_dict=dict(weights), **rows)

    def say_who_holds_what(self):
        """How many numbers learn, and how many each process keeps."""
        count, team = count_parameters(self.model), self.team
        team.say(f"{count.trainable:,} of {count.total:,} numbers learn")
        if team.size > 1:
            held = " and ".join(f"{each:,}" for each in team.everybody(held_here(self.model)))
            team.say(f"{team.size} processes ({team.engine}) hold {held} numbers")


def _bar(done, steps, team):
    from tqdm import tqdm

    # None: a bar where there is a terminal, and none in a file or a notebook's output.
    off = None if team.leads else True
    return tqdm(total=steps, initial=done, desc="training", unit="step", leave=False, disable=off)
