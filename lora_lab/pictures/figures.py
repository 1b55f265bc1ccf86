"""Every figure of the course, one function each: data in, figure out, its point in the title.

W, A, B and ΔW keep one colour each throughout, and every figure carries a description in words, ``figure.alt``.
"""

import base64
import html
import io
from functools import wraps
from itertools import cycle
from pathlib import Path

import matplotlib
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

STYLE = Path(__file__).with_name("course.mplstyle")
PIXELS_PER_INCH = 100  # on the page; the picture itself is finer
WIDTH = 8.4  # inches: as wide as a notebook's page beside the file browser on a projector
COLOURS = {"W": "#0072B2", "A": "#E69F00", "B": "#009E73", "ΔW": "#D55E00"}
INKS = COLOURS | {"A": "#946400", "B": "#00795A", "ΔW": "#B84D00"}  # the same, dark enough for letters on white
# A dashed line across, to compare with: a noise floor, the loss of doing nothing.
LEVEL = {"color": "#777777", "linestyle": (0, (4, 3)), "linewidth": 1.3}
# Zero is white, positive numbers have the matrix's own colour, negative ones another, which colour-blind readers tell
# from it: grey in W, violet in what is trained. Few shades, so that a slider's images stay small.
NEGATIVE = {"W": "#404040", "A": "#5E3C99", "B": "#5E3C99", "ΔW": "#5E3C99"}
COLOUR_MAPS = {
    name: LinearSegmentedColormap.from_list(name, [NEGATIVE[name], "white", colour], N=33)
    for name, colour in COLOURS.items()
}


class CourseFigure(Figure):
    """A matplotlib figure that shows itself in a notebook as a picture with alternative text."""

    alt = ""

    def png(self):
        """The figure as the bytes of a PNG."""
        buffer = io.BytesIO()
        with _style():
            self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return picture_bundle(self, self.alt)


def picture_bundle(figure, alt):
    """A figure as a notebook output: a picture, narrower where the page is, with alternative text."""
    png, width = CourseFigure.png(figure), round(figure.get_figwidth() * PIXELS_PER_INCH)  # of any figure
    style = f"width: {width}px; max-width: 100%; background: white; border-radius: 8px"
    picture = f'<img alt="{html.escape(alt)}" style="{style}" src="{png_address(png)}">'
    return {"text/html": picture, "text/plain": alt}


def png_address(png):
    """A PNG's bytes as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure(alt, height=3.4, width=WIDTH):
    """An empty figure in the course's style, so many inches high, with a description in words."""
    with _style():
        empty = CourseFigure(figsize=(width, height), layout="constrained")
    empty.alt = alt
    return empty


def _style():
    return matplotlib.rc_context(fname=STYLE)


def styled(draw):
    """Run a function that draws in the course's style, whatever style the notebook has set."""

    @wraps(draw)
    def in_style(*args, **kwargs):
        with _style():
            return draw(*args, **kwargs)

    return in_style


def bare(axes):
    """Nothing but what is drawn: no ticks, no grid, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def headline(picture, title):
    """The point of a figure with several panels, above all of them."""
    picture.suptitle(title, x=0.01, ha="left", weight="bold")


def legend_beside(axes):
    """The legend at the right of the axes, where it hides no line."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


@styled
def draw_matrix(axes, matrix, kind, label=None, limit=None):
    """Draw an (m, n) matrix as a matrix into axes: a cell a number, in the colours of its kind; return the image."""
    image = axes.imshow(matrix.detach(), cmap=COLOUR_MAPS[kind], **_limits(matrix, limit), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=COLOURS[kind], linewidth=2)
    if label:
        axes.set_xlabel(label, color=INKS[kind], fontweight="bold")
    return image


def _limits(matrix, limit=None):
    """From where to where the colours go; by default so that one large number does not pale the others."""
    limit = limit or matrix.detach().abs().quantile(0.98).item() or 1.0
    return {"vmin": -limit, "vmax": limit}


def sheet(axes, width, height):
    """Make axes a sheet to lay matrices on: a cell is one unit wide and high, and y goes downwards."""
    bare(axes)
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height + 0.5, -0.5), aspect="equal")


def lay(axes, matrix, kind, left, top, label="", limit=None):
    """Lay an (m, n) matrix on a sheet, its upper left corner there, its label below; return its image and its frame."""
    m, n = matrix.shape
    place = (left, left + n, top + m, top)
    view = axes.axis()  # imshow would look at nothing but this image
    image = axes.imshow(matrix.detach(), cmap=COLOUR_MAPS[kind], **_limits(matrix, limit), extent=place)
    axes.axis(view)
    frame = axes.add_patch(Rectangle((left, top), n, m, fill=False, edgecolor=COLOURS[kind], linewidth=2))
    style = {"ha": "center", "color": INKS[kind], "fontweight": "bold", "linespacing": 1.25}
    axes.annotate(label, (left + n / 2, top + m), (0, -6), textcoords="offset points", va="top", **style)
    return image, frame


@styled
def lora_picture(weight, A, B):
    """LoRA in one picture, to scale: A (in, rank) times B (rank, out) is an update of the frozen W (in, out)."""
    (m, n), rank = weight.shape, A.shape[1]
    trained, frozen = rank * (m + n), m * n
    gap = 0.09 * n
    corner, width, height = rank + gap, rank + 3 * n + 7 * gap, rank + m + gap
    picture = figure(
        f"A multiplication table: a tall, thin matrix A, {m} by {rank}, at the left, a low, wide matrix B, {rank} by "
        f"{n}, above, and where they cross their product ΔW, {m} by {n} and of rank {rank}. Added to the frozen matrix "
        f"W of the same size it makes the merged matrix. A and B together hold {trained:,} numbers, W holds {frozen:,}.",
        height=1.1 + WIDTH * height / width,
    )
    axes = picture.subplots()
    sheet(axes, width, height)
    lay(axes, A, "A", 0, corner, f"A\n{m} × {rank}")
    lay(axes, B, "B", corner, 0)
    axes.text(corner + n + 0.4 * gap, rank / 2, f"B  {rank} × {n}", va="center", color=INKS["B"], fontweight="bold")
    lay(axes, A @ B, "ΔW", corner, corner, f"ΔW = A·B\n{m} × {n}")
    limit = _limits(weight)["vmax"]
    for sign, kind, matrix, label in (("+", "W", weight, "W, frozen"), ("=", "W", weight + A @ B, "W + ΔW, merged")):
        corner += n + 3 * gap
        axes.text(corner - 1.5 * gap, height - m / 2, sign, ha="center", va="center", fontsize=24)
        lay(axes, matrix, kind, corner, height - m, f"{label}\n{m} × {n}", limit)
    headline(picture, f"{trained:,} numbers learn, {frozen:,} stay as they are")
    return picture


@styled
def outer_products(terms):
    """A matrix as the sum of its first outer products: each of ``terms`` is (m, n) and of rank 1."""
    total = sum(terms)
    m, n = total.shape
    picture = figure(
        f"{len(terms)} matrices of {m} by {n}, each a pattern of stripes, and their sum, of rank {len(terms)}.",
        width=8,
        height=2.2,
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
        width=9,
        height=2.9,
    )
    last = list(images.values())[-1]
    for axes, (caption, image) in zip(picture.subplots(1, len(images)), images.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=last.min().item(), vmax=last.max().item())
        bare(axes)
        axes.set_title(caption, fontsize=10, fontweight="normal")
    headline(picture, title)
    return picture


# A second sign beside the colour, so that lines can be told apart without it.
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


@styled
def curves(x, lines, title, xlabel, ylabel, log=(), notes=None, markers=True, ylim=None, width=8.0, height=3.4):
    """Lines over one x: ``lines`` is ``{name: [y, …]}``, each as long as ``x``. Returns the figure.

    ``log`` holds "x", "y" or both. ``notes`` are dashed lines across, ``{"noise floor": 0.01}``.
    """
    described = "; ".join(f"{name} from {ys[0]:.2g} to {ys[-1]:.2g}" for name, ys in lines.items())
    described = described.replace("from nan to nan", "nowhere: it diverged")
    picture = figure(f"{title}. {ylabel} over {xlabel}: {described}.", width, height)
    axes = picture.subplots()
    for marker, (name, ys) in zip(cycle(MARKERS), lines.items(), strict=False):
        axes.plot(x, ys, marker=marker if markers else None, markevery=max(1, len(x) // 12), label=name)
    for name, level in (notes or {}).items():
        axes.axhline(level, **LEVEL)
        axes.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), va="bottom", color="#555555")
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


def loss_curves(losses, title, notes=None, log=True, xlabel="epoch (here one step)"):
    """Loss over epochs: ``losses`` is ``{name: [loss, …]}``, all of one length."""
    epochs = range(1, len(next(iter(losses.values()))) + 1)
    return curves(epochs, losses, title, xlabel, "loss", log=["y"] if log else [], notes=notes, markers=len(losses) > 1)


@styled
def first_step(gradient_A, gradient_B):
    """The gradients of A (in, rank) and B (rank, out) in the very first step, drawn to one scale."""
    (m, rank), n = gradient_A.shape, gradient_B.shape[1]
    picture = figure(
        f"The gradient of A, {m} by {rank}, is zero everywhere: a blank matrix. "
        f"The gradient of B, {rank} by {n}, is full of numbers.",
        width=6,
        height=3.2,
    )
    limit = max(gradient_A.abs().max().item(), gradient_B.abs().max().item())
    tall, wide = picture.subplots(1, 2, width_ratios=[1, 2.4])
    draw_matrix(tall, gradient_A, "A", f"gradient of A\n{m} × {rank}", limit)
    draw_matrix(wide, gradient_B, "B", f"gradient of B\n{rank} × {n}", limit)
    headline(picture, "In the first step B moves and A does not")
    return picture


def heat_cells(axes, values, rows, columns, row_label, column_label):
    """Draw a table of values (rows, columns) into axes, each in its cell: dark is small, on a logarithmic scale."""
    levels = values.log()
    axes.imshow(levels, aspect="auto")
    middle = (levels.min() + levels.max()) / 2
    for i in range(len(rows)):
        for j in range(len(columns)):
            colour = "white" if levels[i, j] < middle else "black"
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(columns)), labels=columns)
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.set(xlabel=column_label, ylabel=row_label)
    axes.grid(False)
    axes.spines[:].set_visible(False)


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
    picture = figure(f"{title}. Rows of handwritten digits: {', '.join(rows)}.", width=7, height=0.4 + 0.68 * len(rows))
    for axes, (label, images) in zip(picture.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        axes.imshow(mosaic(images.reshape(-1, 8, 8), len(images)), cmap="gray_r", vmin=0, vmax=1)
        bare(axes)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    headline(picture, title)
    return picture


@styled
def ledger_bars(ledgers, title):
    """Memory as stacked bars: ``{method: {"weights": bytes, …}}``, all with the same parts."""
    described = "; ".join(
        f"{method}: " + ", ".join(f"{part} {size / 1024:,.0f} KiB" for part, size in ledger.items())
        for method, ledger in ledgers.items()
    )
    picture = figure(f"{title}. {described}.", width=8, height=0.9 + 0.62 * len(ledgers))
    axes = picture.subplots()
    left = [0.0] * len(ledgers)
    colours = ["#0072B2", "#E69F00", "#CC79A7", "#999999"]
    for part, colour, hatch in zip(next(iter(ledgers.values())), colours, ["", "//", "..", "\\\\"], strict=True):
        sizes = [ledger[part] / 1024 for ledger in ledgers.values()]
        axes.barh(list(ledgers), sizes, left=left, label=part, color=colour, hatch=hatch, edgecolor="white")
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel="KiB")
    axes.set_title(title)
    legend_beside(axes)
    return picture


@styled
def frontier(paths, title, xlabel, ylabel):
    """Paths through two scores: ``{name: [(dial, x, y), …]}``, a dot for each setting of the dial, some with its value.

    The better, the further to the upper right.
    """
    described = "; ".join(
        f"{name} from {path[0][1]:.0f} and {path[0][2]:.0f} to {path[-1][1]:.0f} and {path[-1][2]:.0f}"
        for name, path in paths.items()
    )
    picture = figure(f"{title}. {ylabel} over {xlabel}: {described}.", width=7, height=3.6)
    axes = picture.subplots()
    for marker, (name, path) in zip(cycle(MARKERS), paths.items(), strict=False):
        dials, xs, ys = zip(*path, strict=True)
        (line,) = axes.plot(xs, ys, marker=marker, label=name)
        half = max(1, len(dials) // 2)
        for dial, x, y in path[half::half]:
            axes.annotate(f"{dial:g}", (x, y), (5, 5), textcoords="offset points", color=line.get_color(), fontsize=10)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title)
    legend_beside(axes)
    return picture


@styled
def bars(values, title, xlabel, alt):
    """Numbers as horizontal bars: ``{name: number}``. ``alt`` says what they are, not how large: times change."""
    picture = figure(alt, width=7, height=0.9 + 0.45 * len(values))
    axes = picture.subplots()
    axes.barh(list(values), list(values.values()), color=COLOURS["W"])
    axes.bar_label(axes.containers[0], fmt="{:.2f}", padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel=xlabel)
    axes.set_title(title)
    return picture


@styled
def scatter(groups, title, xlabel, ylabel):
    """Points by two scores: ``{name: [(x, y), …]}``, one point for each seed."""
    centres = {name: torch.tensor(points).mean(0).tolist() for name, points in groups.items()}
    described = "; ".join(f"{name} near {x:.1f} and {y:.1f}" for name, (x, y) in centres.items())
    picture = figure(f"{title}. {ylabel} over {xlabel}: {described}.", width=8, height=3.8)
    axes = picture.subplots()
    for marker, (name, points) in zip(cycle(MARKERS), groups.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker, markersize=9, alpha=0.85, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title)
    legend_beside(axes)
    return picture
