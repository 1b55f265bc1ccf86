"""Make README's moving picture: the Loom, moved in a real browser. A cloth is woven, and merged into W."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from lora_lab.pictures.loom import STOPS, loom

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import chromium  # noqa: E402  the tests know where Chromium is


def photographs():
    """The page at each stop of the step, then the cloth on its way to W and there: (picture, milliseconds to show)."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "loom.html"
        page_source = loom(ranks=[3], step=0).standalone().html()
        file.write_text(
            f"<!doctype html><meta charset=utf-8><body style='margin: 16px'>{page_source}", encoding="utf-8"
        )
        page = browser.new_page()
        page.set_viewport_size({"width": 872, "height": 690})
        page.goto(file.as_uri())
        step = page.get_by_role("slider", name="step")
        step.focus()
        for stop in STOPS:
            yield photograph(page), 1200 if stop in (0, STOPS[-1]) else 160
            step.press("ArrowRight")
        page.get_by_text("merged into W").click()
        for _ in range(4):
            yield photograph(page), 120
        page.wait_for_timeout(600)
        yield photograph(page), 2500


def photograph(page):
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


pictures, durations = zip(*photographs(), strict=True)
pictures[0].save(
    HERE / "loom.webp", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=75, method=6
)
