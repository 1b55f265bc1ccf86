"""``Standalone``: an explorer in a page that has no kernel, with all its positions and its own script."""

import base64
import itertools
import json
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SCRIPT = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("paint.js", "product.js", "explorer.js"))
STYLE = (HERE / "explorer.css").read_text(encoding="utf-8")
TRAITS = ("sliders", "position", "background", "size", "play", "gliding", "product")
PAGE = """<div id="{place}">{still}</div><style>{style}</style><script>{{
{script}
const state = {state};
const model = {{ get: (name) => state[name], set() {{}}, save_changes() {{}}, send() {{}}, on() {{}}, off() {{}} }};
unpack("{looks}", "{cells}").then((frames) => {{
  state.frames = frames;
  render({{ model, el: document.getElementById("{place}") }});
}});
}}</script>"""


class Standalone:
    """HTML that needs nothing else: each artist's looks once, and for each position of the sliders their numbers."""

    def __init__(self, explorer):
        self._state = {name: getattr(explorer, name) for name in TRAITS}
        self._still = explorer.still()
        numbers, positions = [{} for _ in explorer._moving], []
        for position in itertools.product(*(range(len(slider["options"])) for slider in explorer.sliders)):
            frame = explorer._frame(position)
            looks = zip(numbers, map(json.dumps, frame["artists"]), strict=True)
            row = [known.setdefault(look, len(known)) for known, look in looks]
            positions.append([key_of(position), frame["alt"], *row])
        looks = [[json.loads(look) for look in known] for known in numbers]
        self._cells = _pack(b"".join(map(_take_cells, looks)), zlib.Z_FILTERED)  # zlib's word for small differences
        self._looks = _pack(json.dumps({"looks": looks, "positions": positions}).encode())

    def _repr_mimebundle_(self, include=None, exclude=None):
        picture, about = self._still
        return picture | {"text/html": self.html()}, about

    def html(self):
        """The sliders as a piece of a page, with a still picture where scripts don't run."""
        state = json.dumps(self._state).replace("<", "\\u003c")  # no text of ours may end the script
        return PAGE.format(
            place=f"lora-explorer-{zlib.crc32((state + self._looks + self._cells).encode()):08x}",
            still=self._still[0]["text/html"],
            style=STYLE,
            script=SCRIPT.partition("export default")[0],
            state=state,
            looks=self._looks,
            cells=self._cells,
        )


def key_of(position):
    """A position as the page writes it: "3,0"."""
    return ",".join(map(str, position))


def _take_cells(looks):
    """The cells of an artist's images, which leave its looks: numbers of colours, as what differs from the one before.

    Neighbouring positions have similar images: most differences are small, and pack well.
    """
    images = [command for look in looks for command in look if "cells" in command]
    colours = sorted({colour for image in images for colour in image["colours"]})
    if len(colours) > 256:
        raise ValueError(f"all positions together show {len(colours)} colours in one image; at most 256 can be carried")
    packed, before = [], np.zeros(0, np.uint8)
    for image in images:
        number = np.searchsorted(colours, image["colours"]).astype(np.uint8)
        cells = number[np.frombuffer(base64.b64decode(image.pop("cells")), np.uint8)]
        packed.append(cells - before if len(cells) == len(before) else cells)
        image["colours"], before = colours, cells
    return b"".join(map(bytes, packed))


def _pack(content, strategy=zlib.Z_DEFAULT_STRATEGY):
    packer = zlib.compressobj(9, strategy=strategy)
    return base64.b64encode(packer.compress(content) + packer.flush()).decode()
