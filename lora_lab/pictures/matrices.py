"""Figures of what is inside: matrices to scale, sums of patterns, images, the first steps of a training."""

import torch
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle

from .figures import (
    COLOUR_MAPS,
    COLOURS,
    INKS,
    WIDTH,
    bare,
    draw_matrix,
    figure,
    headline,
    lay,
    limit_of,
    sheet,
    styled,
)


@styled
def product_picture(A, B, title):
    """A multiplication table, to scale: A (m, r) at the left, B (r, n) above, and where they cross their product."""
    (m, rank), n = A.shape, B.shape[1]
    gap = 0.09 * n
    corner, width = rank + gap, rank + n + 3 * gap
    picture = figure(
        f"{title}. A multiplication table: A, {m} by {rank}, at the left, B, {rank} by {n}, above, and their product, "
        f"{m} by {n}, where they cross.",
        height=3.6,
    )
    axes = picture.subplots()
    sheet(axes, width, corner + m)
    _lay_product(axes, A, B, corner, gap, "A·B")
    headline(picture, title)
    return picture


def _lay_product(axes, A, B, corner, gap, label):
    (m, rank), n = A.shape, B.shape[1]
    lay(axes, A, "A", corner - gap - rank, corner, f"A\n{m} × {rank}")
    lay(axes, B, "B", corner, corner - gap - rank)
    axes.text(corner + n + 0.4 * gap, rank / 2, f"B  {rank} × {n}", va="center", color=INKS["B"], fontweight="bold")
    lay(axes, A @ B, "ΔW", corner, corner, f"{label}\n{m} × {n}")


@styled
def lora_picture(weight, A, B):
    """LoRA in one picture, to scale: A (in, rank) times B (rank, out) is an update of the frozen W (in, out)."""
    (m, n), rank = weight.shape, A.shape[1]
    trained, frozen = rank * (m + n), m * n
    gap = 0.09 * n
    corner = max(rank, 2 * gap) + gap  # room for the label of a thin A
    width, height = corner + 3 * n + 6 * gap, corner + m
    picture = figure(
        f"A multiplication table: a tall, thin matrix A, {m} by {rank}, at the left, a low, wide matrix B, {rank} by "
        f"{n}, above, and where they cross their product ΔW, {m} by {n} and of rank {rank}. Added to the frozen W of "
        f"the same size it makes the merged matrix. A and B together hold {trained:,} numbers, W holds {frozen:,}.",
        height=1.1 + WIDTH * height / width,
    )
    axes = picture.subplots()
    sheet(axes, width, height)
    _lay_product(axes, A, B, corner, gap, "ΔW = A·B")
    limit = limit_of(weight)
    for sign, matrix, label in (("+", weight, "W, frozen"), ("=", weight + A @ B, "W + ΔW, merged")):
        corner += n + 3 * gap
        axes.text(corner - 1.5 * gap, height - m / 2, sign, ha="center", va="center", fontsize=24)
        lay(axes, matrix, "W", corner, height - m, f"{label}\n{m} × {n}", limit)
    headline(picture, f"{trained:,} numbers learn, {frozen:,} stay as they are")
    return picture


@styled
def outer_products(terms):
    """A matrix as the sum of its first outer products: each of ``terms`` is (m, n) and of rank 1."""
    total = sum(terms)
    m, n = total.shape
    picture = figure(
        f"{len(terms)} matrices of {m} by {n}, each a pattern of stripes, and their sum, of rank {len(terms)}.",
        height=2.5,
    )
    limit = total.abs().max().item()
    panels = picture.subplots(1, len(terms) + 1)
    for i, (axes, term) in enumerate(zip(panels, terms, strict=False), start=1):
        draw_matrix(axes, term, "ΔW", f"σ{_subscript(i)} · u{_subscript(i)} v{_subscript(i)}ᵀ", limit)
    draw_matrix(panels[-1], total, "ΔW", f"their sum, rank {len(terms)}", limit)
    for sign, axes in zip(["+"] * (len(terms) - 1) + ["="], panels[1:], strict=True):
        axes.text(-0.12, 0.5, sign, ha="center", va="center", fontsize=18, transform=axes.transAxes)
    headline(picture, f"{len(terms)} patterns of stripes add up to a matrix of rank {len(terms)}")
    return picture


def _subscript(number):
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


@styled
def approximations(images, title):
    """Grey-scale images side by side: ``{caption: (height, width)}``, all on the scale of the last."""
    picture = figure(
        f"{title}. Side by side: {', '.join(caption.replace(chr(10), ', ') for caption in images)}.",
        height=2.7,
    )
    last = list(images.values())[-1]
    for axes, (caption, image) in zip(picture.subplots(1, len(images)), images.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=last.min().item(), vmax=last.max().item())
        bare(axes)
        axes.set_title(caption, fontsize=13, fontweight="normal")
    headline(picture, title)
    return picture


@styled
def first_steps(pulls, sizes, title):
    """Who gets a gradient: ``{start: [(norm for A, norm for B), …]}``, one pair a step; ``sizes`` is (in, rank, out).

    The way of x through A, a waist as narrow as the rank, and B, to scale; arrows back, as thick as the gradients.
    """
    described = "; ".join(
        f"{start}: " + ", then ".join(f"A {a:.2g} and B {b:.2g}" for a, b in steps) for start, steps in pulls.items()
    )
    steps = len(next(iter(pulls.values())))
    picture = figure(f"{title}. Gradients, step by step. {described}.", height=0.9 + 1.5 * steps)
    panels = picture.subplots(steps, len(pulls), squeeze=False)
    strongest = max(max(pair) for pairs in pulls.values() for pair in pairs)
    for column, (start, pairs) in zip(panels.T, pulls.items(), strict=True):
        column[0].set_title(start)
        for i, (axes, pair) in enumerate(zip(column, pairs, strict=True)):
            _way_through(axes, sizes, [norm / strongest for norm in pair])
            axes.set_ylabel(f"step {i + 1}" if start == next(iter(pulls)) else "", rotation=0, ha="right", va="center")
    headline(picture, title)
    return picture


def _narrow(axes, name, start, end, left, right, middle=0):
    """A matrix as what it does: so many numbers come in at ``start`` as ``left`` is high, so many leave at ``end``."""
    corners = [(start, middle - left / 2), (start, middle + left / 2), (end, middle + right / 2)]
    corners.append((end, middle - right / 2))
    axes.add_patch(Polygon(corners, facecolor=COLOURS[name], edgecolor=INKS[name], alpha=0.75))
    axes.text((start + end) / 2, middle, name, ha="center", va="center", weight="bold")


def _way_through(axes, sizes, pulls):
    """x, A, the waist, B and y as heights, and under A and B an arrow back: none, crossed out, where nothing pulls."""
    bare(axes)
    heights = [size / max(sizes) for size in sizes]
    axes.set(xlim=(-0.1, 2.1), ylim=(-1.15, 0.62))
    for i, (name, pull) in enumerate(zip("AB", pulls, strict=True)):
        _narrow(axes, name, i, i + 1, heights[i], heights[i + 1])
        if pull:
            arrow = {"arrowstyle": "simple", "mutation_scale": 8 + 40 * pull**0.5, "color": INKS[name], "linewidth": 0}
            axes.add_patch(FancyArrowPatch((i + 0.95, -0.85), (i + 0.05, -0.85), **arrow))
        else:
            axes.text(i + 0.5, -0.85, "✗", ha="center", va="center", fontsize=20, color="#444444")


@styled
def two_ways(m, rank, n, title):
    """The two ways of x through a layer with LoRA, to scale: W, and A and B with a waist as narrow as the rank."""
    picture = figure(
        f"{title}. x, {m} numbers, goes through W to {n} numbers, and beside it through A to {rank} and B to {n}. The "
        "two results are added.",
        height=3.6,
    )
    axes = picture.subplots()
    bare(axes)
    axes.set(xlim=(-0.25, 3.1), ylim=(-2.1, 0.6))
    heights = [size / max(m, n) for size in (m, rank, n)]
    _narrow(axes, "W", 0, 2, heights[0], heights[2])
    _narrow(axes, "A", 0, 1, heights[0], heights[1], middle=-1.3)
    _narrow(axes, "B", 1, 2, heights[1], heights[2], middle=-1.3)
    for middle in (0, -1.3):
        axes.text(-0.04, middle, f"x: {m}", ha="right", va="center")
        axes.annotate("", (2.42, -0.65 + 0.1 * (middle + 0.65)), (2.05, middle), arrowprops={"arrowstyle": "->"})
    axes.text(1, -1.3 - heights[1] / 2 - 0.08, f"{rank}", ha="center", va="top", color=INKS["A"], weight="bold")
    axes.text(2.5, -0.65, "+", ha="center", va="center", fontsize=24)
    axes.text(2.62, -0.65, f"y: {n}", va="center")
    headline(picture, title)
    return picture


@styled
def cosine_maps(cosines, title, threshold, rows=16):
    """How the directions of one matrix resemble another's: ``{name: (old, new)}``, sizes of cosines, side by side.

    A column is a new direction. A mark stands under one that resembles no old direction, shown here or not, by
    ``threshold`` or more. The first ``rows`` old directions are shown.
    """
    alien = {name: (found.amax(0) < threshold).nonzero()[:, 0].tolist() for name, found in cosines.items()}
    described = "; ".join(f"{name}: {', '.join(str(j + 1) for j in js) or 'none'}" for name, js in alien.items())
    picture = figure(f"{title}. Columns marked, {described}.", height=4.4)
    panels = picture.subplots(1, len(cosines), sharey=True)
    for axes, (name, found) in zip(panels, cosines.items(), strict=True):
        columns = found.shape[1]
        where = {"extent": (0.5, columns + 0.5, rows + 0.5, 0.5)}
        axes.imshow(found[:rows], cmap=COLOUR_MAPS["W"], vmin=-1, vmax=1, aspect="auto", **where)
        axes.set_xticks([1, columns])
        axes.grid(False)
        for j in alien[name]:
            axes.plot(j + 1, rows + 1.3, "^", color=INKS["ΔW"], markersize=9)
        axes.set(ylim=(rows + 2, 0.5))
        axes.set_title(name, fontsize=13)
    panels[0].set_yticks([1, rows])
    panels[0].set_ylabel("directions of W")
    picture.supxlabel("directions of W + ΔW")
    headline(picture, title)
    return picture


def mosaic(images, columns):
    """Images (n, height, width) in rows of so many, a blank line between them: one image for imshow."""
    n, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.zeros(rows * (height + 1), columns * (width + 1))
    for i, image in enumerate(images):
        top, left = (height + 1) * (i // columns), (width + 1) * (i % columns)
        sheet[top : top + height, left : left + width] = image
    return sheet[:-1, :-1]


@styled
def digit_rows(rows, title):
    """Rows of handwritten digits, one below the other: ``{label: (n, 64)}``, ink from 0 to 1."""
    picture = figure(f"{title}. Rows of handwritten digits: {', '.join(rows)}.", height=0.5 + 0.75 * len(rows))
    for axes, (label, images) in zip(picture.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        axes.imshow(mosaic(images.reshape(-1, 8, 8), len(images)), cmap="gray_r", vmin=0, vmax=1)
        bare(axes)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    headline(picture, title)
    return picture


@styled
def block_picture(matrices, title, rank=0):
    """A model's matrices to scale: ``{name: (in, out)}``, side by side, each with its number of numbers.

    With a rank A (in, rank) lies at the left edge of each, and B (rank, out) above it.
    """
    described = ", ".join(f"{name} {m} by {n}" for name, (m, n) in matrices.items())
    described += f"; each with A, {rank} wide, at its left edge and B, {rank} high, above" if rank else ""
    gap = 6 * rank + 0.1 * max(max(shape) for shape in matrices.values())
    width = sum(n + gap for _, n in matrices.values()) - gap
    height = rank + max(m for m, _ in matrices.values())
    picture = figure(f"{title}. Rectangles to scale: {described}.", height=1.2 + WIDTH * height / width)
    axes, left = picture.subplots(), rank
    sheet(axes, width + rank, height)
    for name, (m, n) in matrices.items():
        top = height - m
        axes.add_patch(Rectangle((left, top), n, m, facecolor=COLOURS["W"], alpha=0.25, edgecolor=INKS["W"]))
        if rank:
            axes.add_patch(Rectangle((left - rank, top), rank, m, color=COLOURS["A"]))
            axes.add_patch(Rectangle((left, top - rank), n, rank, color=COLOURS["B"]))
        axes.text(left + n / 2, height - m / 2, name, ha="center", va="center", weight="bold")
        axes.annotate(f"{m * n:,}", (left + n / 2, height), (0, -6), textcoords="offset points", ha="center", va="top")
        left += n + gap
    headline(picture, title)
    return picture


@styled
def ruler(low, high, start, step, title):
    """The numbers that bfloat16 knows between ``low`` and ``high``, and where ``start + step`` falls among them."""
    known, x = [low], torch.tensor(low, dtype=torch.bfloat16)
    while known[-1] < high:
        x = torch.nextafter(x, torch.tensor(torch.inf, dtype=torch.bfloat16))
        known.append(x.item())
    landed = (torch.tensor(start, dtype=torch.bfloat16) + step).item()
    picture = figure(f"{title}. Of {len(known)} numbers on a ruler, {start + step:g} falls to {landed:g}.", height=1.9)
    axes = picture.subplots()
    axes.set(xlim=(low - 0.001, high + 0.001), ylim=(-0.5, 1.6), yticks=[])
    axes.set_xticks(known, labels=[f"{number:.4g}" for number in known], rotation=90)
    axes.vlines(known, 0, 0.5, color=INKS["W"], linewidth=2)
    axes.plot(start + step, 1.1, "o", color=INKS["ΔW"], markersize=10)
    axes.annotate(f"{start:g} + {step:g}", (start + step, 1.1), (10, 0), textcoords="offset points", va="center")
    axes.annotate(
        "", (landed, 0.55), (start + step, 1.05), arrowprops={"arrowstyle": "->", "color": INKS["ΔW"], "linewidth": 2}
    )
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    headline(picture, title)
    return picture
