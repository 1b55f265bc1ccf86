"""In a real JupyterLab, in a real browser: notebooks run, and every slider does what the course promises.

Every explorer is there on small data, and the two notebooks that one opens first are run whole; that all notebooks run,
and what comes out, is nbval's to see. Where LORA_LAB_SCREENSHOTS names a folder, all of them are run whole here, and
leave a screenshot there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import (
    PATIENCE,
    PICTURE,
    accessible_name,
    asked,
    choices,
    chromium,
    count_questions,
    errors,
    in_kernel,
    jump,
    jupyterlab,
    open_notebook,
    run_all,
    run_cell,
    settle,
    shut_down_kernels,
    skip_without_chromium,
    sliders,
    write_notebook,
)
from explorers import EXPLORERS
from playwright.sync_api import expect

skip_without_chromium()
expect.set_options(timeout=1000 * PATIENCE)
HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("[0-9]*.ipynb"))
PICTURES = os.environ.get("LORA_LAB_SCREENSHOTS")
WHOLE = [path.stem for path in (NOTEBOOKS if PICTURES else NOTEBOOKS[:2])]
SMALL = {
    # A square that moves, and a list of every position that was drawn.
    "square": [
        """import time

from lora_lab.pictures.explorer import Explorer
from lora_lab.pictures.figures import figure

picture = figure("", width=4, height=2)
axes = picture.subplots()
axes.set(xlim=(-1, 50), ylim=(-1, 50))
(square,) = axes.plot([0], [0], "s")
drawn = []

def update(x, y):
    drawn.append((x, y))
    if (x, y) == (2, 0):
        raise ValueError("two is too many")
    if x == 40:
        time.sleep(1.5)
    square.set_data([x], [y])
    return [square]

def alt(x, y):
    return f"A square at {x}, {y}."
""",
        "explorer = Explorer(picture, update, alt, x=range(50), y=range(3))\nexplorer",
        "print(explorer.values)",
    ],
    "few": [
        "from lora_lab.pictures.explorer import Explorer\nfrom lora_lab.pictures.figures import figure",
        """picture = figure("", width=4, height=2)
(line,) = picture.subplots().plot([0, 1], [0, 1])

def update(end):
    line.set_ydata([0, end])
    return [line]

Explorer(picture, update, lambda end: f"A line up to {end}.", end=[0.25, 0.5, 1.0]).standalone()""",
    ],
    "random": [
        """import torch
from lora_lab import set_seed
from lora_lab.material import create_planted_task
from lora_lab.pictures.sliders import training_explorer""",
        "training_explorer(create_planted_task())",
        "set_seed(1)",
        "print(torch.rand(1).item())",
    ],
}


@pytest.fixture(scope="module")
def chromium_context():
    with chromium() as context:
        yield context


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copies of the course's notebooks, and the small ones of this file."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS:
        shutil.copy(path, folder)
    for name, cells in SMALL.items():
        write_notebook(folder / f"{name}.ipynb", *cells)
    there = f"import sys\n\nsys.path.append({str(HERE)!r})\nfrom explorers import EXPLORERS"
    write_notebook(folder / "explorers.ipynb", there, *(f"EXPLORERS[{name!r}]()" for name in EXPLORERS))
    write_notebook(folder / "scaling.ipynb", there, "EXPLORERS['scaling']()")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with jupyterlab(folder) as address:
        yield address


@pytest.fixture
def page(chromium_context):
    page = chromium_context.new_page()
    page.emulate_media(reduced_motion="reduce")  # or a picture is taken of something on its way
    count_questions(page)
    yield page
    shut_down_kernels(page)
    page.close()


@pytest.fixture
def run_notebook(page, address):
    """A function: open the notebook of that name, run all of it, and see that nothing failed."""

    def run_notebook(name):
        open_notebook(page, address, f"{name}.ipynb")
        run_all(page)
        assert errors(page) == []
        return page

    return run_notebook


# The explorer that has the focus: where its controls stand, as it writes positions.
STANDS = """() => [...document.activeElement.closest(".lora-explorer").querySelector("div").children]
    .map((control) => [...control.querySelectorAll("input")])
    .map((inputs) => (inputs[0].type === "radio" ? inputs.findIndex((i) => i.checked) : inputs[0].value)).join()"""


def press(slider, key):
    """Focus the slider, press the key, and wait until the picture of the new position is shown."""
    slider.focus()
    expect(slider).to_be_focused()
    press_again(slider, key)


def press_again(slider, key):
    """Press a key where the focus is, and wait until the picture of the new position is shown."""
    page, before = slider.page, shown(slider)
    page.keyboard.press(key)
    page.wait_for_function(
        """([stands, before]) => {
            const canvas = document.activeElement.closest(".lora-explorer").querySelector("canvas");
            return canvas.dataset.position === eval(stands)() && canvas.toDataURL() !== before;
        }""",
        arg=[STANDS, before],
    )


def shown(slider):
    """What is painted on the canvas that belongs to this slider."""
    return slider.evaluate('(input) => input.closest(".lora-explorer").querySelector("canvas").toDataURL()')


def is_ours(slider):
    """Not one of ipywidgets, whose sliders have no name for a screen reader; the course shows one, to compare."""
    return slider.evaluate('(slider) => slider.closest(".lora-explorer") !== null')


def two_keys(slider):
    """A key that moves the slider, and the one that brings it back."""
    at_the_end = slider.evaluate("(input) => input.value === input.max")
    return ("ArrowLeft", "ArrowRight") if at_the_end else ("ArrowRight", "ArrowLeft")


def assert_works_from_the_keyboard(control):
    assert accessible_name(control)
    there, back = two_keys(control)
    control.focus()
    start, position = shown(control), control.page.evaluate(STANDS)
    press(control, there)
    assert control.page.evaluate(STANDS) != position
    press_again(control, back)
    assert (control.page.evaluate(STANDS), shown(control)) == (position, start)


@pytest.mark.parametrize("name", [*WHOLE, "explorers"])
def test_every_slider_works_from_the_keyboard(name, run_notebook, tmp_path):
    page = run_notebook(name)
    if name == "explorers":
        expect(page.locator(PICTURE)).to_have_count(len(EXPLORERS))
    for control in [*filter(is_ours, sliders(page)), *choices(page)]:
        assert_works_from_the_keyboard(control)
    pictures = Path(PICTURES or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=pictures / f"{name}.png")


def test_a_slider_in_jupyterlab_has_a_name_a_value_and_a_visible_focus(run_notebook):
    page = run_notebook("scaling")
    rank, alpha = sliders(page)
    assert (accessible_name(rank), accessible_name(alpha)) == ("rank", "alpha")
    rank.press("ArrowRight")
    assert rank.get_attribute("aria-valuetext") == "16"
    assert rank.evaluate("(input) => getComputedStyle(input).outlineStyle") == "solid"
    assert alpha.evaluate("(input) => getComputedStyle(input).outlineStyle") == "none"
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", re.compile("^The scale s at rank 16 and alpha 16"))


def test_the_arrow_keys_move_the_slider_and_not_the_notebook(run_notebook):
    page = run_notebook("scaling")
    rank, _ = sliders(page)
    press(rank, "ArrowRight")
    cell = page.evaluate("() => jupyterapp.shell.currentWidget.content.activeCellIndex")
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "Home", "End"):
        press(rank, key)
    expect(rank).to_be_focused()
    assert page.evaluate("() => jupyterapp.shell.currentWidget.content.activeCellIndex") == cell


def test_of_500_fast_moves_the_last_is_shown_and_none_is_queued(run_notebook):
    page = run_notebook("square")
    page.evaluate(
        """() => {
            const input = document.querySelector(".lora-explorer input");
            for (let move = 0; move < 500; move++) {
                input.value = 10 + (move % 31);
                input.dispatchEvent(new Event("input"));
            }
        }"""
    )
    last = 10 + 499 % 31
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", f"A square at {last}, 0.")
    settle(page)
    # The first of the moves, the last of them, and that one's three neighbours.
    assert asked(page) <= 5
    assert in_kernel(page, "explorer.values") == f"{{'x': {last}, 'y': 0}}"


def test_a_position_that_was_there_before_asks_the_kernel_nothing(run_notebook):
    page = run_notebook("square")
    for position in ([20, 1], [30, 1]):
        jump(page, *position)
        settle(page)
    questions, drawn = asked(page), in_kernel(page, "len(drawn)")
    assert questions > 2
    for x in (20, 30, 20):
        jump(page, x, 1)
        expect(page.locator(PICTURE)).to_have_attribute("aria-label", f"A square at {x}, 1.")
    settle(page)
    assert (asked(page), in_kernel(page, "len(drawn)")) == (questions, drawn)


def test_an_untouched_explorer_asks_the_kernel_nothing(run_notebook):
    page = run_notebook("square")
    settle(page)
    assert asked(page) == 0
    sliders(page)[0].focus()
    settle(page)
    assert asked(page) == 2


def test_a_screen_reader_hears_of_a_picture_that_takes_its_time_when_it_is_there(run_notebook):
    page = run_notebook("square")
    jump(page, 40, 1)
    expect(page.locator(".lora-explorer .spoken")).to_have_text("A square at 40, 1.")


def test_while_python_is_busy_a_moved_slider_says_so_and_then_catches_up(run_notebook):
    page = run_notebook("square")
    jump(page, 40, 1)
    message = page.locator(".lora-explorer").get_by_role("status").first
    expect(message).to_contain_text("This is still the picture of before")
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", "A square at 40, 1.")
    expect(message).to_be_empty()
    expect(page.locator(PICTURE)).not_to_have_class("old")


def test_a_later_cell_reads_where_the_sliders_stand(run_notebook):
    page = run_notebook("square")
    x, y = sliders(page)
    assert run_cell(page, 2) == "{'x': 0, 'y': 0}\n"
    press(x, "ArrowRight")
    press(y, "ArrowRight")
    assert (x.get_attribute("aria-valuetext"), y.get_attribute("aria-valuetext")) == ("1", "1")
    settle(page)  # Python hears of it when the hand has rested for a moment
    assert run_cell(page, 2) == "{'x': 1, 'y': 1}\n"


def test_a_later_cell_moves_the_sliders(run_notebook):
    page = run_notebook("square")
    in_kernel(page, "setattr(explorer, 'position', [7, 2])")
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", "A square at 7, 2.")
    assert [slider.input_value() for slider in sliders(page)] == ["7", "2"]


def test_a_position_that_fails_says_so_and_the_slider_goes_on(run_notebook):
    page = run_notebook("square")
    x, _ = sliders(page)
    x.press("ArrowRight")
    x.press("ArrowRight")
    message = page.locator(".lora-explorer").get_by_role("status").first
    expect(message).to_have_text("ValueError: two is too many")
    x.press("ArrowRight")
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", "A square at 3, 0.")
    expect(message).to_be_empty()
    x.press("ArrowLeft")
    expect(message).to_have_text("ValueError: two is too many")


def test_a_moved_slider_changes_no_later_cells_random_numbers(run_notebook):
    page = run_notebook("random")
    run_cell(page, 2)
    expected = run_cell(page, 3)
    run_cell(page, 2)
    press(sliders(page)[0], "ArrowRight")
    settle(page)
    assert run_cell(page, 3) == expected


def test_exported_html_needs_no_kernel(page, folder, tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", folder / "few.ipynb"]
    subprocess.run([*command, "--output-dir", tmp_path], check=True, capture_output=True)
    page.route(re.compile("^https?:"), lambda route: route.abort())  # the page must do without the network
    page.goto((tmp_path / "few.html").as_uri())
    (end,) = sliders(page)
    assert_works_from_the_keyboard(end)
    press(end, "ArrowRight")
    expect(page.locator(PICTURE)).to_have_attribute("aria-label", "A line up to 0.5.")
