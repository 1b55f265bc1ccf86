"""The course's explorers: figures with sliders, each a description of what moves, shown by ``Explorer``."""

import math
import re
import textwrap
from functools import cache
from itertools import cycle

import torch
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import LogLocator, NullFormatter

from ..adapt import load_lora_state, set_strength
from ..anatomy import spectrum
from ..checks import SCALINGS
from ..four_bits import LEVELS, rounded
from ..layer import LinearWithLoRA
from ..material.models import ALPHABET
from ..training import accuracy, evaluate, set_seed, train_model
from .charts import finish_plane, heat_cells
from .explorer import Explorer
from .figures import COLOURS, INKS, LEVEL, MARKERS, WIDTH, bare, draw_matrix, figure, mark_level, styled
from .matrices import mosaic


@styled
def rank_explorer(images):
    """One rank for several matrices at once: ``{name: (m, n)}``. How well does a rank-r version show each?"""
    factors = {name: torch.linalg.svd(image.float(), full_matrices=False) for name, image in images.items()}
    smallest = min(min(image.shape) for image in images.values())
    picture = figure("", height=5.4)
    grid = picture.add_gridspec(2, len(images), height_ratios=[1.6, 1])
    panels, chart = [picture.add_subplot(grid[0, i]) for i in range(len(images))], picture.add_subplot(grid[1, :])
    moving, errors, greys = {}, {}, colormaps["gray"].resampled(64)
    for axes, marker, (name, image) in zip(panels, cycle(MARKERS), images.items(), strict=False):
        shown = axes.imshow(image, cmap=greys, vmin=image.quantile(0.01).item(), vmax=image.quantile(0.99).item())
        bare(axes)
        axes.set_title(name)
        squares = factors[name].S.square()
        errors[name] = 100 * (1 - squares.cumsum(0) / squares.sum()).clamp(min=0).sqrt()
        (line,) = chart.plot(range(1, smallest + 1), errors[name][:smallest], label=name)
        (dot,) = chart.plot([1], [0], marker=marker, markersize=9, color=line.get_color(), linestyle="none")
        moving[name] = shown, dot, axes.text(0.5, -0.03, "x", ha="center", va="top", transform=axes.transAxes)
    chart.set(xlabel="rank", ylabel="error left, %", ylim=(0, 105), title="What is left out")
    chart.legend()

    def update(rank):
        for name, (shown, dot, caption) in moving.items():
            U, S, Vh = factors[name]
            shown.set_data((U[:, :rank] * S[:rank]) @ Vh[:rank])
            error = errors[name][rank - 1].item()
            dot.set_data([rank], [error])
            caption.set_text(f"rank {rank}, error {error:.0f} %")
        return [artist for artists in moving.values() for artist in artists]

    def alt(rank):
        return f"At rank {rank} the error left is " + ", ".join(
            f"{errors[name][rank - 1]:.0f} percent for {name}" for name in images
        )

    return Explorer(picture, update, alt, rank=range(1, smallest + 1), start={"rank": min(4, smallest)})


@styled
def training_explorer(task, ranks=None, steps=100, told=True):
    """Train under your finger: every position trains a LoRA from scratch on a planted task and draws what came out.

    ``told=False`` does not say how large the planted singular values are.
    """
    ranks = ranks or range(1, min(task.delta.shape) + 1)
    picture = figure("", height=4.9)
    (chart, threads), (learned, missing) = picture.subplots(2, 2, width_ratios=[1.5, 1], height_ratios=[1, 1.15])
    (line,) = chart.plot(range(1, steps + 1), [1.0] * steps)
    floor = evaluate(task.pretrained, task.X, task.y - task.X @ task.delta)
    chart.axhline(floor, **LEVEL)
    chart.text(1, floor * 0.8, "noise floor", va="top", color="#555555")
    chart.set(title="Loss, step by step", yscale="log", ylim=(0.003, 20), xlim=(0, steps))
    caption = chart.text(0.98, 0.95, "", ha="right", va="top", weight="bold", transform=chart.transAxes)
    image = draw_matrix(learned, task.delta, "ΔW", "ΔW learned")
    left = draw_matrix(missing, task.delta, "ΔW", "still missing")
    places, planted = range(1, max(ranks) + 1), spectrum(task.delta)[: max(ranks)]
    if told:
        threads.bar(places, planted, fill=False, edgecolor="#444444", linewidth=1.5)
    bars = threads.bar(places, planted, width=0.6, color=COLOURS["ΔW"])
    threads.set(title="Singular values of ΔW", ylim=(0, 1.3 * planted[0].item()), yticks=[])
    threads.grid(False)

    def update(rank, alpha, lr):
        set_seed(0)
        layer = LinearWithLoRA(task.pretrained, rank, alpha)
        losses = train_model(layer, task.X, task.y, epochs=steps, lr=lr, progress=False).train
        line.set_data(range(1, len(losses) + 1), losses)
        delta = layer.lora.delta().detach()
        image.set_data(delta)
        left.set_data(task.delta - delta)
        for bar, size in zip(bars, spectrum(delta), strict=False):
            bar.set_height(size)
        caption.set_text(f"loss after {steps} steps: {losses[-1]:.2f}" if len(losses) == steps else "it diverged")
        return [line, image, left, *bars, caption]

    def alt(rank, alpha, lr):
        return f"A LoRA of rank {rank}, alpha {alpha}, trained at learning rate {lr:g}: {caption.get_text()}."

    return Explorer(
        picture,
        update,
        alt,
        rank=ranks,
        alpha=[1, 2, 4, 8, 16, 32],
        lr=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
        start={"alpha": 4, "lr": 0.03},
        labels={"lr": "learning rate"},
    )


@styled
def scaling_explorer():
    """The three conventions for the scale s, side by side: what each makes of alpha when the rank changes."""
    ranks = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    picture = figure("", height=3.4)
    chart = picture.subplots()
    moving = {}
    for i, (marker, convention) in enumerate(zip(MARKERS, SCALINGS, strict=False)):
        (line,) = chart.plot(ranks, [1.0] * len(ranks), label=convention)
        style = {"color": line.get_color()}
        (dot,) = chart.plot([1], [1], marker=marker, markersize=10, linestyle="none", **style)
        caption = chart.text(0.32 * i, 1.04, "", weight="bold", transform=chart.transAxes, **style)
        moving[convention] = line, dot, caption
    chart.set_title(" ")  # room for the captions
    chart.set(yscale="log", xlabel="rank", ylabel="scale s", ylim=(1 / 400, 100))
    chart.set_xscale("log", base=2)
    chart.xaxis.set_major_formatter("{x:g}")
    chart.legend(loc="lower left", title="s =")

    def update(rank, alpha):
        for convention, (line, dot, caption) in moving.items():
            scale = SCALINGS[convention]
            line.set_ydata([scale(alpha, r) for r in ranks])
            dot.set_data([rank], [scale(alpha, rank)])
            caption.set_text(f"{convention} = {scale(alpha, rank):.3g}")
        return [artist for artists in moving.values() for artist in artists]

    def alt(rank, alpha):
        said = ", ".join(f"{name} gives {scale(alpha, rank):.3g}" for name, scale in SCALINGS.items())
        return f"The scale s at rank {rank} and alpha {alpha}: {said}."

    return Explorer(picture, update, alt, rank=ranks, alpha=[1, 2, 4, 8, 16, 32, 64], start={"rank": 8, "alpha": 16})


@styled
def grid_explorer(runs, floor=None):
    """A grid of finished trainings: ``{(rank, alpha): [loss, …]}``. The sliders pick a cell and show its loss curve."""
    ranks, alphas = (sorted({key[i] for key in runs}) for i in (0, 1))
    picture = figure("", height=3.6)
    table, chart = picture.subplots(1, 2)
    final = torch.tensor([[runs[rank, alpha][-1] for alpha in alphas] for rank in ranks])
    heat_cells(table, final, ranks, alphas, "rank", "alpha")
    (frame,) = table.plot(
        [0], [0], marker="s", markersize=34, fillstyle="none", color=COLOURS["ΔW"], markeredgewidth=3, clip_on=False
    )
    highest = max(max(losses) for losses in runs.values())
    (line,) = chart.plot([1], [1], color=COLOURS["ΔW"])
    chart.set(xlabel="training step", ylabel="loss", yscale="log", ylim=(final.min().item() / 2, highest * 1.2))
    chart.set_xlim(0, max(map(len, runs.values())))
    chart.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    chart.yaxis.set_major_formatter("{x:g}")
    chart.yaxis.set_minor_formatter(NullFormatter())
    if floor:
        mark_level(chart, "noise floor", floor, x=0.02, va="top")
    habit = [(alphas.index(2 * rank), i) for i, rank in enumerate(ranks) if 2 * rank in alphas]
    table.set_title("Loss at the end")
    if habit:
        table.plot(*zip(*habit, strict=True), "s", markersize=30, fillstyle="none", color="white", markeredgewidth=1.5)
        table.set_title("Loss at the end (white: α = 2r)")
    caption = chart.set_title("x")

    def update(rank, alpha):
        losses = runs[rank, alpha]
        frame.set_data([alphas.index(alpha)], [ranks.index(rank)])
        line.set_data(range(1, len(losses) + 1), losses)
        caption.set_text(f"rank {rank}, alpha {alpha}: {losses[-1]:.2f}")
        return [frame, line, caption]

    def alt(rank, alpha):
        return f"With rank {rank} and alpha {alpha} the loss ends at {runs[rank, alpha][-1]:.2f}."

    middle = {"rank": ranks[len(ranks) // 2], "alpha": alphas[len(alphas) // 2]}
    return Explorer(picture, update, alt, rank=ranks, alpha=alphas, start=middle)


def _new_and_old(chart, xs, xlabel, new, old, ylabel="right on test digits, %", ylim=(-3, 103)):
    """Two curves over ``xs``, a score on a new and on the old task, each with a large marker at one place.

    Returns the artists and ``move(curves, x, scores)``, which sets both curves and both markers.
    """
    pairs = []
    for key, label, marker in (("ΔW", new, "o"), ("W", old, "s")):
        (line,) = chart.plot(xs, [0] * len(xs), color=COLOURS[key], marker=marker, markersize=5, label=label)
        (here,) = chart.plot(xs[:1], [0], color=COLOURS[key], marker=marker, markersize=13, linestyle="none")
        pairs.append((line, here))
    chart.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
    chart.legend(loc="lower left", bbox_to_anchor=(0, 1))  # above the lines, where it hides none

    def move(curves, x, scores):
        for (line, here), ys, score in zip(pairs, curves, scores, strict=True):
            line.set_ydata(ys)
            here.set_data([x], [score])

    return [artist for pair in pairs for artist in pair], move


@styled
def ledger_explorer(ledgers):
    """What training holds in memory, by batch: ``{(batch, method): {"weights": bytes, …}}``, all with the same parts.

    The bars are shares of what the first method holds with the same batch.
    """
    batches, methods = (list(dict.fromkeys(key[i] for key in ledgers)) for i in (0, 1))
    parts = list(next(iter(ledgers.values())))
    totals = {key: sum(ledger.values()) for key, ledger in ledgers.items()}
    picture = figure("", height=1.6 + 0.6 * len(methods))
    axes = picture.subplots()
    colours = [COLOURS["W"], "#CC3377", "#8C6D31", "#999999"]
    bars = {
        part: axes.barh(methods, [0] * len(methods), label=part, color=colour, edgecolor="white").patches
        for part, colour in zip(parts, colours, strict=True)
    }
    sums = [axes.text(0, i, "", va="center") for i in range(len(methods))]
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlim=(0, 135), xticks=range(0, 101, 25), xlabel=f"% of what {methods[0]} holds with the same batch")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts))
    heading = picture.suptitle("x", x=0.01, ha="left", weight="bold")

    def update(batch):
        whole = totals[batch, methods[0]] / 100
        shares = [f"{method} {totals[batch, method] / whole:.0f} %" for method in methods[1:]]
        heading.set_text(f"Batch {batch}: {', '.join(shares)} of what {methods[0]} holds")
        for i, method in enumerate(methods):
            left = 0
            for part, patches in bars.items():
                share = ledgers[batch, method][part] / whole
                patches[i].set(x=left, width=share)
                left += share
            sums[i].set(x=left + 1.5, text=f"{totals[batch, method] / 1024:,.0f} KiB")
        return [*(bar for patches in bars.values() for bar in patches), *sums, heading]

    def alt(batch):
        described = "; ".join(
            f"{method}: " + ", ".join(f"{part} {size / 1024:,.0f}" for part, size in ledgers[batch, method].items())
            for method in methods
        )
        return f"{heading.get_text()}. In KiB {described}."

    return Explorer(picture, update, alt, batch=batches)


@styled
def digits_explorer(runs, tasks):
    """Finished adaptations to several tasks: which digits does each still get wrong? "3 → 8" is a 3 read as an 8.

    ``runs`` is ``{(task, rank): (predictions (n,), accuracy on the old task)}`` and ``tasks`` ``{task: Split}``.
    """
    names, ranks = (list(dict.fromkeys(key[i] for key in runs)) for i in (0, 1))
    columns, shown = 6, 12
    picture = figure("", height=3.4)
    chart, sheet = picture.subplots(1, 2, width_ratios=[1.15, 1])
    moving, move = _new_and_old(chart, ranks, "rank", "the new task", "the old task, upright")
    chart.set_xscale("log", base=2)
    chart.xaxis.set_major_formatter("{x:g}")
    image = sheet.imshow(mosaic(torch.zeros(shown, 11, 8), columns), cmap="gray_r", vmin=0, vmax=1)
    bare(sheet)
    captions = [
        sheet.text(9 * (i % columns) + 3.5, 12 * (i // columns) + 9.3, "", ha="center", va="center")
        for i in range(shown)
    ]
    heading = sheet.set_title("x")

    def score(task, rank):
        """Accuracy on the new and the old task, in percent."""
        predictions, old = runs[task, rank]
        return 100 * (predictions == tasks[task].y_test).double().mean().item(), 100 * old

    def update(task, rank):
        move(zip(*(score(task, r) for r in ranks), strict=True), rank, score(task, rank))
        predictions, data = runs[task, rank][0], tasks[task]
        mistakes = (predictions != data.y_test).nonzero()[:, 0]
        digits = torch.zeros(shown, 11, 8)  # three rows below each digit, for its caption
        digits[: len(mistakes), :8] = data.X_test[mistakes[:shown]].reshape(-1, 8, 8)
        image.set_data(mosaic(digits, columns))
        for i, caption in enumerate(captions):
            if i < len(mistakes):
                caption.set_text(f"{data.y_test[mistakes[i]]} → {predictions[mistakes[i]]}")
            else:
                caption.set_text("")
        heading.set_text(f"{len(mistakes)} of {len(predictions)} still wrong")
        return [*moving, image, *captions, heading]

    def alt(task, rank):
        new, old = score(task, rank)
        wrong = (runs[task, rank][0] != tasks[task].y_test).sum().item()
        return (
            f"At rank {rank}, {new:.0f} percent of the {task} digits are right, {old:.0f} percent of the upright ones. "
            f"{wrong} are wrong, and the first of them are shown."
        )

    return Explorer(picture, update, alt, task=names, rank=ranks, start={"task": names[0], "rank": ranks[0]})


@styled
def strength_explorer(model, adapters, tasks):
    """Several adapters on one base, swapped and turned up live: what do the new and the old task make of it?

    ``adapters`` is ``{task: state}``, as ``lora_state`` gives it, and ``tasks`` ``{task: Split}``. The model is set to
    what the sliders say.
    """
    dial = [i / 10 for i in range(16)]
    picture = figure("", height=3.4)
    chart, plane = picture.subplots(1, 2, width_ratios=[1.4, 1])
    moving, move = _new_and_old(chart, dial, "strength", "the adapter's task", "the old task, upright")
    (path,) = plane.plot(dial, dial, color="#777777", marker=".")
    (point,) = plane.plot([0], [0], color=COLOURS["ΔW"], marker="o", markersize=13, linestyle="none")
    plane.set(xlabel="old task, %", ylabel="adapter's task, %", xlim=(-5, 105), ylim=(-5, 105), aspect="equal")
    heading = plane.set_title("x")

    @cache
    def curves(task):
        """Percent right on the adapter's and on the old task, at every strength."""
        load_lora_state(model, adapters[task])
        both = []
        for strength in dial:
            set_strength(model, strength)
            both.append([100 * accuracy(model, tasks[name].X_test, tasks[name].y_test) for name in (task, "upright")])
        return list(zip(*both, strict=True))

    def update(task, strength):
        new, old = curves(task)
        load_lora_state(model, adapters[task])
        set_strength(model, strength)
        now = [values[dial.index(strength)] for values in (new, old)]
        move((new, old), strength, now)
        path.set_data(old, new)
        point.set_data([now[1]], [now[0]])
        heading.set_text(f"{now[0]:.0f} % new, {now[1]:.0f} % old")
        return [*moving, path, point, heading]

    def alt(task, strength):
        new, old = (values[dial.index(strength)] for values in curves(task))
        return f"The {task} adapter at strength {strength:g}: {new:.0f} % {task}, {old:.0f} % upright."

    start = {"task": next(iter(adapters)), "strength": 1.0}
    return Explorer(picture, update, alt, task=adapters, strength=dial, start=start, labels={"task": "adapter"})


@styled
def writing_explorer(written, losses):
    """What adapters write from one prompt at each strength: ``{(adapter, strength): text}``, leaf through it.

    ``losses`` is ``{(adapter, strength): (on the adapter's own kind of text, on the old prose)}``. Nine lines of a text
    are shown.
    """
    adapters, dial = (list(dict.fromkeys(key[i] for key in written)) for i in (0, 1))
    written = {key: _to_the_last_word(text) for key, text in written.items()}
    picture = figure("", height=3.6)
    chart, page = picture.subplots(1, 2, width_ratios=[1, 1.45])
    highest = 1.05 * max(map(max, losses.values()))
    moving, move = _new_and_old(
        chart, dial, "strength", "its own kind of text", "the old prose", "loss, nats per character", (0, highest)
    )
    heading, text, write = _page(page)

    def update(adapter, strength):
        own, old = zip(*(losses[adapter, s] for s in dial), strict=True)
        move((own, old), strength, losses[adapter, strength])
        heading.set_text(f"{adapter}, strength {strength:g}")
        write(written[adapter, strength])
        return [*moving, text, heading]

    def alt(adapter, strength):
        own, old = losses[adapter, strength]
        return (
            f"The adapter for {adapter} at strength {strength:g}: loss {own:.1f} on its own kind of text and {old:.1f} "
            f"on the old prose. It writes: {' '.join(written[adapter, strength].split())}"
        )

    full = min(dial, key=lambda strength: abs(strength - 1))
    return Explorer(picture, update, alt, adapter=adapters, strength=dial, start={"strength": full})


def _to_the_last_word(text):
    """A text that was cut anywhere, up to its last whole word."""
    return re.sub(r"\s*\S*$", " …", text, count=1)


def _page(axes, lines=9, columns=42):
    """Axes as a page of typescript: ``(heading, text, write)``; ``write(text)`` sets the first lines of a text."""
    axes.axis("off")
    text = axes.text(0, 0.94, "", va="top", family="monospace", fontsize=13, linespacing=1.5, parse_math=False)

    def write(content):
        rows = [row for line in content.splitlines() for row in textwrap.wrap(line, columns) or [""]]
        text.set_text("\n".join(rows[:lines]))

    return axes.set_title("x"), text, write


@styled
def forgetting_explorer(trainings, base):
    """What trainings have learned and forgotten, and what they write.

    ``trainings`` is ``{(method, rate, strength): (loss on the new text, loss on the old, text)}``, where ``rate`` is a
    name that all methods share, and ``base`` is ``(new, old, text)``, strength 0 of each.
    """
    methods, rates, dial = (list(dict.fromkeys(key[i] for key in trainings)) for i in range(3))
    dial = sorted({0, *dial})
    points = trainings | {(method, rate, 0): base for method in methods for rate in rates}
    points = {key: (new, old, _to_the_last_word(text)) for key, (new, old, text) in points.items()}
    picture = figure("", height=4.2)
    plane, page = picture.subplots(1, 2, width_ratios=[1.15, 1])
    xs, ys, _ = zip(*points.values(), strict=True)
    plane.plot(xs, ys, ".", color="#BBBBBB", markersize=6)
    finish_plane(plane, "", "loss on the new text", "loss on the old text", "↙", base[:2])
    (path,) = plane.plot(*base[:2], color=INKS["ΔW"], marker=".", markersize=9, zorder=4)  # over the base's star
    (here,) = plane.plot(*base[:2], "o", color=INKS["ΔW"], markersize=15, zorder=4)
    plane.set_yscale("log", base=2)  # what is forgotten in a bold training dwarfs the rest
    plane.yaxis.set_major_formatter("{x:g}")
    plane.set(xlim=(0.85 * min(xs), 1.15 * max(xs)), ylim=(0.75 * min(ys), 1.15 * max(ys)))
    heading, text, write = _page(page, lines=10, columns=36)

    def update(method, rate, strength):
        path.set_data(*zip(*(points[method, rate, s][:2] for s in dial), strict=True))
        new, old, content = points[method, rate, strength]
        here.set_data([new], [old])
        heading.set_text(f"new {new:.2f}, old {old:.2f}")
        write(content)
        return [path, here, heading, text]

    def alt(method, rate, strength):
        new, old, content = points[method, rate, strength]
        return (
            f"{method}, {rate} rate, at strength {strength:g}: loss {new:.2f} on the new text and {old:.2f} on the "
            f"old. It writes: {' '.join(content.split())}"
        )

    start = {"rate": rates[len(rates) // 2], "strength": dial[-1]}
    return Explorer(picture, update, alt, method=methods, rate=rates, strength=dial, start=start)


@styled
def race_explorer(trainings, base):
    """Methods at several rates: ``{(method, rate): [(loss on the new text, on the old), …]}``, a pair for each seed.

    All methods have the same rates. ``base`` is the pair where all began.
    """
    methods, rates = (list(dict.fromkeys(key[i] for key in trainings)) for i in (0, 1))
    centres = {
        key: [sum(losses) / len(losses) for losses in zip(*pairs, strict=True)] for key, pairs in trainings.items()
    }
    picture = figure("", height=4.4)
    plane, chart = picture.subplots(1, 2)
    xs, ys = zip(*(pair for pairs in trainings.values() for pair in pairs), strict=True)
    plane.plot(xs, ys, ".", color="#BBBBBB", markersize=6)
    finish_plane(plane, "", "loss on the new text", "loss on the old text", "↙", base)
    plane.set(xscale="log", yscale="log")
    (path,) = plane.plot(*base, color=INKS["ΔW"], zorder=4)
    (here,) = plane.plot(*base, "o", color=INKS["ΔW"], markersize=12, alpha=0.8, zorder=4)
    for method in methods:
        chart.plot(rates, [centres[method, rate][0] for rate in rates], color="#BBBBBB", linewidth=1.5)
    (valley,) = chart.plot(rates, [base[0]] * len(rates), ".-", color=INKS["ΔW"], zorder=4)
    (place,) = chart.plot(rates[:1], base[:1], "o", color=INKS["ΔW"], markersize=15, zorder=4)
    chart.set(xscale="log", xlabel="learning rate", ylabel="loss on the new text", title="Each has a rate of its own")
    lowest = min(new for new, _ in centres.values())
    chart.set_ylim(lowest - 0.05, lowest + 0.6)  # what has diverged is far above
    chart.set_xticks(rates, labels=[f"{rate:g}" for rate in rates])
    for axis in (plane.xaxis, plane.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    chart.xaxis.minorticks_off()
    heading = plane.set_title("x")

    def update(method, rate):
        ways = [centres[method, each] for each in rates]
        path.set_data(*zip(*ways, strict=True))
        here.set_data(*zip(*trainings[method, rate], strict=True))
        valley.set_data(rates, [new for new, _ in ways])
        place.set_data([rate], [centres[method, rate][0]])
        heading.set_text("new {:.2f}, old {:.2f}".format(*centres[method, rate]))
        return [path, here, valley, place, heading]

    def alt(method, rate):
        new, old = centres[method, rate]
        return f"{method} at {rate:g}: loss {new:.2f} on the new text and {old:.2f} on the old, mean of the seeds."

    return Explorer(picture, update, alt, method=methods, rate=rates, start={"rate": rates[len(rates) // 2]})


@styled
def rounding_explorer(weight, blocks):
    """A weight (m, n) before and after it is rounded to four bits, by format and size of block."""
    after = {(form, block): rounded(weight, form, block) for form in LEVELS for block in blocks}
    errors = {key: (100 * (back - weight).norm() / weight.norm()).item() for key, back in after.items()}
    picture = figure("", height=4.2)
    grid = picture.add_gridspec(2, 3, width_ratios=[0.9, 1.4, 1.4])
    before, now = (picture.add_subplot(grid[row, 0]) for row in (0, 1))
    stairs, chart = (picture.add_subplot(grid[:, column]) for column in (1, 2))
    corner = slice(24), slice(24)
    limit = weight[corner].abs().max().item()
    draw_matrix(before, weight[corner], "W", "32 bits", limit)
    cells = draw_matrix(now, weight[corner], "W", None, limit)
    below = {"ha": "center", "va": "top", "transform": now.transAxes, "color": INKS["W"], "fontweight": "bold"}
    said = now.text(0.5, -0.03, "x", **below)
    some, order = weight.flatten()[:64].sort()
    stairs.plot(some, "-", color="#222222", linewidth=2, label="32 bits")
    (steps,) = stairs.plot(some, ".", color=INKS["ΔW"], markersize=7, label="4 bits")
    stairs.set(xlabel="64 numbers, by size", title="One by one")
    stairs.set_ylim(-1.3 * some.abs().max().item(), 1.3 * some.abs().max().item())
    stairs.legend(loc="upper left")
    for marker, form in zip(MARKERS, LEVELS, strict=False):
        chart.plot(blocks, [errors[form, block] for block in blocks], marker=marker, label=form)
    (dot,) = chart.plot(blocks[:1], [0], "o", markersize=17, fillstyle="none", markeredgewidth=3, color=INKS["ΔW"])
    chart.set_xscale("log", base=2)
    chart.set_xticks(blocks[::2], labels=[f"{block:,}" for block in blocks[::2]])
    chart.set(xlabel="numbers in a block", ylabel="error, % of W", ylim=(0, 1.15 * max(errors.values())))
    chart.legend(loc="lower right")
    heading = chart.set_title("x")

    def update(form, block):
        back = after[form, block]
        cells.set_data(back[corner])
        said.set_text(f"{4 + 32 / block:.2f} bits")
        steps.set_ydata(back.flatten()[:64][order])
        dot.set_data([block], [errors[form, block]])
        heading.set_text(f"{errors[form, block]:.1f} % error")
        return [cells, said, steps, dot, heading]

    def alt(form, block):
        bits, error = 4 + 32 / block, errors[form, block]
        return f"{form} in blocks of {block}: {bits:.2f} bits a weight, an error of {error:.1f} % of W."

    return Explorer(picture, update, alt, form=list(LEVELS), block=list(blocks), start={"block": 64})


@styled
def surprise_explorer(surprises, columns=56, rows=4):
    """How much each character of a text surprises a model: ``{(text, strength): (characters, nats)}``.

    The darker a character's ground, the less the model expected it. As many are shown as fit in rows and columns; a
    line ends where a word does.
    """
    kinds, dial = (list(dict.fromkeys(key[i] for key in surprises)) for i in (0, 1))
    cut = {key: _lines_of_words(characters, columns, rows) for key, (characters, _) in surprises.items()}
    picture = figure("", height=2.3)
    picture.set_layout_engine("none")  # the letters must fall on their cells
    page = picture.add_axes([0.012, 0.04, 0.976, 0.76])
    bare(page)
    colours = LinearSegmentedColormap.from_list("surprise", ["white", "#E8741C"], N=65)  # black letters stay legible
    ground = page.imshow(torch.zeros(rows, columns), cmap=colours, vmin=0, vmax=math.log(len(ALPHABET)), aspect="auto")
    ground.set_extent((0, columns, rows, 0))
    letters = min(40, 72 * 0.976 * WIDTH / columns / 0.602)  # points: DejaVu's letters are 0.602 of their size wide
    lines = [
        page.text(0, i + 0.53, "", va="center", family="monospace", fontsize=letters, parse_math=False)
        for i in range(rows)
    ]
    heading = picture.text(0.012, 0.9, "x", fontsize=15, weight="bold", va="center")

    def update(text, strength=dial[0]):
        characters, nats = surprises[text, strength]
        cells = torch.zeros(rows, columns)
        for i, (first, last) in enumerate(cut[text, strength]):
            cells[i, : last - first] = torch.tensor(nats[first:last])
            lines[i].set_text(characters[first:last].replace("\n", "⏎"))
        ground.set_data(cells)
        at = f" at strength {strength:g}" * (len(dial) > 1)
        heading.set_text(f"{text}{at}: {sum(nats) / len(nats):.1f} nats a character")
        return [ground, *lines, heading]

    def alt(text, strength=dial[0]):
        characters, nats = surprises[text, strength]
        most = max(range(cut[text, strength][-1][1]), key=lambda i: nats[i])
        return (
            f"{heading.get_text()}. The greatest surprise, {nats[most]:.1f} nats, is {characters[most]!r} after "
            f"{characters[max(0, most - 12) : most]!r}."
        )

    return Explorer(picture, update, alt, text=kinds, **({"strength": dial} if len(dial) > 1 else {}))


def _lines_of_words(text, columns, rows):
    """Where the first lines of a text begin and end, ``[(first, last), …]``, with whole words in so many columns.

    A space or newline ends the line that it follows. Only a word longer than a line is cut. Lines may be empty.
    """
    lines, first = [], 0
    while first < len(text):
        last = min(first + columns, len(text))
        if last < len(text):
            spaces = [i for i in range(first, last) if text[i].isspace()]
            last = spaces[-1] + 1 if spaces else last
        lines.append((first, last))
        first = last
    return (lines + rows * [(first, first)])[:rows]


@styled
def similarity_explorer(maps, width, first, second):
    """How much of one adapter's directions lies among another's: ``{layer: φ}``, as ``subspace_similarity`` gives it.

    All maps have one shape. The directions live in a space of ``width`` dimensions, which says what chance alone would
    give. ``first`` and ``second`` are the adapters' names. The sliders stop where a number of directions is about half
    as much again: with each of them, all positions together would be a hundred thousand.
    """
    rows, columns = next(iter(maps.values())).shape
    picture = figure("", height=3.8)
    table, chart = picture.subplots(1, 2, width_ratios=[1, 1.1])
    image = table.imshow(
        torch.zeros(rows, columns), vmin=0, vmax=0.7, aspect="auto", extent=(0.5, columns + 0.5, rows + 0.5, 0.5)
    )
    (cross,) = table.plot([1], [1], "+", color=COLOURS["ΔW"], markersize=18, markeredgewidth=3, clip_on=False)
    table.set(xlabel=f"j: directions of {second}", ylabel=f"i: directions of {first}")
    table.grid(False)
    picture.colorbar(image, ax=table, label="φ(i, j) − chance")
    x, y = torch.arange(1, columns + 1), torch.arange(1, rows + 1)
    by_chance = torch.maximum(x, y[:, None]) / width
    (line,) = chart.plot(x, [0] * columns, color=COLOURS["ΔW"], label="φ(i, j)")
    (chance,) = chart.plot(x, [0] * columns, **LEVEL, label="by chance")
    (here,) = chart.plot([1], [0], "o", color=COLOURS["ΔW"], markersize=12)
    chart.set(xlabel="j", ylim=(0, 1.05), xlim=(0, columns + 1))
    chart.legend(loc="lower right", bbox_to_anchor=(1, 1))
    heading = chart.set_title("x")

    def update(layer, i, j):
        similarity = maps[layer]
        image.set_data(similarity - by_chance)
        cross.set_data([j], [i])
        line.set_ydata(similarity[i - 1])
        chance.set_ydata(by_chance[i - 1])
        here.set_data([j], [similarity[i - 1, j - 1]])
        heading.set_text(f"φ({i}, {j}) = {similarity[i - 1, j - 1]:.2f}")
        return [image, cross, line, chance, here, heading]

    def alt(layer, i, j):
        return (
            f"{layer}: of the first {i} directions of {first} and the first {j} of {second}, {heading.get_text()}. "
            f"Chance would give {max(i, j) / width:.2f}."
        )

    return Explorer(picture, update, alt, layer=maps, i=_stops(rows), j=_stops(columns))


def _stops(last):
    """1, 2, 3, 4, 6, 8, 12, 16, … up to the last and with it."""
    between = sorted({factor * 2**k for factor in (1, 3) for k in range(last.bit_length())})
    return [*(stop for stop in between if stop < last), last]
