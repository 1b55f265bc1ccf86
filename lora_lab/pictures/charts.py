"""Figures of what was measured: data in, figure out, its point in the title."""

import math
from itertools import cycle

import torch
from matplotlib.ticker import NullFormatter

from .figures import HALO, INKS, MARKERS, figure, headline, legend_beside, mark_level, styled


@styled
def curves(x, lines, title, xlabel, ylabel, log=(), notes=None, markers=True, ylim=None, roles=None, broad=()):
    """Lines over one x: ``lines`` is ``{name: [y, …]}``, each as long as ``x``. Returns the figure.

    ``log`` holds "x", "y" or both. ``notes`` are dashed lines across, ``{"noise floor": 0.01}``. A line that stands for
    W, A, B or ΔW has its colour: ``roles={"the change": "ΔW"}``. Those named in ``broad`` are pale bands, over which
    another line is seen.
    """
    picture = figure(f"{title}. {ylabel} over {xlabel}: {_from_to(lines)}.")
    axes = picture.subplots()
    for marker, (name, ys) in zip(cycle(MARKERS), lines.items(), strict=False):
        (line,) = axes.plot(x, ys, marker=marker if markers else None, markevery=max(1, len(x) // 12), label=name)
        if name in (roles or {}):
            line.set_color(INKS[roles[name]])
        if name in broad:
            line.set(linewidth=11, alpha=0.3, linestyle="-", marker="", zorder=1)
    for name, level in (notes or {}).items():
        mark_level(axes, name, level)
    if "x" in log:
        axes.set_xscale("log", base=2 if xlabel.startswith("rank") else 10)
        axes.xaxis.set_major_formatter("{x:g}")
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
    axes.set_title(title)
    if len(lines) > 1:
        legend_beside(axes)
    return picture


def _from_to(lines, diverged="nowhere: it diverged"):
    """In words where each of ``{name: [y, …]}`` begins and ends."""
    reached = {name: [y for y in ys if not math.isnan(y)] for name, ys in lines.items()}
    said = {name: f"from {ys[0]:.2g} to {ys[-1]:.2g}" if ys else diverged for name, ys in reached.items()}
    return "; ".join(f"{name} {where}" for name, where in said.items())


def loss_curves(losses, title, notes=None, log=True, xlabel="epoch (here one step)"):
    """Loss over epochs: ``losses`` is ``{name: [loss, …]}``, all of one length."""
    epochs = range(1, len(next(iter(losses.values()))) + 1)
    return curves(epochs, losses, title, xlabel, "loss", log=["y"] if log else [], notes=notes, markers=len(losses) > 1)


@styled
def twin_curves(patient, healthy, title):
    """The losses of a patient and of its healthy twin: a line over a pale band, so that neither hides the other."""
    said = _from_to({"patient": patient, "healthy": healthy})
    picture = figure(f"{title}. loss over epoch: {said}.", height=2.9)
    axes, epochs = picture.subplots(), range(1, len(patient) + 1)
    axes.plot(epochs, healthy, "-", color="#1B7F8C", alpha=0.3, linewidth=11, solid_capstyle="round", label="healthy")
    axes.plot(epochs, patient, "-o", color="#222222", label="patient")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title)
    legend_beside(axes)
    return picture


@styled
def small_curves(losses, title):
    """Loss curves side by side, each on a scale of its own: ``{name: [loss, …]}``."""
    columns = 4
    rows = math.ceil(len(losses) / columns)
    picture = figure(f"{title}. {_from_to(losses, 'diverged')}.", height=0.6 + 1.25 * rows)
    for axes, (name, ys) in zip(_panels(picture, rows, columns, len(losses)), losses.items(), strict=True):
        axes.plot(ys, "-")
        axes.set(xticks=[], yticks=[], ylim=(0, None))
        axes.set_title(name, fontsize=13)
    headline(picture, title)
    return picture


def _panels(picture, rows, columns, count, **sharing):
    """The first ``count`` of so many panels; the others stay empty."""
    panels = picture.subplots(rows, columns, squeeze=False, **sharing).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels[:count]


@styled
def valleys(searches, title, xlabel, ylabel, best=min, columns=4):
    """Searches side by side: ``{name: {setting: score}}``. A ring on the best, a cross where one broke (None).

    The best setting stands beyond the ring, where no line comes: below the lowest, above the highest.
    """
    finished = {name: {x: y for x, y in tried.items() if y is not None} for name, tried in searches.items()}
    chosen = {name: best(tried, key=tried.get) for name, tried in finished.items()}
    described = "; ".join(f"{name} at {x:g}" for name, x in chosen.items())
    rows = math.ceil(len(searches) / columns)
    picture = figure(f"{title}. {ylabel} over {xlabel}, best for {described}.", height=0.8 + 1.85 * rows)
    panels = _panels(picture, rows, columns, len(searches), sharey=True)
    scores = [y for tried in finished.values() for y in tried.values()]
    low, top = min(scores), max(scores)
    span = top - low or 1
    below, above = (0.55, 0.12) if best is min else (0.12, 0.55)  # room for the best setting
    for axes, (name, tried) in zip(panels, searches.items(), strict=True):
        axes.plot(*zip(*finished[name].items(), strict=True), ".-")
        broken = [x for x, y in tried.items() if y is None]
        axes.plot(broken, [top] * len(broken), "X", color="#CC3377", markersize=10)
        x = chosen[name]
        ring = {"markersize": 14, "fillstyle": "none", "markeredgewidth": 2.5, "clip_on": False}
        axes.plot(x, tried[x], "o", color=INKS["ΔW"], **ring)
        beside = {"textcoords": "offset points", "ha": "center", "va": "center", "color": INKS["ΔW"]}
        axes.annotate(f"{x:g}", (x, tried[x]), (0, -20 if best is min else 20), path_effects=HALO, **beside)
        axes.set_title(name, fontsize=13)
        axes.set_xscale("log")
        axes.set_xticks([min(tried), max(tried)], labels=[f"{min(tried):g}", f"{max(tried):g}"])
        axes.xaxis.minorticks_off()
        axes.margins(x=0.18)
        axes.set_ylim(low - below * span, top + above * span)
    picture.supxlabel(xlabel)
    picture.supylabel(ylabel)
    headline(picture, title)
    return picture


@styled
def plane(groups, title, xlabel, ylabel, better, base=None):
    """Points by two scores: ``{name: [(x, y), …]}``, one for each seed; ``better`` is the corner, "↙" or "↗".

    ``base`` is where all began.
    """
    centres = {name: torch.tensor(points).mean(0).tolist() for name, points in groups.items()}
    ends = {}
    described = "; ".join(f"{name} near {x:.1f} and {y:.1f}" for name, (x, y) in centres.items())
    picture = figure(f"{title}. {ylabel} over {xlabel}: {described}.", height=4.5)
    axes = picture.subplots()
    for marker, (name, points) in zip(cycle(MARKERS), groups.items(), strict=False):
        (dots,) = axes.plot(*zip(*points, strict=True), marker, markersize=9, alpha=0.85)
        ends[name] = max(x for x, _ in points), centres[name][1], dots.get_color()
    finish_plane(axes, title, xlabel, ylabel, better, base)
    _label_beside(axes, ends)
    return picture


@styled
def frontier(paths, title, xlabel, ylabel, better, base=None):
    """Paths through two scores: ``{name: [(dial, x, y), …]}``, a dot for each setting of the dial, some with its value.

    ``better`` is the corner where both are, "↙" or "↗"; ``base`` is where all begin.
    """
    described = "; ".join(
        f"{name} from {path[0][1]:.3g} and {path[0][2]:.3g} to {path[-1][1]:.3g} and {path[-1][2]:.3g}"
        for name, path in paths.items()
    )
    picture = figure(f"{title}. {ylabel} over {xlabel}: {described}.", height=4.5)
    axes, ends = picture.subplots(), {}
    for marker, (name, path) in zip(cycle(MARKERS), paths.items(), strict=False):
        dials, xs, ys = zip(*path, strict=True)
        (line,) = axes.plot(xs, ys, marker=marker)
        half = len(dials) // 2
        beside = {"textcoords": "offset points", "color": line.get_color()}
        axes.annotate(f"{dials[half]:g}", (xs[half], ys[half]), (6, 6), **beside)
        ends[f"{name} at {dials[-1]:g}"] = xs[-1], ys[-1], line.get_color()
    finish_plane(axes, title, xlabel, ylabel, better, base)
    _label_beside(axes, ends)
    return picture


@styled
def predictors(measures, title, ylabel):
    """One score over several measures side by side: ``{heading: {name: [(x, y), …]}}``, all with the same names."""
    picture = figure(f"{title}. {ylabel} over: {'; '.join(measures)}.", height=3.7)
    panels = picture.subplots(1, len(measures), sharey=True)
    for axes, (heading, groups) in zip(panels, measures.items(), strict=True):
        for marker, (name, points) in zip(cycle(MARKERS), groups.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker, markersize=7, alpha=0.7, label=name)
        axes.set_title(heading, fontsize=13)
    panels[0].set_ylabel(ylabel)
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    headline(picture, title)
    return picture


def finish_plane(axes, title, xlabel, ylabel, better, base=None):
    """What every plane of two scores has: where all began, and which corner is better."""
    if base:
        axes.plot(*base, "*", markersize=20, color="black")
        axes.annotate("base", base, (12, 6), textcoords="offset points", weight="bold")
    x, y = {"↙": (0.02, 0.03), "↗": (0.98, 0.97)}[better]
    sides = {"ha": "left" if x < 0.5 else "right", "va": "bottom" if y < 0.5 else "top"}
    axes.text(x, y, f"better {better}", transform=axes.transAxes, color="#555555", style="italic", **sides)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title)
    axes.margins(x=0.22, y=0.12)


def _label_beside(axes, places):
    """Write names beside their places, ``{name: (x, y, colour)}``, a line apart where two would lie over each other."""
    axes.figure.draw_without_rendering()
    taken = []
    for name, (x, y, colour) in sorted(places.items(), key=lambda place: place[1][1]):
        across, up = axes.transData.transform((x, y)) / axes.figure.dpi * 72  # points
        width = 8 * len(name)
        lifted = up
        while any(
            abs(lifted - other) < 16 and across < right and left < across + width for left, right, other in taken
        ):
            lifted += 2
        taken.append((across, across + width, lifted))
        beside = {"textcoords": "offset points", "color": colour, "path_effects": HALO}
        axes.annotate(name, (x, y), (10, lifted - up - 4), **beside)


@styled
def costs(tasks, title, xlabel, ylabel):
    """What each method reaches for how many numbers: ``{task: {method: (numbers, [score, …])}}``, a dot for each seed.

    Methods that are numbers are ranks, and joined by a line.
    """
    described = "; ".join(
        f"{task}: " + ", ".join(f"{method} {sum(ys) / len(ys):.0f}" for method, (_, ys) in methods.items())
        for task, methods in tasks.items()
    )
    picture = figure(f"{title}. {ylabel}, mean over seeds. {described}.", height=3.9)
    (panels,) = picture.subplots(1, len(tasks), sharey=True, squeeze=False)
    for axes, (task, methods) in zip(panels, tasks.items(), strict=True):
        ranks = [(x, sum(ys) / len(ys)) for method, (x, ys) in methods.items() if isinstance(method, int)]
        axes.plot(*zip(*ranks, strict=True), color=INKS["ΔW"], label="LoRA, by rank")
        named = cycle([("s", "#222222"), ("D", INKS["W"])])
        for method, (x, ys) in methods.items():
            marker, colour = ("o", INKS["ΔW"]) if isinstance(method, int) else next(named)
            axes.plot([x] * len(ys), ys, marker, color=colour, label=None if isinstance(method, int) else method)
        axes.set(xscale="log", title=task, ylim=(0, 103))
    panels[0].set_ylabel(ylabel)
    panels[0].legend(loc="lower right")
    picture.supxlabel(xlabel)
    headline(picture, title)
    return picture


@styled
def seed_dots(rows, title, xlabel, groups=()):
    """One row a name, one dot a seed: ``{name: [number, …]}``, those in ``groups`` in a colour of their own."""
    described = "; ".join(f"{name} {min(xs):.2f} to {max(xs):.2f}" for name, xs in rows.items())
    picture = figure(f"{title}. {xlabel}: {described}.", height=1.2 + 0.34 * len(rows))
    axes = picture.subplots()
    for i, (name, xs) in enumerate(rows.items()):
        axes.plot(xs, [i] * len(xs), "o", markersize=10, alpha=0.8, color=INKS["ΔW"] if name in groups else "#222222")
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.set_title(title)
    return picture


@styled
def marks(rows, columns, title):
    """Which of ``columns`` each row has: ``{row: [True, False, …]}``, a dot where it is so."""
    described = "; ".join(
        f"{row}: {', '.join(c for c, has in zip(columns, found, strict=True) if has) or 'none'}"
        for row, found in rows.items()
    )
    picture = figure(f"{title}. {described}.", height=2.6 + 0.28 * len(rows))
    axes = picture.subplots()
    for i, found in enumerate(rows.values()):
        here = [j for j, has in enumerate(found) if has]
        axes.plot(here, [i] * len(here), "o", markersize=13, color=INKS["ΔW"])
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.set_xticks(range(len(columns)), labels=columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    headline(picture, title)
    return picture


@styled
def bars(values, title, xlabel, alt):
    """Numbers as horizontal bars: ``{name: number}``. ``alt`` says what they are, not how large: times change."""
    picture = figure(alt, height=1.0 + 0.5 * len(values))
    axes = picture.subplots()
    axes.barh(list(values), list(values.values()), color="#666666")
    axes.bar_label(axes.containers[0], fmt="{:.2f}", padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel=xlabel)
    axes.set_title(title)
    return picture


@styled
def number_lines(formats, title):
    """The numbers from −1 to 1 that formats can hold, a stroke for each: ``{name: [number, …]}``."""
    described = "; ".join(f"{name} has {len(numbers):,}" for name, numbers in formats.items())
    picture = figure(f"{title}. From −1 to 1 {described}.", height=1.2 + 0.55 * len(formats))
    axes = picture.subplots()
    for i, numbers in enumerate(formats.values()):
        dense = len(numbers) > 100
        axes.vlines(numbers, i - 0.34, i + 0.34, color=INKS["W"], linewidth=0.6 if dense else 2.2)
    axes.set_yticks(range(len(formats)), labels=formats)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set(xlim=(-1.02, 1.02), xlabel="number")
    axes.set_title(title)
    return picture


def heat_cells(axes, values, rows, columns, row_label, column_label):
    """Draw a table of values (rows, columns) into axes, each in its cell: dark is small, on a logarithmic scale."""
    levels = values.log()
    axes.imshow(levels, aspect="auto")
    middle = (levels.min() + levels.max()) / 2
    for i in range(len(rows)):
        for j in range(len(columns)):
            colour = "white" if levels[i, j] < middle else "black"
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), labels=columns)
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.set(xlabel=column_label, ylabel=row_label)
    axes.grid(False)
    axes.spines[:].set_visible(False)
