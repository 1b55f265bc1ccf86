"""Run notebooks and store their outputs, free of what changes from run to run. ``make notebooks`` calls it.

    python tests/run_notebooks.py notebooks/*.ipynb

A widget's view is dropped from the stored outputs: without the kernel that made it, it would only show an error. Its
picture stays. Of a picture the PNG is stored, not the HTML around it: GitHub shows images, but takes them out of HTML.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbstripout import strip_output

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
VOLATILE = "metadata.widgets metadata.language_info cell.metadata.execution"
# Without a kernel's name JupyterLab asks the reader for one before anything can be run.
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


# How long a training takes depends on the machine, and so does whether its progress bar appears.
os.environ["TQDM_DISABLE"] = "1"


def run(path):
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(notebook, timeout=120, coalesce_streams=True, resources={"metadata": {"path": path.parent}})
    client.execute()
    seconds = time.perf_counter() - start
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=VOLATILE.split())
    notebook.metadata["kernelspec"] = KERNEL
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data.pop("text/html", None)
    nbformat.write(notebook, path)
    print(f"{path.name}: {seconds:.0f} s")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
