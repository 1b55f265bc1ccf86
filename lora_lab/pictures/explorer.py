"""``Explorer``: a figure with sliders that answers at once. The course's own explorers are in ``sliders``."""

import io
import itertools
import json
import threading
import zlib
from pathlib import Path

import anywidget
import torch
import traitlets
from IPython import get_ipython
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from .figures import PIXELS_PER_INCH, picture_bundle, png_address

HERE = Path(__file__).parent


class Explorer(anywidget.AnyWidget):
    """A figure with sliders under it: ``Explorer(figure, update, alt, rank=range(1, 65), alpha=[1, 2, 4, 8])``.

    ``update(rank=…, alpha=…)`` moves the figure's artists and returns those it moved, as matplotlib's own animations
    ask; always the same ones. ``alt(rank=…, alpha=…)`` describes in words what is then to be seen. Only the moved
    artists are drawn again, on one canvas that is kept. ``start={"rank": 8}`` says where the sliders stand at first,
    ``labels={"lr": "learning rate"}`` what they are called.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    sliders = traitlets.List().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(sync=True)
    frames = traitlets.Dict().tag(sync=True)
    width = traitlets.Int().tag(sync=True)

    def __init__(self, figure, update, alt, start=None, labels=None, **choices):
        self._choices = {name: list(options) for name, options in choices.items()}
        position = _start(self._choices, start or {})
        self._update, self._alt = update, alt
        values = _at(self._choices, position)
        with torch.random.fork_rng(devices=[]):
            self._canvas = _Canvas(figure, update(**values))
        labels = labels or {}
        super().__init__(
            sliders=[
                {"name": name, "label": labels.get(name, name), "options": [_text(option) for option in options]}
                for name, options in self._choices.items()
            ],
            position=position,
            frames={_key(position): {"png": self._canvas.png(), "alt": alt(**values)}},
            width=round(figure.get_figwidth() * PIXELS_PER_INCH),
        )
        self.on_msg(self._answer)

    @property
    def values(self):
        """Where the sliders stand now: ``{"rank": 8, "alpha": 16}``."""
        return _at(self._choices, self.position)

    def with_all_frames(self):
        """The same sliders with every picture carried along, which need no kernel: for a website or exported HTML."""
        positions = itertools.product(*(range(len(options)) for options in self._choices.values()))
        return _Carried(self, {_key(position): self._frame(position) for position in positions})

    def _frame(self, position):
        values = _at(self._choices, position)
        with torch.random.fork_rng(devices=[]):  # a moved slider changes no later cell's random numbers
            self._update(**values)
            return {"png": self._canvas.png(), "alt": self._alt(**values)}

    def _answer(self, _, question, buffers):
        _between_cells(lambda: self._draw(question))

    def _draw(self, question):
        key = _key(question["ask"])
        try:
            frame = self._frame(question["ask"])
        except Exception as error:  # the learner sees it under the picture, and the slider goes on working
            self.send({"key": key, "error": f"{type(error).__name__}: {error}"})
        else:
            self.send({"key": key, "alt": frame["alt"]}, buffers=[frame["png"]])

    def _repr_mimebundle_(self, **kwargs):
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        frame = self.frames.get(_key(self.position)) or self._frame(self.position)
        return bundle | picture_bundle(frame["png"], frame["alt"], self.width), metadata


class _Canvas:
    """One persistent canvas: what stands still is drawn once, what moves is drawn onto a copy of that."""

    def __init__(self, figure, moving):
        self.moving = sorted(moving, key=lambda artist: artist.get_zorder())
        for artist in self.moving:
            artist.set_animated(True)
        # A pixel of the picture for a pixel of the page. Finer, it would take twice as long to draw and to send.
        figure.set_dpi(PIXELS_PER_INCH)
        self.canvas = FigureCanvasAgg(figure)
        self.canvas.draw()
        figure.set_layout_engine("none")  # the layout stays as it was found
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def png(self):
        """The figure as it is now, as the bytes of a PNG."""
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            self.canvas.figure.draw_artist(artist)
        buffer = io.BytesIO()
        drawn = Image.frombuffer("RGBA", self.canvas.get_width_height(), self.canvas.buffer_rgba())
        drawn.convert("RGB").save(buffer, "png", compress_level=1)
        return buffer.getvalue()


class _Carried:
    """An explorer that carries all its pictures and its own script: HTML that stands alone."""

    def __init__(self, explorer, frames):
        self.explorer, self.frames = explorer, frames

    def _repr_mimebundle_(self, include=None, exclude=None):
        explorer = self.explorer
        first = self.frames[_key(explorer.position)]
        bundle = picture_bundle(first["png"], first["alt"], explorer.width)
        return bundle | {"text/html": self.html(bundle["text/html"])}

    def html(self, fallback=""):
        """The sliders as a piece of a page, ``fallback`` shown where scripts don't run."""
        explorer = self.explorer
        state = {
            "sliders": explorer.sliders,
            "position": explorer.position,
            "width": explorer.width,
            "frames": {key: frame | {"png": png_address(frame["png"])} for key, frame in self.frames.items()},
        }
        script = (HERE / "explorer.js").read_text(encoding="utf-8").replace("export default", "const explorer =")
        style = (HERE / "explorer.css").read_text(encoding="utf-8")
        state = json.dumps(state).replace("<", "\\u003c")  # no text of ours may end the script
        place = f"lora-explorer-{zlib.crc32(state.encode()):08x}"
        return f"""<div id="{place}">{fallback}</div><style>{style}</style><script>{{
const state = {state};
const model = {{ get: (name) => state[name], set() {{}}, save_changes() {{}}, send() {{}}, on() {{}}, off() {{}} }};
{script}
explorer.render({{ model, el: document.getElementById("{place}") }});
}}</script>"""


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


def _key(position):
    return ",".join(map(str, position))


def _text(option):
    return f"{option:g}" if isinstance(option, float) else str(option)
