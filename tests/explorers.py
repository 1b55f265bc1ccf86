"""Explorers to test with: the course's own on small data, one of a dot, and one that moves all that can move."""

import numpy as np
import torch
from matplotlib.patches import Circle

from lora_lab import lora_layers, lora_state, replace_linear_with_lora
from lora_lab.material import DigitClassifier, create_planted_task, digits
from lora_lab.pictures.explorer import Explorer
from lora_lab.pictures.figures import figure, styled
from lora_lab.pictures.loom import loom
from lora_lab.pictures.sliders import (
    digits_explorer,
    forgetting_explorer,
    grid_explorer,
    ledger_explorer,
    race_explorer,
    rank_explorer,
    rounding_explorer,
    scaling_explorer,
    similarity_explorer,
    strength_explorer,
    surprise_explorer,
    training_explorer,
    writing_explorer,
)


def digit_tasks():
    return {name: digits(name) for name in ("upright", "mirrored")}


def digit_runs():
    """Finished runs in which the first digits are misread, fewer at the higher rank."""
    truth = digit_tasks()["mirrored"].y_test
    runs = {}
    for task, more in (("mirrored", 0), ("upright", 10)):
        for rank, wrong in ((1, 30 + more), (4, 5 + more), (8, more)):
            predictions = truth.clone()
            predictions[:wrong] = (truth[:wrong] + 1) % 10
            runs[task, rank] = predictions, 0.5 + rank / 100
    return runs


def adapted_digits():
    """A digit classifier with LoRA, and two adapters for it that change what it reads."""
    model = DigitClassifier.pretrained()
    replace_linear_with_lora(model, 2)
    torch.manual_seed(0)
    states = {}
    for name in ("mirrored", "upright"):
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora.B)
        states[name] = lora_state(model)
    return model, states


def writings():
    """Texts of two adapters at three strengths, one of them long, one with what matplotlib takes for mathematics."""
    return {(name, s): f"{name} $x_{s}$ at {s}\n" * 9 for name in ("code", "tales") for s in (0, 0.5, 1.0)}


def trained():
    """Two methods at two rates and two strengths, with what they write."""
    keys = [(m, r, s) for m in ("r4", "full") for r in ("gentle", "bold") for s in (1, 0.5)]
    return {key: (1.5 / (i + 1), 1.3 + i, f"{key[0]} writes\nat {key[2]}") for i, key in enumerate(keys)}


def raced():
    """Two methods at two rates, two seeds of each."""
    return {(m, r): [(1 + r, 2.0 + i), (1.1, 2.2)] for i, m in enumerate(("LoRA", "DoRA")) for r in (0.001, 0.01)}


def ledgers():
    """Two methods, of which the second holds less, and twice the activations with twice the batch."""
    parts = ("weights", "gradients", "optimizer", "activations")
    held = {"full": (4, 4, 8), "LoRA": (5, 1, 2)}
    return {
        (batch, method): dict(zip(parts, [1024 * size for size in (*sizes, 3 * batch)], strict=True))
        for batch in (1, 2, 4)
        for method, sizes in held.items()
    }


def surprising():
    """Sixteen letters, of which the first surprises least, and as many of which it surprises most."""
    nats = {"alphabet": [i / 4 for i in range(16)], "backwards": [4 - i / 4 for i in range(16)]}
    return {(text, s): ("abcdefg\nhijklmno", [s + n for n in nats[text]]) for text in nats for s in (0.0, 0.5, 1.0)}


EXPLORERS = {
    "loom": lambda: loom(ranks=(1, 3)),
    "surprise": lambda: surprise_explorer(surprising(), columns=16, rows=1),
    "rank": lambda: rank_explorer({"one": torch.randn(12, 12), "two": torch.randn(12, 12)}),
    "training": lambda: training_explorer(create_planted_task(32, 8, 8), ranks=(1, 4, 8), steps=10),
    "scaling": scaling_explorer,
    "digits": lambda: digits_explorer(digit_runs(), digit_tasks()),
    "strength": lambda: strength_explorer(*adapted_digits(), digit_tasks()),
    "writing": lambda: writing_explorer(writings(), {key: [1 + key[1], 2 - key[1]] for key in writings()}),
    "forgetting": lambda: forgetting_explorer(trained(), (2.5, 1.2, "home")),
    "race": lambda: race_explorer(raced(), (2.5, 1.2)),
    "rounding": lambda: rounding_explorer(torch.randn(24, 24), [8, 64]),
    "similarity": lambda: similarity_explorer({"one": torch.rand(3, 5), "two": torch.rand(3, 5)}, 9, "few", "many"),
    "ledger": lambda: ledger_explorer(ledgers()),
    "grid": lambda: grid_explorer({(r, a): [1.0, 1 / (r + a)] for r in (1, 2, 4) for a in (1, 2)}),
}


@styled
def everything():
    """Every kind of artist, each in an unusual form, which all move."""
    picture = figure("", width=9, height=6)
    (lines, log, places), (images, words, shapes) = picture.subplots(2, 3)
    x = np.linspace(0, 10, 60)
    (gaps,) = lines.plot(x, x, "--", color="#0072B2", marker="D", markevery=7, markerfacecolor="none")
    (steps,) = lines.plot(x, x, drawstyle="steps-post", color="#009E73", alpha=0.5, linewidth=4)
    (dotted,) = lines.plot([0, 10], [0, 10], linestyle=(3, (5, 2, 1, 2)), color="black", linewidth=1)
    (far,) = lines.plot([1, 9], [0, 0], color="#999999", linestyle="-")
    lines.set(xlim=(0, 10), ylim=(-1, 1))
    (falling,) = log.plot(x[1:], x[1:], "o-", fillstyle="left", markerfacecoloralt="#E69F00", markersize=9, markevery=9)
    log.set(xscale="log", yscale="log", ylim=(0.01, 100))
    (beyond,) = places.plot([0.5], [1], "*", markersize=30, clip_on=False)
    (cut,) = places.plot([0], [0.5], "s", markersize=40, color="#CC79A7")
    places.set(xlim=(0, 1), ylim=(0, 1))
    low = images.imshow(np.zeros((5, 7)), vmin=0, vmax=1, origin="lower", extent=(0, 1, 0, 1), aspect="auto")
    high = images.imshow(np.zeros((4, 4)), vmin=0, vmax=1, extent=(1, 2, 1, 0.2), alpha=0.6, cmap="gray", aspect="auto")
    soft = images.imshow(np.eye(3), extent=(1.2, 1.9, 1.15, 1.05), alpha=0.5, interpolation="bilinear", aspect="auto")
    images.set(xlim=(2, 0), ylim=(0, 1.2))
    images.grid(False)
    words.axis("off")
    texts = [
        words.text(0.5, 0.95, "", ha="center", va="top", linespacing=1.6, multialignment="right"),
        words.text(0, 0.5, "", family="monospace", weight="bold", fontsize=8, color="#D55E00"),
        words.text(0.9, 0.1, "", rotation=60, ha="right", style="italic", alpha=0.5),
        words.text(0.1, 0.1, "", fontsize=16),
    ]
    circle = shapes.add_patch(Circle((0.5, 0.5), 0.2, facecolor="#56B4E9", edgecolor="black", linewidth=3))
    cloud = shapes.scatter([0, 1], [0, 1], s=[50, 200], c=["#0072B2", "#D55E00"])
    shapes.set(xlim=(0, 1), ylim=(0, 1))

    def update(turn):
        wave = np.sin(x + turn)
        gaps.set_ydata(np.where(abs(wave) < 0.2, np.nan, wave))
        steps.set_ydata(np.round(wave, 1))
        dotted.set_ydata([0, turn / 4])
        far.set_ydata([-1e9, 10.0**turn])
        falling.set_ydata(10 ** (2 - x[1:] / (1 + turn)))
        beyond.set_xdata([(1 + turn) / 4])  # over the edge, and over nothing that stands still
        cut.set_xdata([turn / 3])
        low.set_data(np.linspace(0, 1, 35).reshape(5, 7) ** (turn + 1))
        soft.set_data(np.roll(np.eye(3), turn, 1))
        high.set_data(np.roll(np.eye(4), turn, 1))
        for text, said in zip(texts, ("two lines,\nno. {}", "O({})", "turned {}", r"$\frac{{1}}{{{}}}$"), strict=True):
            text.set_text(said.format(turn))
        circle.set_radius(0.1 * (turn + 1))
        cloud.set_offsets([[0.2 * turn, 0.8], [0.5, 0.3 * turn]])
        return [gaps, steps, dotted, far, falling, beyond, cut, low, high, soft, *texts, circle, cloud]

    return Explorer(picture, update, lambda turn: f"everything, turned {turn} times", turn=range(4))


def tiny(update=None, **choices):
    """An explorer of one dot that moves along a line."""
    picture = figure("", width=3, height=2)
    axes = picture.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 1))
    (dot,) = axes.plot([0], [0.5], "o")

    def move(x):
        dot.set_data([x], [0.5])
        return [dot]

    return Explorer(picture, update or move, lambda x: f"a dot at {x}", **{"x": range(1, 10)} | choices)
