"""``Explorer``: a figure with sliders that answers at once. The course's own explorers are in ``sliders``."""

import io
import threading
from collections.abc import Iterable
from contextlib import contextmanager

import anywidget
import numpy as np
import torch
import traitlets
from IPython import get_ipython
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import AxesImage
from PIL import Image

from .canvas import Recorder
from .figures import PIXELS_PER_INCH, picture_bundle, png_address
from .standalone import SCRIPT, STYLE, Standalone, key_of


class Explorer(anywidget.AnyWidget):
    """A figure with sliders under it: ``Explorer(figure, update, alt, rank=range(1, 65), alpha=[1, 2, 4, 8])``.

    ``update(rank=…, alpha=…)`` moves the figure's artists and returns those it moved, as matplotlib's own animations
    ask; always the same ones. ``alt(rank=…, alpha=…)`` describes in words what is then to be seen. The page paints the
    moved artists over a background of all the others, which stand still. Any artist can move, but for hatches and for
    images of more than 256 colours. ``start={"rank": 8}`` says where the sliders stand at first,
    ``labels={"lr": "learning rate"}`` what they are called. A slider whose options are all texts is a row of buttons.

    ``play="step"`` gives that slider a button that moves it from stop to stop. ``gliding=[image]`` are images that are
    seen to go where they lie next. ``product=(A, B, AB)``, three images of which the third is the product of the first
    two, can be touched: a cell shows its sum, a column of A or a row of B what it contributes.
    """

    _esm = SCRIPT
    _css = STYLE
    sliders = traitlets.List().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(sync=True)
    background = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(traitlets.Int()).tag(sync=True)
    play = traitlets.Unicode().tag(sync=True)
    gliding = traitlets.List(traitlets.Int()).tag(sync=True)
    product = traitlets.Dict().tag(sync=True)
    frames = traitlets.Dict().tag(sync=True)

    def __init__(self, figure, update, alt, start=None, labels=None, play="", gliding=(), product=(), **choices):
        self._choices = {name: list(options) for name, options in choices.items()}
        position = _start(self._choices, start or {})
        values = _at(self._choices, position)
        self._figure, self._update, self._alt, self._product = figure, update, alt, product
        with torch.random.fork_rng(devices=[]):
            self._moving = _moving(figure, update(**values))
            background = _background(figure, self._moving)
            self._recorder = Recorder(figure)
            frame = self._look(values)
        labels = labels or {}
        super().__init__(
            sliders=[
                {
                    "name": name,
                    "label": labels.get(name, name),
                    "kind": _kind(options),
                    "options": [*map(_text, options)],
                }
                for name, options in self._choices.items()
            ],
            position=position,
            background=png_address(background),
            size=[round(inches * PIXELS_PER_INCH) for inches in figure.get_size_inches()],
            play=play,
            gliding=[self._moving.index(image) for image in gliding],
            product=self._touchable(),
            frames={key_of(position): frame},
        )
        self.on_msg(self._answer)

    @property
    def values(self):
        """Where the sliders stand now: ``{"rank": 8, "alpha": 16}``."""
        return _at(self._choices, self.position)

    def standalone(self):
        """The same sliders with all their positions carried along, which need no kernel: for a website, for slides."""
        return Standalone(self)

    def still(self):
        """The figure at the sliders' position as a picture by matplotlib, for places where no script runs."""
        alt = self._frame(self.position)["alt"]
        with self._all_standing_still():
            return picture_bundle(self._figure, alt)

    @contextmanager
    def _all_standing_still(self):
        """For matplotlib, which leaves out what is animated."""
        for artist in self._moving:
            artist.set_animated(False)
        try:
            yield
        finally:
            for artist in self._moving:
                artist.set_animated(True)

    def _frame(self, position):
        values = _at(self._choices, position)
        with torch.random.fork_rng(devices=[]):  # a moved slider changes no later cell's random numbers
            self._update(**values)
            return self._look(values)

    def _look(self, values):
        """What the artists look like now that ``update`` has moved them there, in words and as data."""
        artists = [self._recorder.record(artist) for artist in self._moving]
        for image in self._product[:2]:  # the page reckons with these
            artists[self._moving.index(image)][0]["numbers"] = image.get_array().astype(float).round(2).tolist()
        return {"alt": self._alt(**values), "artists": artists}

    def _touchable(self):
        """What the page needs to know of a product: which images it is of, and the colours of its numbers."""
        if not self._product:
            return {}
        image = self._product[2]
        colours = image.cmap(range(image.cmap.N), bytes=True).view(np.uint32).ravel().tolist()
        images = [self._moving.index(image) for image in self._product]
        return {"images": images, "limit": image.get_clim()[1], "colours": colours}

    def _answer(self, _, question, buffers):
        _between_cells(lambda: self._send_frame(question["ask"]))

    def _send_frame(self, position):
        try:
            frame = self._frame(position)
        except Exception as error:  # the learner sees it under the picture, and the slider goes on working
            frame = {"error": f"{type(error).__name__}: {error}"}
        self.send({"key": key_of(position)} | frame)

    def _repr_mimebundle_(self, **kwargs):
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        picture, about = self.still()
        return bundle | picture, metadata | about


def _moving(figure, artists):
    """The artists that update returned, from back to front, and the frames of images, which lie over them."""
    if isinstance(artists, Artist) or not isinstance(artists, Iterable):
        raise TypeError(f"update must return a list of the artists it moved; it returned {artists!r}")
    artists = list(artists)
    for artist in artists:
        if not isinstance(artist, Artist) or artist.get_figure(root=True) is not figure:
            raise TypeError(f"update must return artists of the explorer's figure; among them is {artist!r}")
    images = [artist for artist in artists if isinstance(artist, AxesImage)]
    for image in images:
        if image.get_interpolation() in ("nearest", "auto", "antialiased"):
            # This looks the same where cells are large, and gives the recorder the cells themselves.
            image.set_interpolation("none")
    frames = [spine for image in images for spine in image.axes.spines.values() if spine.get_visible()]
    return sorted(dict.fromkeys(artists + frames), key=lambda artist: artist.get_zorder())


def _background(figure, moving):
    """All that stands still, as a PNG that is sharp on a screen with two pixels to a point, too."""
    for artist in moving:
        artist.set_animated(True)
    figure.set_dpi(2 * PIXELS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # the layout stays as it was found
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png")
    return buffer.getvalue()


def _between_cells(work):
    """Do it in the main thread, where no cell can be half-way through.

    JupyterLab hands a slider's questions to a thread of their own. Drawn there, in the middle of a cell, a training
    slider would seed that cell's random numbers anew.
    """
    if threading.current_thread() is threading.main_thread():
        work()
    else:
        get_ipython().kernel.io_loop.add_callback(work)


def _start(choices, start):
    """The index of the option at which each slider starts; ValueError for one that is not among the choices."""
    for name, options in choices.items():
        if not options:
            raise ValueError(f"the slider {name!r} has no options; give it a range or a list")
    for name, value in start.items():
        if name not in choices:
            raise ValueError(f"start names {name!r}, but the sliders are {', '.join(map(repr, choices))}")
        if value not in choices[name]:
            raise ValueError(f"{name} can't start at {value!r}; its options are {choices[name]}")
    return [options.index(start[name]) if name in start else 0 for name, options in choices.items()]


def _at(choices, position):
    return {name: options[i] for (name, options), i in zip(choices.items(), position, strict=True)}


def _kind(options):
    """A choice among names is easier to take from buttons, where all of them can be read."""
    return "buttons" if all(isinstance(option, str) for option in options) else "range"


def _text(option):
    return f"{option:g}" if isinstance(option, float) else str(option)
