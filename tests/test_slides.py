"""Every slide of every deck, in a real browser that has no network: nothing is cut off, and all can be read."""

import re
from contextlib import contextmanager

import pytest
from browser import chromium, move_all, skip_without_chromium, watch
from playwright.sync_api import expect
from test_notebooks import NOTEBOOKS

skip_without_chromium()

DECKS = [*(path.stem for path in NOTEBOOKS), "capstone"]
POINTS = 4 / 3  # pixels of a screen
# What of the slide shown leaves it, the size in pixels of the smallest letters on it, whether there is anything at all.
MEASURE = """() => {
    const slide = Reveal.getCurrentSlide();
    const edge = slide.getBoundingClientRect();
    const scale = edge.width / slide.offsetWidth;
    const seen = [...slide.querySelectorAll(".flow *")].filter(
        (e) => e.getBoundingClientRect().width && !e.closest("aside, svg, mjx-assistive-mml, .spoken"));
    const cut = seen.filter((e) => {
        const { left, top, right, bottom } = e.getBoundingClientRect();
        return left < edge.left - 1 || top < edge.top - 1 || right > edge.right + 1 || bottom > edge.bottom + 1;
    });
    const texts = seen.filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
    return {
        cut: cut.map((e) => `${e.tagName}: ${e.textContent.slice(0, 60)}`),
        smallest: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize) * scale)),
        empty: !slide.querySelector(".flow > :not(h2, aside)"),
        inside: edge.left >= -1 && edge.top >= -1 && edge.right <= innerWidth + 1 && edge.bottom <= innerHeight + 1,
    };
}"""


@pytest.fixture(scope="module")
def context():
    with chromium() as context:
        context.set_offline(True)
        yield context


@pytest.fixture(scope="module")
def open_deck(context, site):
    """Open a deck on a screen of that size; in the end nothing must have gone wrong on it."""

    @contextmanager
    def open_at(name, width=1280, height=720, search=""):
        page = context.new_page()
        wrong = watch(page)
        page.set_viewport_size({"width": width, "height": height})
        page.goto((site / "slides" / f"{name}.html").as_uri() + search)
        page.locator("body[data-ready]").wait_for()
        yield page
        page.close()
        assert not wrong

    return open_at


@pytest.fixture(scope="module", params=DECKS)
def deck(open_deck, request):
    """Each deck once, on a small screen: all that is asked of every deck is asked of the same page."""
    with open_deck(request.param) as page:
        yield page


@pytest.fixture
def page(open_deck):
    """The first deck, opened anew."""
    with open_deck(DECKS[0]) as page:
        yield page


def walk(page):
    """Show one slide after the other, each with all its steps."""
    for i in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(f"Reveal.slide({i}, 0, 99)")
        yield i + 1


def assert_all_can_be_read(page):
    for number in walk(page):
        found = page.evaluate(MEASURE)
        assert found["cut"] == [] and found["inside"] and not found["empty"], (number, found)
        assert found["smallest"] >= 18 * POINTS, (number, found)


def test_nothing_is_cut_off_empty_or_smaller_than_18_points(deck):
    assert_all_can_be_read(deck)


@pytest.mark.parametrize("name", DECKS)
def test_on_a_large_screen_neither(open_deck, name):
    with open_deck(name, 1920, 1080) as page:
        assert_all_can_be_read(page)


def test_sliders_move_by_keyboard_and_by_mouse(deck):
    for number in walk(deck):
        for explorer in deck.locator(".present .lora-explorer").all():
            move_all(deck, explorer)
            assert deck.evaluate("Reveal.getIndices().h") == number - 1  # the keys were the sliders'


def test_a_guess_stands_on_a_slide_without_its_answer(deck):
    beside = deck.evaluate("""() => [...document.querySelectorAll(".flow:has(.guess)")].map(
        (flow) => [...flow.querySelectorAll(".guess ~ :not(aside)")].map((e) => e.className)).flat()""")
    assert set(beside) <= {"choices"}


def test_a_clicker_goes_on_while_a_slider_has_the_focus_and_escape_gives_it_back(page):
    page.evaluate("Reveal.slide([...document.querySelectorAll('.page')].findIndex((p) => p.querySelector('canvas')))")
    here = page.evaluate("Reveal.getIndices().h")
    slider = page.locator(".present input[type=range]").first
    slider.press("Escape")
    assert not page.evaluate("Reveal.isOverview()") and page.evaluate("document.activeElement === document.body")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.getIndices().h") == here + 1
    page.keyboard.press("ArrowLeft")
    slider.press("PageDown")
    assert page.evaluate("Reveal.getIndices().h") == here + 1


def test_the_tabulator_key_never_reaches_another_slide(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.page:not(.present)')") is None


def test_a_touched_cell_of_a_product_is_told_under_the_picture(page):
    """The picture is enlarged, and what the mouse points at is still what is lit."""
    page.evaluate("Reveal.slide([...document.querySelectorAll('.page')].findIndex((p) => p.querySelector('canvas')))")
    canvas = page.locator(".present canvas")
    canvas.press("ArrowRight")
    first = page.locator(".present .told").inner_text()
    assert "Row 1, column 1" in first
    place = page.evaluate("""() => {
        const canvas = document.querySelector(".present canvas").getBoundingClientRect();
        return [canvas.x, canvas.y, canvas.width / 840];
    }""")
    said = set()
    for x in range(100, 260, 20):
        page.mouse.move(place[0] + x * place[2], place[1] + 150 * place[2])
        said.add(page.locator(".present .told").inner_text())
    assert len(said) > 4, said


def test_it_prints_one_page_a_slide(open_deck):
    with open_deck("02_the_lora_layer", search="?print-pdf") as page:
        slides = page.evaluate("Reveal.getTotalSlides()")
        page.locator(".pdf-page").first.wait_for()
        pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) == slides


def test_set_up_is_not_shown_and_notes_are_not_on_the_slide(open_deck):
    with open_deck("08_lora_on_a_tiny_gpt") as page:
        shown = page.evaluate("document.querySelector('.slides').innerText")
        code = page.evaluate("[...document.querySelectorAll('.code')].map((c) => c.textContent).join()")
        assert "import" not in code and "set_num_threads" not in shown
        notes = page.evaluate("[...document.querySelectorAll('aside.notes')].map((n) => n.textContent)")
        assert len(notes) > 10 and any("What is to be said" in note for note in notes)
        assert page.locator("aside.notes:visible").count() == 0


def test_the_speakers_view_has_notes_and_a_clock(open_deck, context):
    with open_deck("01_low_rank_in_pictures") as page:
        page.evaluate(
            "Reveal.slide([...document.querySelectorAll('.page')].findIndex((p) => p.querySelector('aside')))"
        )
        with context.expect_page() as opened:
            page.keyboard.press("s")
        speaker = opened.value
        speaker.locator(".clock-value").wait_for()
        expect(speaker.locator(".speaker-controls-notes .value")).not_to_be_empty()
        assert re.search(r"\d:\d\d", speaker.locator(".clock-value").inner_text())
        speaker.close()
