"""What all figures share: their style, their colours, how they show themselves, and how a matrix is drawn.

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
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

STYLE = Path(__file__).with_name("course.mplstyle")
PIXELS_PER_INCH = 100  # on the page; the picture itself is finer
WIDTH = 8.4  # inches: as wide as a notebook's page beside the file browser on a projector
COLOURS = {"W": "#0072B2", "A": "#E69F00", "B": "#009E73", "ΔW": "#D55E00"}
INKS = COLOURS | {"A": "#946400", "B": "#00795A", "ΔW": "#B84D00"}  # the same, dark enough for letters on white
# A second sign beside the colour, so that lines can be told apart without it.
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
# A dashed line across, to compare with: a noise floor, the loss of doing nothing.
LEVEL = {"color": "#777777", "linestyle": (0, (4, 3)), "linewidth": 1.3}
# Around a text that may lie on a line.
HALO = [withStroke(linewidth=4, foreground="white")]
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
    """A figure as a notebook output: data and metadata.

    HTML, with alternative text and as wide as the page at most; and for places that show images only, a plain PNG.
    """
    png, width = CourseFigure.png(figure), round(figure.get_figwidth() * PIXELS_PER_INCH)  # of any figure
    style = f"width: {width}px; max-width: 100%; background: white; border-radius: 8px"
    picture = f'<img alt="{html.escape(alt)}" style="{style}" src="{png_address(png)}">'
    data = {"text/html": picture, "text/plain": alt, "image/png": base64.b64encode(png).decode()}
    return data, {"image/png": {"alt": alt, "width": width}}


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


def mark_level(axes, name, height, x=0.01, **sides):
    """A dashed line across, to compare with, and its name, so far along it as ``x`` says from 0 to 1."""
    axes.axhline(height, **LEVEL)
    sides = {"va": "bottom", "color": "#555555", "path_effects": HALO} | sides
    axes.annotate(name, (x, height), xycoords=("axes fraction", "data"), **sides)


@styled
def mark_guess(picture, axis, number):
    """Mark what the reader has guessed in every panel of a figure: across at a height, "y", or upright, "x".

    The axis grows as far as it takes, but not without measure: a guess that is far off stands at its edge.
    """
    for axes in picture.axes:
        low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
        scale = axes.get_yscale() if axis == "y" else axes.get_xscale()
        reach = (low / 30, high * 30) if scale == "log" else (low - 3 * (high - low), high + 3 * (high - low))
        place = min(max(number, reach[0]), reach[1])
        limits = min(low, place), max(high, place)
        said = "your guess" if place == number else f"your guess: {number:g}"
        line = {"color": "#CC3377", "linestyle": ":", "linewidth": 2.5}
        label = {"textcoords": "offset points", "color": line["color"], "annotation_clip": False}
        if axis == "y":
            axes.set_ylim(limits)
            axes.axhline(place, **line)
            axes.annotate(said, (0.99, place), (0, 3), xycoords=("axes fraction", "data"), ha="right", **label)
        else:
            axes.set_xlim(limits)
            axes.axvline(place, **line)
            axes.annotate(said, (place, 0.99), (5, 0), xycoords=("data", "axes fraction"), va="top", **label)
    picture.alt += f" Your guess: {number:g}."


def legend_beside(axes):
    """The legend at the right of the axes, where it hides no line."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


@styled
def draw_matrix(axes, matrix, kind, label=None, limit=None):
    """Draw an (m, n) matrix as a matrix into axes: a cell a number, in the colours of its kind; return the image."""
    image = _cells(axes, matrix, kind, limit, aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=COLOURS[kind], linewidth=2)
    if label:
        axes.set_xlabel(label, color=INKS[kind], fontweight="bold")
    return image


def _cells(axes, matrix, kind, limit, **where):
    limit = limit or limit_of(matrix)
    return axes.imshow(matrix.detach(), cmap=COLOUR_MAPS[kind], vmin=-limit, vmax=limit, **where)


def limit_of(matrix):
    """Up to which size numbers are told apart by colour: so that one large number does not pale the others."""
    return matrix.detach().abs().quantile(0.98).item() or 1.0


def sheet(axes, width, height):
    """Make axes a sheet to lay matrices on: a cell is one unit wide and high, and y goes downwards."""
    bare(axes)
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height + 0.5, -0.5), aspect="equal")


def extent_of(matrix, left, top):
    """Where an (m, n) matrix lies on a sheet, as ``imshow`` takes it, its upper left corner there."""
    m, n = matrix.shape
    return left, left + n, top + m, top


def lay(axes, matrix, kind, left, top, label="", limit=None):
    """Lay an (m, n) matrix on a sheet, its upper left corner there, its label below; return its image and its frame."""
    (m, n), view = matrix.shape, axes.axis()
    image = _cells(axes, matrix, kind, limit, extent=extent_of(matrix, left, top))
    axes.axis(view)  # imshow looks at nothing but its image
    frame = axes.add_patch(Rectangle((left, top), n, m, fill=False, edgecolor=COLOURS[kind], linewidth=2))
    style = {"ha": "center", "color": INKS[kind], "fontweight": "bold", "linespacing": 1.25}
    axes.annotate(label, (left + n / 2, top + m), (0, -6), textcoords="offset points", va="top", **style)
    return image, frame
