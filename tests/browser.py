"""A real browser on a real JupyterLab, for the tests and the bench of the sliders.

``jupyterlab(folder)`` serves a folder and leaves the reader's own settings alone, ``chromium()`` is the browser; the
other functions act on a page: open a notebook, run it, ask what went wrong, find the sliders.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

CHROMIUMS = [
    *("chromium", "chromium-browser", "google-chrome"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
]
# No sandbox, because continuous integration often runs as root; the rest keeps the browser from calling home.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE = 90  # seconds until something counts as hung: no verdict on speed
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
OWN = ("file:", "data:", "blob:")  # what a page without a network may ask for
PICTURE = ".lora-explorer canvas"


def find_chromium():
    """Where Chromium is installed, None if it is not."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


def skip_without_chromium():
    """Without a browser the calling module's tests are skipped, loudly, unless continuous integration must run them."""
    if not find_chromium():
        if os.environ.get("CI"):
            pytest.fail("no browser: CI is set, so that these tests must run; install Chromium", pytrace=False)
        pytest.skip("NO BROWSER TEST HAS RUN: install Chromium, and these tests use it", allow_module_level=True)


@contextmanager
def jupyterlab(folder, theme="JupyterLab Light"):
    """JupyterLab serving ``folder`` to this machine alone; gives its address, which holds the token."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        home, port, token = Path(home), _free_port(), secrets.token_hex(16)
        _write_settings(home / "settings", theme)
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
        command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
        command += [f"--ServerApp.root_dir={folder}", f"--LabApp.app_settings_dir={home / 'settings'}"]
        command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        command += ["--LabApp.expose_app_in_browser=True"]  # as window.jupyterapp, which the functions below ask
        with (home / "log").open("w", encoding="utf-8") as log:
            server = subprocess.Popen(command, env=_environment(home), stdout=log, stderr=log)
            try:
                _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, home / "log")
                yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?reset&token={token}"
            finally:
                server.terminate()
                server.wait(PATIENCE)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(home):
    """The environment without a trace of the reader's own Jupyter."""
    places = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"]
    places += ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    return os.environ | {place: str(home / place.lower()) for place in places}


def _write_settings(folder, theme):
    settings = {
        "@jupyterlab/apputils-extension:themes": {"theme": theme, "adaptive-theme": False},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        # Or JupyterLab drops cells that are out of sight from the page.
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }
    folder.mkdir()
    (folder / "overrides.json").write_text(json.dumps(settings), encoding="utf-8")


def _wait_for(address, server, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")


@contextmanager
def chromium(pixels=1):
    """Chromium without a window, as a Playwright context: ``context.new_page()`` opens a page.

    Its screen has so many pixels, in width and in height, for each of a page's.
    """
    from playwright.sync_api import sync_playwright  # here, so that its absence is the caller's to explain

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, device_scale_factor=pixels)
        context.set_default_timeout(1000 * PATIENCE)
        try:
            yield context
        finally:
            browser.close()


def move_all(page, explorer):
    """Move each slider of an explorer and take each other choice, by keyboard and by mouse; the picture must follow."""
    canvas = explorer.locator("canvas")
    for slider in explorer.locator("input[type=range]").all():
        with _moved(canvas):
            slider.press("End" if slider.input_value() == "0" else "Home")
        box = slider.bounding_box()
        with _moved(canvas):
            slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    for buttons in explorer.locator("fieldset").all():
        with _moved(canvas):
            buttons.locator("input:checked").press("ArrowRight")
        with _moved(canvas):
            buttons.locator("label").filter(has=page.locator("input:not(:checked)")).first.click()


@contextmanager
def _moved(canvas):
    before = canvas.get_attribute("data-position")
    yield
    deadline = time.monotonic() + PATIENCE
    while canvas.get_attribute("data-position") == before:
        assert time.monotonic() < deadline, f"the picture stays at {before}"
        time.sleep(0.01)


def watch(page):
    """A list to which is added whatever goes wrong on the page: a failed script, a request to anything but a file."""
    wrong = []
    page.on("request", lambda asked: None if asked.url.startswith(OWN) else wrong.append(asked.url))
    page.on("requestfailed", lambda asked: wrong.append(asked.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return wrong


def write_notebook(path, *cells):
    """A notebook of code cells, each given as its source."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=metadata)
    nbformat.write(notebook, path)
    return path


def open_notebook(page, url, name):
    """Open a notebook of the served folder, and wait until its kernel can be talked to."""
    page.goto(url.format(name=name))
    cell, kernel_question = page.locator(f"{PANEL} .jp-CodeCell").first, page.locator(".jp-Dialog")
    cell.wait_for()
    page.evaluate("() => jupyterapp.shell.currentWidget.context.ready")
    page.wait_for_function(
        "() => document.querySelector('.jp-Dialog') || jupyterapp.shell.currentWidget.sessionContext.session"
    )
    if kernel_question.count():  # a notebook that names no kernel makes JupyterLab ask for one
        kernel_question.locator(".jp-mod-accept").click()
    # A Run All that is sent before the session has settled is lost. The notebook's own promises say when it has.
    page.evaluate(
        """async () => {
            const { sessionContext, context } = jupyterapp.shell.currentWidget;
            await Promise.all([context.ready, sessionContext.ready]);
            await sessionContext.session.kernel.info;
        }"""
    )
    page.locator(f"{PANEL} .jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(state="attached")


def run_all(page):
    """Run All Cells, wait until the last cell has run or one has failed, and until all pictures are there."""
    # The stored outputs go first: what is there afterwards has been made now.
    page.evaluate("() => jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    while not page.locator(f"{PANEL} .jp-CodeCell .jp-InputPrompt").filter(has_text=re.compile(r"[\d*]")).count():
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(1000)  # and again where the session was not ready after all
    page.wait_for_function(
        """() => {
            const { content, sessionContext } = jupyterapp.shell.currentWidget;
            const cells = [...content.model.cells].filter((cell) => cell.type === "code" && cell.sharedModel.source);
            const failed = cells.some((cell) => cell.outputs.toJSON().some((o) => o.output_type === "error"));
            const ran = cells.length > 0 && cells.every((cell) => cell.executionCount !== null);
            return (failed || ran) && sessionContext.session.kernel.status === "idle";
        }""",
        timeout=4 * 1000 * PATIENCE,  # a whole notebook, on a machine that may be slow or busy
    )
    wait_for_pictures(page)


def wait_for_pictures(page):
    """Wait until every explorer of the notebook shows a picture. An explorer is a widget that has a text/html, too."""
    page.wait_for_function(
        """(panel) => {
            const asked = [...jupyterapp.shell.currentWidget.content.model.cells]
                .flatMap((cell) => cell.outputs?.toJSON() ?? [])
                .filter(({ data }) => data?.["application/vnd.jupyter.widget-view+json"] && data["text/html"]);
            const pictures = [...document.querySelectorAll(`${panel} .lora-explorer canvas`)];
            const painted = pictures.filter((canvas) => canvas.dataset.position);
            return painted.length === pictures.length && painted.length >= asked.length;
        }""",
        arg=PANEL,
    )


def errors(page):
    """What went wrong, as text: every error among the outputs, and widgets that could not be shown.

    A cell that is tagged raises-exception is meant to fail.
    """
    raised = page.evaluate(
        """() => [...jupyterapp.shell.currentWidget.content.model.cells]
            .filter((cell) => cell.type === "code" && !(cell.getMetadata("tags") ?? []).includes("raises-exception"))
            .flatMap((cell) => cell.outputs.toJSON())
            .filter((output) => output.output_type === "error")
            .map((output) => `${output.ename}: ${output.evalue}`)"""
    )
    return raised + page.locator(PANEL).get_by_text(re.compile("^Error displaying widget")).all_inner_texts()


def sliders(page):
    """Every slider of the open notebook, or of the page where there is no notebook."""
    notebook = page.locator(PANEL)
    return (notebook if notebook.count() else page).get_by_role("slider").all()


def choices(page):
    """Of every row of buttons of an explorer, the one that is pressed."""
    return page.locator(".lora-explorer input[type=radio]:checked").all()


# In the page: put the explorer's sliders at a position.
JUMP = """(position) => {
    const controls = document.querySelectorAll(".lora-explorer > div > :is(label, fieldset)");
    controls.forEach((control, i) => {
        const inputs = control.querySelectorAll("input");
        if (inputs[0].type === "radio") return inputs[position[i]].click();
        if (Number(inputs[0].value) === position[i]) return;
        inputs[0].value = position[i];
        inputs[0].dispatchEvent(new Event("input"));
    });
}"""


def jump(page, *position):
    """Put the explorer's sliders there at one go, as a mouse may."""
    page.evaluate(JUMP, position)


def accessible_name(element):
    """What a screen reader calls this element."""
    name = re.search(r'^- \w+ "(.*?)"', element.aria_snapshot())
    return name.group(1) if name else ""


def run_cell(page, index):
    """Run one cell as a click on ▶ does, and give back what it printed."""
    return page.evaluate(
        """async (index) => {
            const { content } = jupyterapp.shell.currentWidget;
            content.activeCellIndex = index;
            await jupyterapp.commands.execute("notebook:run-cell");
            return content.model.cells.get(index).outputs.toJSON().map((output) => output.text ?? "").join("");
        }""",
        index,
    )


def in_kernel(page, expression):
    """The value of a Python expression in the open notebook's kernel, as Python shows it."""
    answer = page.evaluate(
        """async (expression) => {
            const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
            const question = { code: "", silent: true, user_expressions: { value: expression } };
            return (await kernel.requestExecute(question).done).content.user_expressions.value;
        }""",
        expression,
    )
    assert answer["status"] == "ok", answer
    return answer["data"]["text/plain"]


def shut_down_kernels(page):
    """End every kernel that was started, so that one notebook's memory is not the next one's."""
    page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")


def settle(page):
    """Wait until the explorers have no question left: the neighbours of where they stand are drawn, too."""
    while True:
        before = asked(page)
        in_kernel(page, "None")
        page.wait_for_timeout(300)
        if asked(page) == before:
            return


def count_questions(page):
    """Count the positions that the page asks the kernel for from here on; ``asked(page)`` reads the count."""
    page.add_init_script(
        """{
            window.positionsAsked = 0;
            const send = WebSocket.prototype.send;
            const text = (data) => (typeof data === "string" ? data : new TextDecoder().decode(data));
            WebSocket.prototype.send = function (data) {
                if (/"ask": ?\\[/.test(text(data))) window.positionsAsked += 1;
                return send.call(this, data);
            };
        }"""
    )


def asked(page):
    """How many positions the page has asked for since ``count_questions``."""
    return page.evaluate("() => window.positionsAsked")
