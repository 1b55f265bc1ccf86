"""The Loom: watch a LoRA being woven, step by step. A at the left, B above, and where they cross their product ΔW."""

from functools import cache
from math import pi
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss

from ..anatomy import spectrum
from ..layer import LinearWithLoRA
from ..material.data import create_planted_task
from ..training import set_seed
from .explorer import Explorer
from .figures import COLOURS, INKS, LEVEL, extent_of, figure, lay, sheet, styled

SIZE = 24  # of W: so many inputs, so many outputs
STOPS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 70, 80, 90, 100]
STARTS = {"B zero": (True, False), "A zero": (False, True), "both zero": (False, False), "both random": (True, True)}


class Stop(NamedTuple):
    """A LoRA after so many steps: A (in, rank) and B (rank, out), the sizes of their gradients, and the loss."""

    A: torch.Tensor
    B: torch.Tensor
    pull_A: float
    pull_B: float
    loss: float


def cloth_task():
    """A task whose ΔW (24, 24) is made of three waves, one clearly stronger than the next: a cloth to look at."""
    task = create_planted_task(256, SIZE, SIZE, rank=1)
    waves = torch.cos(pi * torch.arange(SIZE)[:, None] * torch.tensor([1.0, 3.0, 6.0]) / (SIZE - 1))
    down, across = waves, waves.flip(1)
    delta = sum(size * torch.outer(down[:, k], across[:, k]) for k, size in enumerate((0.32, 0.21, 0.13)))
    return task._replace(y=task.y + task.X @ (delta - task.delta), delta=delta)


def weave(task, rank, start):
    """Train a LoRA of this rank from this start, and keep what it looks like at each of STOPS."""
    set_seed(0)
    layer = LinearWithLoRA(task.pretrained, rank)
    A, B = layer.lora.A, layer.lora.B
    for matrix, filled in zip((A, B), STARTS[start], strict=True):
        nn.init.uniform_(matrix, -(SIZE**-0.5), SIZE**-0.5) if filled else nn.init.zeros_(matrix)
    optimizer, stops = torch.optim.Adam([A, B], lr=0.03), []
    for step in range(STOPS[-1] + 1):
        optimizer.zero_grad()
        loss = mse_loss(layer(task.X), task.y)
        loss.backward()
        if step in STOPS:
            pulls = A.grad.norm().item(), B.grad.norm().item()
            stops.append(Stop(A.detach().clone(), B.detach().clone(), *pulls, loss.item()))
        optimizer.step()
    return stops


@styled
def loom(ranks=range(1, 6), **start):
    """Watch a LoRA being woven: drag the step or let it play, choose the rank and the start, touch it, merge it.

    ``loom(rank=2, step=100)`` says where the sliders stand at first.
    """
    task, woven = cloth_task(), cache(weave)
    weight, planted, most = task.pretrained.weight.detach().T, spectrum(task.delta), max(ranks)
    gap = 1.5
    corner = most + gap
    places = corner, corner + SIZE + 6 * gap, corner + 2 * SIZE + 9 * gap  # of ΔW, of W and of what is missing
    picture = figure("", height=5.0)
    upper, lower = picture.subfigures(2, 1, height_ratios=[1.9, 1])
    table = upper.subplots()
    sheet(table, places[2] + SIZE + gap, corner + SIZE + 3)
    limit = task.delta.abs().max().item()
    images, frames = {}, {}
    images["A"], frames["A"] = lay(table, torch.zeros(SIZE, 1), "A", corner - gap - 1, corner, limit=0.55)
    images["B"], frames["B"] = lay(table, torch.zeros(1, SIZE), "B", corner, corner - gap - 1, limit=0.55)
    images["ΔW"], frames["ΔW"] = lay(table, task.delta, "ΔW", places[0], corner, limit=limit)
    images["W"], frames["W"] = lay(table, weight, "W", places[1], corner, limit=weight.abs().max().item())
    images["missing"], frames["missing"] = lay(table, task.delta, "ΔW", places[2], corner, "still missing", limit)
    images["ΔW"].set_zorder(-1)  # under W, where it lies when it has been merged
    style = {"weight": "bold", "ha": "center", "va": "center"}
    labels = {name: table.text(0, 0, name, color=INKS[name], **style) for name in ("A", "B", "W", "ΔW")}
    for name, place in zip(("ΔW", "W"), places, strict=False):
        labels[name].set_position((place + SIZE / 2, corner + SIZE + 2))
    heading = table.text(places[1], corner / 2, "x", fontsize=15, weight="bold", va="center")
    spectra, chart = lower.subplots(1, 2, width_ratios=[1, 1.6])
    spectra.bar(range(1, most + 3), planted[: most + 2], fill=False, edgecolor="#444444", linewidth=1.5)
    bars = spectra.bar(range(1, most + 3), [0] * (most + 2), width=0.55, color=COLOURS["ΔW"])
    spectra.set(title="Patterns in ΔW", ylim=(0, 1.25 * planted[0].item()), xticks=range(1, most + 3), yticks=[])
    spectra.grid(False)
    (line,) = chart.plot(STOPS, [1.0] * len(STOPS))
    (head,) = chart.plot([0], [1], "o", markersize=10, color=line.get_color())
    chart.axhline(0.01, **LEVEL)
    chart.text(0.02, 0.011, "noise floor", color="#555555", va="bottom")
    chart.set(title="Loss, step by step", yscale="log", ylim=(0.005, 3))
    chart.set_xscale("symlog", linthresh=1, linscale=0.4)
    chart.set_xlim(-0.05, STOPS[-1] * 1.15)
    chart.xaxis.set_major_formatter("{x:g}")

    def update(step, rank, begin, place):
        stops = woven(task, rank, begin)
        now, merged = stops[STOPS.index(step)], place == "merged into W"
        delta = now.A @ now.B
        left = corner - gap - rank
        _put(images["A"], frames["A"], now.A, left, corner)
        _put(images["B"], frames["B"], now.B, corner, left)
        images["ΔW"].set(data=delta, extent=extent_of(delta, places[merged], corner))
        images["W"].set_data(weight + delta * merged)
        images["missing"].set_data(task.delta - delta)
        strongest = max(max(stop.pull_A, stop.pull_B) for stop in stops) or 1.0
        for name, pull in (("A", now.pull_A), ("B", now.pull_B)):
            frames[name].set(linewidth=1 + 3.5 * (pull / strongest) ** 0.5, alpha=1 if pull else 0.4)
        labels["A"].set_position((left + rank / 2, corner + SIZE + 2))
        labels["B"].set_position((corner - 1.5, left + rank / 2))
        labels["W"].set_text("W + ΔW, merged" if merged else "W, frozen")
        labels["ΔW"].set_text("(ΔW is in W now)" if merged else "ΔW = A·B")
        for bar, height in zip(bars, spectrum(delta), strict=False):
            bar.set_height(height)
        so_far = stops[: STOPS.index(step) + 1]  # the rest is for the learner to guess
        line.set_data(STOPS[: len(so_far)], [stop.loss for stop in so_far])
        head.set_data([step], [now.loss])
        heading.set_text(f"Step {step}, rank {rank}: the loss is {now.loss:.2f}")
        return [*images.values(), *frames.values(), *labels.values(), *bars, line, head, heading]

    def alt(step, rank, begin, place):
        now = woven(task, rank, begin)[STOPS.index(step)]
        threads = int((spectrum(now.A @ now.B)[:3] > planted[:3] / 2).sum())
        return (
            f"Step {step} of a LoRA of rank {rank} that starts with {begin}: {threads} of the 3 planted patterns are "
            f"woven, and the loss is {now.loss:.2f}. " + _pulled(now) + " ΔW lies " + place + "."
        )

    return Explorer(
        picture,
        update,
        alt,
        step=STOPS,
        rank=ranks,
        begin=list(STARTS),
        place=["beside W", "merged into W"],
        labels={"begin": "start with", "place": "ΔW lies"},
        start={"rank": min(ranks, key=lambda rank: abs(rank - 3)), "step": 12} | start,
        play="step",
        gliding=[images["ΔW"]],
        product=(images["A"], images["B"], images["ΔW"]),
    )


def _put(image, frame, matrix, left, top):
    image.set(data=matrix, extent=extent_of(matrix, left, top))
    frame.set(xy=(left, top), width=matrix.shape[1], height=matrix.shape[0])


def _pulled(stop):
    """Who gets a gradient, in words."""
    if stop.pull_A and stop.pull_B:
        return "Both A and B get a gradient."
    if stop.pull_A or stop.pull_B:
        return f"Only {'A' if stop.pull_A else 'B'} gets a gradient."
    return "Neither A nor B gets a gradient."
