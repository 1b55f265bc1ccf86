"""Every figure of the course, one function each: data in, figure out, its point in the title.

W, A, B and ΔW keep one colour each throughout, and every figure carries a description in words, ``figure.alt``.
"""

import base64
import html
import io
from functools import wraps
from pathlib import Path

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("course.mplstyle")
COLOURS = {"W": "#0072B2", "A": "#E69F00", "B": "#009E73", "ΔW": "#D55E00"}
# Negative numbers are grey, zero is white, positive ones have the matrix's own colour.
COLOUR_MAPS = {name: LinearSegmentedColormap.from_list(name, ["#404040", "white", c]) for name, c in COLOURS.items()}


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
        source = base64.b64encode(self.png()).decode()
        width = round(self.get_figwidth() * 100)
        shape = f'style="width: {width}px; max-width: 100%"'
        picture = f'<img alt="{html.escape(self.alt)}" {shape} src="data:image/png;base64,{source}">'
        return {"text/html": picture, "text/plain": self.alt}


def figure(alt, width=7.0, height=3.0):
    """An empty figure in the course's style, ``width`` × ``height`` inches, with a description in words."""
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


@styled
def draw_matrix(axes, matrix, kind, label=None, limit=None):
    """Draw an (m, n) matrix as a matrix into axes: a cell a number, in the colours of its kind; return the image."""
    matrix = matrix.detach()
    limit = limit or matrix.abs().quantile(0.98).item() or 1.0  # so that one large number does not pale the others
    image = axes.imshow(matrix, cmap=COLOUR_MAPS[kind], vmin=-limit, vmax=limit, aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=COLOURS[kind], linewidth=2)
    if label:
        axes.set_xlabel(label, color=COLOURS[kind], fontweight="bold")
    return image


@styled
def lora_picture(weight, A, B):
    """LoRA in one picture, to scale: A (in, rank) times B (rank, out) is an update of the frozen W (in, out)."""
    (m, n), rank = weight.shape, A.shape[1]
    trained, frozen = rank * (m + n), m * n
    picture = figure(
        f"A tall, thin matrix A, {m} by {rank}, times a low, wide matrix B, {rank} by {n}, makes an update ΔW, {m} by "
        f"{n} and of rank {rank}, which is added to the frozen matrix W of the same size. A and B together hold "
        f"{trained:,} numbers, W holds {frozen:,}.",
        width=9,
        height=3.1,
    )
    gap = 0.16 * n
    grid = picture.add_gridspec(1, 8, width_ratios=[0.6 * gap, rank, gap, n, gap, n, 2 * gap, n])
    tall, times, wide, equals, product, added, left = (picture.add_subplot(cell) for cell in list(grid)[1:])
    for axes, sign, size in ((times, "·", 26), (equals, "=", 26), (added, "added to", 12)):
        axes.axis("off")
        axes.text(0.5, 0.5, sign, ha="center", va="center", fontsize=size, transform=axes.transAxes)
    draw_matrix(tall, A, "A", f"A\n{m} × {rank}")
    draw_matrix(wide, B, "B", f"B\n{rank} × {n}")
    draw_matrix(product, A @ B, "ΔW", f"ΔW, of rank {rank}\n{m} × {n}")
    draw_matrix(left, weight, "W", f"W, frozen\n{m} × {n}")
    picture.suptitle(f"{trained:,} numbers learn, {frozen:,} stay as they are", x=0.01, ha="left", weight="bold")
    return picture
