"""Run the notebooks as far as their sliders, and let these carry all their positions. Site and slides show the result.

All other outputs stay as they are stored: the tests compare those. What was run before and has not changed since is
taken from ``build/run``.
"""

import hashlib
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from lora_lab.disk import replacing

ROOT = Path(__file__).parent.parent
RUN = ROOT / "build" / "run"
NOTEBOOKS = [
    *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")),
    *(ROOT / "notebooks" / name for name in ("capstone.ipynb", "glossary.ipynb")),
]
# Said to the kernel before its first cell.
CARRY_ALL = """
from lora_lab.pictures.explorer import Explorer
Explorer._repr_mimebundle_ = lambda self, **kwargs: self.standalone()._repr_mimebundle_()
"""
SLOW = ("00", "03", "05", "08")  # begun first, so that in the end no processor waits for the other
SLIDERS = ("explorer", "loom(")


def with_sliders(paths=tuple(NOTEBOOKS)):
    """{name: notebook}, in which each figure with sliders is HTML that needs no kernel; two are run at a time."""
    with ProcessPoolExecutor(2) as pool:
        slowest_first = sorted(paths, key=lambda path: path.stem[:2] not in SLOW)
        running = {path: pool.submit(_run, path) for path in slowest_first}
        return {path.stem: running[path].result() for path in paths}


def title(notebook):
    """What a notebook is called."""
    return re.match(r"# (.+)", notebook.cells[0].source)[1]


def numbered(name, notebook):
    """Its title, and before it its number, if the file's name has one: "07 The bug clinic"."""
    return f"{name[:2]} {title(notebook)}" if name[0].isdigit() else title(notebook)


def remembered(name, source, make):
    """The text that ``make()`` gives for this source, made once until the source or the package changes."""
    RUN.mkdir(parents=True, exist_ok=True)
    kept = RUN / f"{name}-{hashlib.sha256((_package() + source).encode()).hexdigest()[:16]}"
    if not kept.exists():
        start = time.perf_counter()
        text = make()
        for old in RUN.glob(f"{name}-*"):
            old.unlink()
        with replacing(kept) as (beside,):
            beside.write_text(text, encoding="utf-8")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return kept.read_text(encoding="utf-8")


def _run(path):
    """The notebook as it is stored, and its sliders' cells with what they give when they carry all positions."""
    stored = nbformat.read(path, as_version=4)
    moving = [i for i, cell in enumerate(stored.cells) if cell.cell_type == "code" and _has_sliders(cell)]
    if moving:
        sources = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "code")
        run = remembered(path.stem, sources, lambda: nbformat.writes(_execute(path, moving[-1] + 1)))
        cells = nbformat.reads(run, as_version=4).cells
        for i in moving:
            stored.cells[i].outputs = cells[i].outputs
    return stored


def _has_sliders(cell):
    """Whether a picture that the cell shows, its last line, has sliders."""
    pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    return bool(pictures) and any(word in cell.source for word in SLIDERS)


def _execute(path, end):
    """The first cells of the notebook, run. As in the tests, what is tagged to be skipped is."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:end]
    for cell in notebook.cells:
        if "nbval-skip" in cell.metadata.get("tags", []):
            cell.metadata.tags += ["skip-execution"]
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # two notebooks at a time, one processor for each
    NotebookClient(
        notebook,
        timeout=600,
        extra_arguments=[f"--IPKernelApp.exec_lines={CARRY_ALL.strip().splitlines()}", "--log-level=ERROR"],
        resources={"metadata": {"path": path.parent}},
    ).execute()
    return notebook


@cache
def _package():
    """One number for all that stands in the package."""
    together, package = hashlib.sha256(), ROOT / "lora_lab"
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            together.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return together.hexdigest()


if __name__ == "__main__":
    with_sliders([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
