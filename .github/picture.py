"""Make README's moving picture: the first notebook's slider, moved by the arrow keys of a real browser.

Every position trains a LoRA from scratch. The page is the one that an exported notebook would have.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from lora_lab.material import create_planted_task
from lora_lab.pictures.sliders import training_explorer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import chromium  # noqa: E402  the tests know where Chromium is

# The hand's way: the rank up to the planted three and beyond, then back.
KEYS = ["ArrowRight"] * 5 + ["ArrowLeft"] * 5


def photographs():
    """The page at each position, as pictures."""
    task = create_planted_task(256, in_features=32, out_features=32, rank=3, noise=0.1)
    page_source = training_explorer(task, ranks=range(1, 7)).with_all_frames().html()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "slider.html"
        file.write_text(f"<body style='margin: 16px'>{page_source}", encoding="utf-8")
        page = browser.new_page()
        page.set_viewport_size({"width": 1000, "height": 390})
        page.goto(file.as_uri())
        rank = page.locator("input[type=range]").first
        rank.focus()
        for key in KEYS:
            yield Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            rank.press(key)


first, *others = photographs()
first.save(HERE / "slider.webp", save_all=True, append_images=others, duration=900, loop=0, quality=80)
