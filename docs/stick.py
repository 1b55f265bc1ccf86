"""Gather all that a room without a network needs, in ``build/stick``: to be copied onto a memory stick.

The wheels are those for the machine and the Python that this runs on. What follows is handed to pip, as where torch
comes from: ``python docs/stick.py --index-url …``.
"""

import html
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import book
from run import ROOT

STICK = ROOT / "build" / "stick"
BEGIN = Path(__file__).parent / "begin.html"
# What a room needs of the course; the package itself comes as a wheel.
TAKEN = ["notebooks", "README.md", "LICENSE", "requirements.txt"]


def make(target=STICK, torch_from=()):
    """Write the stick's content into the folder ``target``; wheels that are there already stay."""
    target.mkdir(parents=True, exist_ok=True)
    _gather_wheels(target / "wheels", torch_from)
    gather(target)


def _gather_wheels(wheels, torch_from):
    """torch first and by itself, as where one sets the course up; then the rest, which finds it there; and lora_lab."""
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in requirements if line.startswith("torch=="))
    for old in wheels.glob("lora_lab-*"):
        old.unlink()
    _pip("download", torch, *torch_from, "--dest", wheels)
    _pip("download", "-r", ROOT / "requirements.txt", "--find-links", wheels, "--dest", wheels)
    _pip("wheel", ROOT, "--no-deps", "--wheel-dir", wheels)


def _pip(*command):
    subprocess.run([sys.executable, "-m", "pip", *command, "--quiet", "--disable-pip-version-check"], check=True)


def gather(target):
    """All but the wheels: the course, the site with the slides, and the page that says how to begin."""
    for name in TAKEN:
        _replace(ROOT / name, target / "course" / name)
    book.make(target / "site")
    page = Template(BEGIN.read_text(encoding="utf-8"))
    python = ".".join(platform.python_version_tuple()[:2])
    made_on = html.escape(f"{platform.system()} ({platform.machine()})")
    (target / "BEGIN.html").write_text(page.substitute(python=python, machine=made_on), encoding="utf-8")


def _replace(source, target):
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


if __name__ == "__main__":
    make(torch_from=sys.argv[1:])
