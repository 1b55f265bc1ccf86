"""What README, CONTRIBUTING and the other files at the top tell people to type works as it is written."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

import lora_lab

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, TEACHING, REQUIREMENTS = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "docs/teaching.md", "requirements.txt")
)
BIN = Path(sys.executable).parent  # not resolved: that would leave the virtual environment
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="Windows has no make, and README does without it")


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


@needs_make
@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake (\w+)", README + CONTRIBUTING + TEACHING))))
def test_every_make_that_is_named_is_there(target):
    assert make("-n", target).returncode == 0


@pytest.fixture
def set_up(tmp_path):
    """Set up with a Python that only writes down what it is asked, and has torch or not; returns what it was asked."""

    def run(*arguments, has_torch=False):
        log, venv = tmp_path / "log", tmp_path / "venv"
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        python = venv / "bin" / "python"
        refuses = "" if has_torch else 'case "$*" in *"import torch"*) exit 1;; esac\n'
        python.write_text(f'#!/bin/sh\n{refuses}echo "$@" >> {log}\n')
        python.chmod(0o755)
        for left in (log, venv / "ready"):
            left.unlink(missing_ok=True)
        result = make(f"{venv}/ready", f"VENV={venv}", f"PYTHON={python}", *arguments)
        lines = log.read_text().splitlines() if log.exists() else []
        return result, [line for line in lines if " install " in line]

    return run


@needs_make
def test_torch_comes_first_from_where_it_is_asked_for_and_nothing_else_comes_from_there(set_up):
    pin = re.search(r"^torch==.+$", REQUIREMENTS, re.M)[0]
    _, (torch, rest) = set_up("TORCH=cpu")
    assert torch.endswith(f"--index-url https://download.pytorch.org/whl/cpu {pin}")
    assert "-e ." in rest and "index-url" not in rest
    _, (torch, rest) = set_up()
    assert torch.endswith(pin) and "index-url" not in torch


@needs_make
def test_a_torch_that_is_there_already_stays(set_up):
    result, installed = set_up("TORCH=cpu", has_torch=True)
    assert result.returncode == 0 and len(installed) == 1 and "torch==" not in installed[0]
    named = re.search(r"-r (\S+)", installed[0])[1]
    assert Path(named).read_text() == re.sub(r"^torch==.+\n", "", REQUIREMENTS, flags=re.M)


@needs_make
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["TORCH=gpu"], "TORCH=gpu is unknown: TORCH=cpu takes"),
        (["PYTHON=false"], "needs Python 3.11 to 3.14. Name one"),
    ],
)
def test_a_set_up_that_cant_be_is_refused_before_anything_is_installed(set_up, arguments, said):
    result, installed = set_up(*arguments)
    assert result.returncode != 0 and said in result.stdout and not installed


def test_readme_spells_the_small_torch_out_as_make_installs_it():
    pin = re.search(r"^torch==.+$", REQUIREMENTS, re.M)[0]
    assert f"pip install {pin} --index-url https://download.pytorch.org/whl/cpu" in README


def answered(address, seconds=20):
    """What a server answers; on a busy machine it prints its address a moment before it listens there."""
    for _ in range(10 * seconds):
        try:
            return urllib.request.urlopen(address)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    return urllib.request.urlopen(address)


@needs_make
def test_make_lab_answers_on_the_address_that_it_prints_as_root_too_and_asks_for_the_token(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"JUPYTER_RUNTIME_DIR": str(tmp_path), "BROWSER": "true"}
    command = ["make", "-o", ".venv/ready", "lab", f"BIN={BIN}"]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(600):
            printed = re.search(r"http://(?:127\.0\.0\.1|localhost):\S+token=\w+", log.read_text())
            if printed or server.poll() is not None:
                break
            time.sleep(0.1)
        assert printed, log.read_text()
        assert "/lab/tree/notebooks/00_start_here.ipynb" in printed[0]
        assert answered(printed[0]).status == 200
        place = printed[0].split("/lab")[0]
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(f"{place}/api/contents")
        refused.value.close()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_notebook_tested_alone_shows_no_progress_bar_either():
    """Whether a bar appears depends on the machine's speed, and so would the verdict."""
    code = (
        "import os, pytest; os.environ.pop('TQDM_DISABLE', None); "
        "pytest.main(['notebooks/glossary.ipynb', '--collect-only', '-q']); print(os.environ.get('TQDM_DISABLE'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "1", result.stdout + result.stderr


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (lora_lab[\w.]+)", README + CONTRIBUTING))))
def test_every_script_that_is_named_says_what_it_does(module):
    result = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "usage: python -m lora_lab" in result.stdout, result.stderr


def test_every_file_that_is_linked_is_there():
    for text in (README, CONTRIBUTING):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / link).exists(), link


def test_every_notebook_and_test_named_in_a_command_is_there():
    named = set(re.findall(r"\b(?:tests|notebooks)/[\w/]+\.(?:py|ipynb)", README + CONTRIBUTING))
    assert named and all((ROOT / name).exists() for name in named if "NN_" not in name)


def test_the_version_is_the_same_wherever_it_is_said():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == lora_lab.__version__
    assert f"version {lora_lab.__version__}" in README
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S*)", changes, re.M)[0] == lora_lab.__version__


def test_the_dev_container_prepares_what_make_prepares():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    container = yaml.safe_load(re.sub(r"^//.*$", "", text, flags=re.M))
    assert container["postCreateCommand"] == "make .venv/ready TORCH=cpu"
    assert (ROOT / container["customizations"]["codespaces"]["openFiles"][0]).exists()


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_has_all_that_github_asks_for(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in form["body"])


def test_every_slide_that_the_guide_for_teachers_names_is_in_its_notebook_and_its_minutes_run_on():
    for numbers, titles in re.findall(r"\| ((?:\d\d)(?: and \d\d)*):? (?=\*|up)(.+?) \|", TEACHING):
        for number in numbers.split(" and "):
            (notebook,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
            headings = re.findall(r'"##? (.+?)(?:\\n)?"', notebook.read_text(encoding="utf-8"))
            for title in re.findall(r"\*(.+?)\*", titles):
                assert title in headings, f"{number} has no {title!r}"
    minutes = [int(minute) for minute in re.findall(r"^\| (\d+) \| \d\d[^|]*: ?\*", TEACHING, re.M)]
    assert minutes == sorted(minutes) and minutes[-1] < 90
