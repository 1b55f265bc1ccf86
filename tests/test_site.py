"""The site, in a real browser that has no network: pages open, sliders move, nothing is missing."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import chromium, move_all, skip_without_chromium, watch
from playwright.sync_api import expect

skip_without_chromium()
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="docs/requirements.txt is not installed")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ["index", "teaching", "misconceptions", "search", *(f"notebooks/{path.stem}" for path in NOTEBOOKS)]


@pytest.fixture(scope="module")
def context():
    with chromium() as context:
        context.set_offline(True)
        yield context


@pytest.fixture(scope="module", params=PAGES)
def page(request, context, site):
    """Each page once. That it asked for nothing but files, and that no script failed, is looked at in the end."""
    page = context.new_page()
    wrong = watch(page)
    page.goto((site / f"{request.param}.html").as_uri())
    yield page
    assert wrong == []
    page.close()


def painted(page):
    """All explorers of the page, when each shows a picture."""
    expect(page.locator("[id^=lora-explorer]:not(:has(canvas[data-position]))")).to_have_count(0)
    return page.locator(".lora-explorer").all()


# Of code, each kind of word once: the contrast of all others is the same, and most of a page's time.
ALIKE = """() => {
    const kinds = new Set();
    for (const word of document.querySelectorAll(".highlight span")) {
        if (kinds.has(word.className)) word.dataset.alike = "";
        kinds.add(word.className);
    }
}"""


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_page_opens_and_can_be_used_by_all(page, mode):
    # Without motion: a button halfway between two modes' colours has too little contrast for a tenth of a second.
    page.emulate_media(color_scheme=mode, reduced_motion="reduce")
    page.reload()
    painted(page)
    page.evaluate("document.querySelectorAll('details').forEach((folded) => (folded.open = true))")
    page.evaluate(ALIKE)
    options = {"preload": False, "resultTypes": ["violations"]}
    if mode == "dark":  # other colours are all that is new
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = axe.Axe().run(page, {"exclude": [["[data-alike]"]]}, options).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


def test_the_first_page_weighs_less_than_two_megabytes(context, site):
    page, loaded = context.new_page(), set()
    page.on("request", lambda request: loaded.add(unquote(urlsplit(request.url).path)))
    page.goto((site / "index.html").as_uri())
    painted(page)
    page.close()
    files = [Path(path) for path in loaded if Path(path).is_file()]
    assert len(files) > 5 and sum(file.stat().st_size for file in files) < 2_000_000


def test_every_slider_moves_by_keyboard_and_by_mouse(page):
    for explorer in painted(page):
        move_all(page, explorer)


def test_there_are_as_many_sliders_as_in_the_notebooks(site):
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        asked = sum(bool(re.search(r"^(explorer$|loom\(|\w+_explorer\()", cell.source, re.M)) for cell in cells)
        html = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert len(re.findall(r'<div id="lora-explorer-', html)) == asked, path.name


def test_every_link_within_the_site_leads_somewhere(site):
    for path in [*site.glob("*.html"), *site.glob("notebooks/*.html")]:
        for address in re.findall(r'(?:href|src)="([^"]+)"', path.read_text(encoding="utf-8")):
            parts = urlsplit(address)
            if not parts.scheme and parts.path:
                assert (path.parent / unquote(parts.path)).exists(), f"{path.name} → {address}"


def test_every_exercise_unfolds_its_hints_and_its_solution(site):
    for path in NOTEBOOKS:
        sources = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        html = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        exercises = len(re.findall(r"^ex\.\w+\.check\(", sources, re.M))
        assert html.count("<summary>A solution</summary>") == exercises
        assert html.count("<summary>Hint 1 of") == exercises
        assert html.count("<summary>The diagnosis</summary>") == sources.count("].diagnose(...)")


def test_pictures_are_described_in_words(site):
    for path in site.glob("notebooks/*.html"):
        for picture in re.findall(r"<img [^>]*>", path.read_text(encoding="utf-8")):
            alt = re.search(r'alt="([^"]*)"', picture)
            assert alt and len(alt[1]) > 20 and "/_images" not in alt[1], f"{path.name}: {picture[:200]}"


def test_what_is_downloaded_is_the_notebook_itself(site):
    for path in NOTEBOOKS:
        assert (site / "download" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("site")
def test_with_the_repositorys_name_a_page_leads_there_and_a_copy_installs_the_course_on_colab_alone(tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    from book import add_copies, links  # which needs what the site needs

    offered = links("03_training_and_loss_curves", "someone/lora")
    for part in ("colab/03_training_and_loss_curves.ipynb", "/v2/gh/someone/lora/", "edit/main", "template=number.yml"):
        assert part in offered
    assert "github" not in links("03_training_and_loss_curves", "")
    add_copies(NOTEBOOKS[0], tmp_path, "someone/lora")
    stored = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    copied = nbformat.read(tmp_path / "colab" / NOTEBOOKS[0].name, as_version=4).cells
    assert [cell.source for cell in copied if cell.id != "install"] == [cell.source for cell in stored]
    install = next(cell.source for cell in copied if cell.id == "install")
    assert "git+https://github.com/someone/lora" in install
    said = subprocess.run([sys.executable, "-m", "IPython", "-c", install], capture_output=True, text=True, check=True)
    assert said.stdout == ""  # here it does nothing
