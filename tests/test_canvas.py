"""What a page paints on its canvas is what matplotlib draws, on a screen with two pixels to a point."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from browser import PICTURE, chromium, jump, skip_without_chromium
from explorers import EXPLORERS, everything, tiny
from PIL import Image
from PIL.ImageFilter import MaxFilter, MinFilter
from playwright.sync_api import expect

from lora_lab.pictures.figures import PIXELS_PER_INCH, styled

skip_without_chromium()
PIXELS = 2
ALIKE = 40  # pixels of a million that may be unlike, where letters are spaced a little differently


@pytest.fixture(scope="module")
def context():
    with chromium(PIXELS) as context:
        yield context


@pytest.fixture
def page(context):
    page = context.new_page()
    yield page
    page.close()


def show(page, html):
    """Show a standalone explorer, and wait until it is painted."""
    page.set_content(f"<!doctype html><html lang=en><title>An explorer</title><main>{html}</main>")
    page.locator(f"{PICTURE}[data-position]").wait_for()


def paint(page, position):
    """The canvas with the sliders at this position."""
    jump(page, *position)
    page.locator(f"{PICTURE}[data-position='{','.join(map(str, position))}']").wait_for()
    address = page.locator(PICTURE).evaluate("(canvas) => canvas.toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


@styled
def draw(explorer, position):
    """The same by matplotlib alone."""
    explorer._frame(position)
    drawn = io.BytesIO()
    explorer._figure.savefig(drawn, dpi=PIXELS * PIXELS_PER_INCH)
    return Image.open(drawn).convert("RGB")


def unlike(one, other, near=5, close=70):
    """How many pixels of either picture have no like in the other, that is of nearly its colour and right beside it."""

    def strange(picture, reference):
        low, high = (np.asarray(reference.filter(kind(near)), int) for kind in (MinFilter, MaxFilter))
        colours = np.asarray(picture, int)
        return ((colours < low - close) | (colours > high + close)).any(-1)

    return int((strange(one, other) | strange(other, one)).sum())


def positions(explorer):
    """The first and the last position, and each slider's end, from where the sliders stand."""
    ends = [len(slider["options"]) - 1 for slider in explorer.sliders]
    here = explorer.position
    return [[0] * len(ends), ends, here] + [[*here[:i], end, *here[i + 1 :]] for i, end in enumerate(ends)]


@pytest.mark.parametrize("make", [*EXPLORERS.values(), everything], ids=[*EXPLORERS, "everything"])
def test_the_canvas_shows_what_matplotlib_draws(page, make, request):
    explorer = make()
    show(page, explorer.standalone().html())
    for position in positions(explorer):
        painted, drawn = paint(page, position), draw(explorer, position)
        if folder := os.environ.get("LORA_LAB_SCREENSHOTS"):
            both = Image.new("RGB", (painted.width, 2 * painted.height))
            both.paste(painted), both.paste(drawn, (0, painted.height))
            both.save(Path(folder) / f"{request.node.callspec.id}_{'_'.join(map(str, position))}.png")
        assert unlike(painted, drawn) <= ALIKE


def shifted(commands):
    for command in commands:
        command["at"] = [[x + 2, y] for x, y in command["at"]]


def recoloured(commands):
    for command in commands:
        command["style"] |= {"fillStyle": "#009e73ff", "strokeStyle": "#e69f00ff"}


@pytest.mark.parametrize("spoil", [shifted, recoloured, list.clear])
def test_a_marker_that_is_shifted_by_two_pixels_of_another_colour_or_missing_would_be_seen(page, spoil, monkeypatch):
    explorer = tiny()
    frame = explorer._frame

    def spoilt_frame(position):
        spoilt = frame(position)
        spoil(spoilt["artists"][0])
        return spoilt

    monkeypatch.setattr(explorer, "_frame", spoilt_frame)
    show(page, explorer.standalone().html())
    assert unlike(paint(page, [3]), draw(explorer, [3])) > ALIKE


def test_the_canvas_is_as_fine_as_the_screen(page):
    show(page, tiny().standalone().html())
    assert paint(page, [3]).size == (PIXELS * 300, PIXELS * 200)
    assert page.locator(PICTURE).bounding_box()["width"] == 300


def test_a_narrow_page_shows_the_whole_picture_smaller(page):
    page.set_viewport_size({"width": 200, "height": 400})
    show(page, tiny().standalone().html())
    box = page.locator(PICTURE).bounding_box()
    assert box["x"] + box["width"] <= 200 and box["height"] == pytest.approx(box["width"] * 2 / 3, abs=1)


def test_a_screen_reader_hears_what_is_shown_once_the_hand_rests(page):
    show(page, tiny().standalone().html())
    spoken = page.locator(".lora-explorer .spoken")
    assert (spoken.get_attribute("role"), spoken.inner_text()) == ("status", "")
    paint(page, [3])
    expect(spoken).to_have_text("a dot at 4")
    expect(page.get_by_role("img")).to_have_attribute("aria-label", "a dot at 4")


def test_a_page_without_scripts_shows_a_still_picture_with_its_description(page):
    html = tiny().standalone().html()
    page.set_content(html.replace("<script>", "<script type=none>"))
    assert page.get_by_alt_text("a dot at 1").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 300
