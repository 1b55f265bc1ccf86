"""What the artists of a matplotlib figure look like now, as data that a page can paint on a canvas.

matplotlib draws on whatever has a renderer's methods. Ours draws nothing: it writes down what it is asked for, as
commands of three kinds, a path, an image or a line of text, in pixels of the page and with y downwards. How a line is
dashed, where its markers lie, what is left out where a number is missing, and how texts are aligned is thereby
matplotlib's own doing.
"""

import base64
from functools import cache

import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, BboxTransformTo

from .figures import PIXELS_PER_INCH

# A path is written as in SVG, which a page's Path2D reads.
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
CAPS = {"butt": "butt", "projecting": "square", "round": "round"}
FAR = 10_000  # pixels: a line is cut where it has left the page this far behind
POINT = PIXELS_PER_INCH / 72


class Recorder(RendererBase):
    """Writes down how artists of a figure are drawn. The figure's canvas is Agg's, which measures the texts."""

    def __init__(self, figure):
        super().__init__()
        agg = figure.canvas.get_renderer()
        self.points_to_pixels, self.get_canvas_width_height = agg.points_to_pixels, agg.get_canvas_width_height
        self.get_text_width_height_descent = cache(agg.get_text_width_height_descent)  # it takes a millisecond
        self.shrink = PIXELS_PER_INCH / figure.dpi
        self.to_page = Affine2D().translate(0, -figure.bbox.height).scale(self.shrink, -self.shrink)

    def record(self, artist):
        """The commands that draw this artist as it is now."""
        self.commands = []
        artist.draw(self)
        return self.commands

    def flipy(self):
        return True

    def option_scale_image(self):
        return True  # an image of interpolation "none" comes as its cells, and the page makes them large

    def draw_path(self, gc, path, transform, rgbFace=None):
        window = None if rgbFace is not None else (-FAR, -FAR, FAR, FAR)
        self._add(gc, _ink(gc, rgbFace), path=_svg(path, transform + self.to_page, window), dashes=_dashes(gc))

    def draw_markers(self, gc, marker_path, marker_trans, path, trans, rgbFace=None):
        places = (trans + self.to_page).transform(path.vertices)
        places = places[(np.abs(places) < FAR).all(1)].round(1).tolist()  # a missing number is not near, either
        shape = _svg(marker_path, marker_trans + Affine2D().scale(self.shrink, -self.shrink))
        self._add(gc, _ink(gc, rgbFace), path=shape, at=places)

    def draw_image(self, gc, x, y, im, transform=None):
        height, width = im.shape[:2]
        cells_to_figure = Affine2D() if transform is None else Affine2D().scale(1 / width, 1 / height) + transform
        place = (cells_to_figure + Affine2D().translate(x, y) + self.to_page).frozen().to_values()
        # A colour map has few colours: their numbers are a quarter of the colours themselves.
        colours, cells = np.unique(np.ascontiguousarray(im).view(np.uint32), return_inverse=True)
        if len(colours) > 256:
            raise ValueError(f"an image of {len(colours)} colours can't move with a slider; give it a colour map")
        cells = base64.b64encode(cells.astype(np.uint8).tobytes()).decode()
        # What was resampled for its transparency's sake has it in its colours.
        style = {} if transform is None else {"globalAlpha": gc.get_alpha()}
        self._add(gc, style, size=[width, height], place=place, colours=colours.tolist(), cells=cells)

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        if ismath:
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)  # a formula, as paths
            return
        others = "monospace" if "Mono" in prop.get_name() else "Verdana, sans-serif"  # which are of about its width
        font = f"{prop.get_style()} {prop.get_weight()} {prop.get_size_in_points() * POINT:.1f}px"
        style = {"font": f"{font} '{prop.get_name()}', {others}", "fillStyle": _colour(gc.get_rgb())}
        width = self.get_text_width_height_descent(s, prop, ismath)[0]
        x, y, width = (round(pixels * self.shrink, 1) for pixels in (x, y, width))
        self._add(gc, style, text=s, place=[x, y], width=width, angle=angle)

    def _add(self, gc, style, **command):
        clips, (path, transform) = [], gc.get_clip_path()
        if box := gc.get_clip_rectangle():
            clips.append(_svg(Path.unit_rectangle(), BboxTransformTo(box) + self.to_page))
        if path:
            clips.append(_svg(path, transform + self.to_page))
        self.commands.append({"clips": clips, "style": style} | command)


def _svg(path, transform, window=None):
    """The path, moved to the page, as SVG writes it, broken where a number is missing."""
    return "".join(
        LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(f"{number:.1f}" for number in points))
        for points, code in path.iter_segments(transform, clip=window, simplify=False)
    )


def _ink(gc, face):
    """How a path is filled and stroked, as properties of a canvas's context."""
    if gc.get_hatch():
        raise ValueError(f"the hatch '{gc.get_hatch()}' can't move with a slider; give the artist a plain colour")
    ink = {}
    if face is not None:
        alpha = gc.get_alpha() if gc.get_forced_alpha() or len(face) == 3 else face[3]
        ink["fillStyle"] = _colour((*face[:3], alpha))
    if gc.get_linewidth():
        ink["strokeStyle"] = _colour(gc.get_rgb())
        ink["lineWidth"] = round(gc.get_linewidth() * POINT, 2)
        ink |= {"lineCap": CAPS[gc.get_capstyle()], "lineJoin": gc.get_joinstyle()}
        ink["lineDashOffset"] = gc.get_dashes()[0] * POINT
    return ink


def _dashes(gc):
    return [round(length * POINT, 2) for length in gc.get_dashes()[1] or []]


def _colour(rgba):
    return to_hex(rgba, keep_alpha=True)
