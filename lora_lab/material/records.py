"""What long trainings have measured, as files that ship: a part is a file, and an interrupted part goes on from it."""

import argparse
import json

from ..disk import replacing


def written(folder, part):
    """What a part's file holds so far: ``{name: [row, …]}``."""
    file = folder / f"{part}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def write(folder, part, rows):
    """Write a part's file anew."""
    with replacing(folder / f"{part}.json") as (beside,):
        beside.write_text(json.dumps(rows, indent=1))


def from_the_command_line(module, description, parts, make):
    """``python -m module``, or with one of its parts: make all of them, or the one."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("part", choices=parts, nargs="?", help="one part; all of them when left out")
    part = parser.parse_args().part
    for each in [part] if part else parts:
        make(each)
