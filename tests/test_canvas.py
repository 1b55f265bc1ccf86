"""What a page paints on its canvas is what matplotlib draws, on a screen with two pixels to a point."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import PICTURE, chromium, jump, skip_without_chromium
from explorers import EXPLORERS, everything, tiny
from PIL import Image
from playwright.sync_api import expect
from torch.nn.functional import max_pool2d

from lora_lab.pictures.explorer import Explorer
from lora_lab.pictures.figures import PIXELS_PER_INCH, figure, lay, sheet, styled

skip_without_chromium()
PIXELS = 2
ALIKE = 60  # pixels of a million that may be unlike, where letters are spaced a little differently


@pytest.fixture(scope="module")
def context():
    with chromium(PIXELS) as context:
        yield context


@pytest.fixture
def page(context):
    page = context.new_page()
    page.emulate_media(reduced_motion="reduce")  # or a picture is taken of something on its way
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
    with explorer._all_standing_still():
        explorer._figure.savefig(drawn, dpi=PIXELS * PIXELS_PER_INCH)
    return Image.open(drawn).convert("RGB")


def unlike(one, other, near=5, close=70):
    """How many pixels of a million have no like in the other picture: one of nearly its colour, right beside it."""

    def highest(colours):  # (3, height, width), each pixel's and its neighbours'
        return max_pool2d(colours, near, stride=1, padding=near // 2)

    def strange(colours, reference):
        low, high = -highest(-reference), highest(reference)
        return ((colours < low - close) | (colours > high + close)).any(0)

    one, other = (torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() for picture in (one, other))
    return round(1e6 * (strange(one, other) | strange(other, one)).float().mean().item())


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


HINT = "Touch a cell, a column of A or a row of B, with the mouse or the arrow keys."


def told(page):
    return page.locator(".lora-explorer .told").inner_text()


@pytest.fixture
def product(page):
    """A page that shows A (2, 2) times B (2, 3), each cell 20 pixels wide."""
    picture = figure("", width=2, height=2)
    picture.set_layout_engine("none")
    axes = picture.add_axes((0, 0, 1, 1))
    sheet(axes, 9, 9)
    A, B = torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.25, 1.0]])
    images = [lay(axes, A, "A", 0, 3)[0], lay(axes, B, "B", 3, 0)[0], lay(axes, A @ B, "ΔW", 3, 3, limit=4.0)[0]]

    def update(times):
        images[0].set_data(times * A)
        images[2].set_data(times * A @ B)
        return images

    show(page, Explorer(picture, update, "{times} times".format, product=images, times=[1, 2]).standalone().html())
    return page


def centre(row, column):
    """Where a cell lies on the canvas; A is left of column 0 and B above row 0, with a cell between."""
    return (3.5 + 0.5 + column - (column < 0)) * 20, (3.5 + 0.5 + row - (row < 0)) * 20


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ((0, 0), "Row 1, column 1: 1.00·1.00 + 2.00·2.00 = 5.00"),
        ((1, 2), "Row 2, column 3: (−3.00)·(−1.00) + 0.50·1.00 = 3.50"),
        ((1, -2), "Thread 1 of 2: column 1 of A times row 1 of B."),
        ((-1, 2), "Thread 2 of 2: column 2 of A times row 2 of B."),
        ((4, 4), HINT),
    ],
)
def test_a_touched_product_says_how_it_is_made(product, cell, said):
    box = product.locator(PICTURE).bounding_box()
    x, y = centre(*cell)
    product.mouse.move(box["x"] + x, box["y"] + y)
    assert told(product) == said


def test_what_is_said_of_a_touched_cell_follows_the_slider(product):
    box = product.locator(PICTURE).bounding_box()
    x, y = centre(0, 0)
    product.mouse.move(box["x"] + x, box["y"] + y)
    jump(product, 1)
    product.locator(f"{PICTURE}[data-position='1']").wait_for()
    assert told(product) == "Row 1, column 1: 2.00·1.00 + 4.00·2.00 = 10.00"


def test_a_thread_is_shown_alone(product):
    def colours():
        """Red and blue of each of the product's cells on the canvas."""
        points = [[2 * x for x in centre(row, column)] for row in range(2) for column in range(3)]
        found = product.locator(PICTURE).evaluate(
            """(canvas, points) => points.map(([x, y]) =>
                [...canvas.getContext("2d").getImageData(x, y, 1, 1).data])""",
            points,
        )
        return [(red, blue) for red, _, blue, _ in found]

    def cells():
        """These colours as signs: 1 orange, -1 violet, 0 white."""
        return [(red > blue + 9) - (blue > red + 9) for red, blue in colours()]

    assert cells() == [1, 1, 1, -1, 1, 1]
    box = product.locator(PICTURE).bounding_box()
    x, y = centre(0, -2)
    product.mouse.move(box["x"] + x, box["y"] + y)
    assert cells() == [1, 0, -1, -1, 0, 1]
    one, three = colours()[0], colours()[5]
    assert one[1] > three[1] + 40  # the smaller number is the paler
    product.mouse.move(box["x"] + 199, box["y"] + 199)
    assert cells() == [1, 1, 1, -1, 1, 1]


def test_the_arrow_keys_walk_over_a_product_and_escape_leaves_it(product):
    product.locator(PICTURE).focus()
    heard = []
    for key in ("ArrowDown", "ArrowRight", "Home", "End", "ArrowUp", "ArrowUp", "ArrowUp", "Escape"):
        product.keyboard.press(key)
        heard.append(told(product).partition(":")[0])
    threads = ["Thread 2 of 2", "Thread 1 of 2", "Thread 1 of 2"]  # the last step would have led off the table
    cells = [f"Row 1, column {column}" for column in (1, 2, 1, 3)]
    assert heard == [*cells, *threads, HINT]


@pytest.fixture
def sliding():
    """An explorer whose image lies at the left or at the right, and goes from one to the other before one's eyes."""
    picture = figure("", width=3, height=1)
    picture.set_layout_engine("none")
    axes = picture.add_axes((0, 0, 1, 1))
    sheet(axes, 3, 1)
    cloth, _ = lay(axes, torch.ones(1, 1), "W", 0, 0)

    def update(side):
        left = ("left", "right").index(side) * 2
        cloth.set_extent((left, left + 1, 1, 0))
        return [cloth]

    return Explorer(picture, update, "at the {side}".format, gliding=[cloth], side=["left", "right"])


def test_names_are_buttons_that_a_click_or_an_arrow_key_takes(page, sliding):
    show(page, sliding.standalone().html())
    group = page.get_by_role("group", name="side")
    expect(group.get_by_role("radio", name="left")).to_be_checked()
    group.get_by_text("right").click()
    expect(page.get_by_role("img")).to_have_attribute("aria-label", "at the right")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("img")).to_have_attribute("aria-label", "at the left")


def test_what_glides_is_seen_on_its_way_unless_the_reader_wants_no_movement(page, sliding):
    show(page, sliding.standalone().html())
    page.emulate_media(reduced_motion="no-preference")
    page.get_by_text("right").click()
    page.wait_for_timeout(700)
    arrived = page.locator(PICTURE).evaluate("(canvas) => canvas.toDataURL()")
    page.get_by_text("left").click()
    started = page.locator(PICTURE).evaluate("(canvas) => canvas.toDataURL()")
    page.wait_for_timeout(700)
    left = page.locator(PICTURE).evaluate("(canvas) => canvas.toDataURL()")
    assert len({started, left, arrived}) == 3
    page.emulate_media(reduced_motion="reduce")
    assert paint(page, [1]) == Image.open(io.BytesIO(base64.b64decode(arrived.partition(",")[2]))).convert("RGB")


def test_play_walks_to_the_last_stop_and_begins_again_from_there(page):
    show(page, tiny(play="x").standalone().html())
    play = page.get_by_role("button")
    play.click()
    expect(play).to_have_text("❚❚ Pause")
    page.wait_for_function("() => Number(document.querySelector('canvas').dataset.position) >= 2")
    play.click()
    expect(play).to_have_text("▶ Play")
    stopped = page.locator(PICTURE).get_attribute("data-position")
    page.wait_for_timeout(400)
    assert page.locator(PICTURE).get_attribute("data-position") == stopped
    play.click()
    page.locator(f"{PICTURE}[data-position='8']").wait_for()
    expect(play).to_have_text("▶ Play")
    play.click()
    page.wait_for_function("() => Number(document.querySelector('canvas').dataset.position) < 5")
