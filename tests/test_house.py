"""The house itself: where things live, what they may import, and that everything public says what it does."""

import ast
import doctest
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lora_lab

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lora_lab"

# The root is LoRA. Each wing may use the root and the wings before it, and nothing uses a wing that comes later.
WINGS = ["", "material", "finetune", "pictures", "exercises"]


def rooms():
    """Every module of the package by its dotted name, with the names of those it imports."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).with_suffix("").parts
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                home = list(place[: len(place) - node.level])
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found |= {".".join([*home, name]) for name in names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("lora_lab"), f"{path}: inside the package, imports are relative"
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("lora_lab") for alias in node.names), path
        yield ".".join(place), found


ROOMS = {name: imported for name, imported in rooms() if not name.endswith("__init__")}


def wing(room):
    return WINGS.index(room.rpartition(".")[0])


def test_every_arrow_goes_one_way():
    """No module imports one of a later wing, and none imports, by whatever detour, one that imports it."""
    assert not [(room, used) for room, imported in ROOMS.items() for used in imported if wing(used) > wing(room)]
    order = list(graphlib.TopologicalSorter(ROOMS).static_order())  # raises CycleError with the circle's names
    assert set(order) == set(ROOMS), "an import leads to something that is no module"


def public_things():
    for room in ROOMS:
        if room.startswith("exercises"):
            continue
        module = importlib.import_module(f"lora_lab.{room}")
        yield pytest.param(module, id=room)
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) != module.__name__ or name.startswith("_") or not callable(thing):
                continue
            yield pytest.param(thing, id=name)
            for method_name, method in vars(thing).items() if inspect.isclass(thing) else ():
                if inspect.isfunction(method) and not method_name.startswith("_") and method_name != "extra_repr":
                    yield pytest.param(method, id=f"{name}.{method_name}")


@pytest.mark.parametrize("thing", public_things())
def test_everything_public_has_a_docstring(thing):
    said = inspect.getdoc(thing)  # a method that replaces another's does what that one says
    assert said and not said.startswith(f"{getattr(thing, '__name__', '')}("), thing


EXAMPLES = [name for name in ROOMS if ">>> " in (PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")]


@pytest.mark.parametrize("room", EXAMPLES)
def test_the_examples_in_docstrings_give_what_they_say(room):
    result = doctest.testmod(importlib.import_module(f"lora_lab.{room}"))
    assert result.attempted and not result.failed


# Whatever takes tensors or gives them back says of what shape.
TENSORS = [
    *("LoRALayer", "LoRALayer.delta", "LoRALayer.forward", "LoRALayer.seen", "weight_of"),
    *("LinearWithLoRA", "LinearWithLoRA.forward", "LinearWithLoRA.adapted", "LinearWithLoRA.adapted_weight"),
    *("LinearWithLoRA.total_weight", "LinearWithDoRA.adapted", "LinearWithPiSSA.adapted", "round_to_bfloat16"),
    *("nf4_levels", "quantize", "dequantize", "Linear4bit", "Linear4bit.dense_weight", "Linear4bit.forward"),
    *("wrap_layers", "lora_state", "load_lora_state", "save_adapter"),
    *("spectrum", "low_rank_approximation", "subspace_similarity", "amplification_factor"),
    *("create_toy_dataset", "create_planted_task", "PlantedTask", "Split", "digits"),
    *(
        "DigitClassifier",
        "TinyGPT",
        "Block",
        "Attention",
        "encode",
        "decode",
        "windows",
        "pretrain_digits",
        "held_out_loss",
    ),
    *("train_model", "evaluate", "accuracy", "default_loss", "memory_ledger"),
    *("mosaic", "digit_rows", "digits_explorer", "doctor"),
]


@pytest.mark.parametrize("name", TENSORS)
def test_whatever_handles_tensors_states_their_shapes(name):
    things = {param.id: param.values[0] for param in public_things()}
    assert re.search(r"\((\w+|…|min\(m, n\)), ?[\w…, ]*\)", things[name].__doc__), things[name].__doc__


def test_the_public_names_are_sorted_and_exist():
    assert lora_lab.__all__ == sorted(lora_lab.__all__)
    assert all(hasattr(lora_lab, name) for name in lora_lab.__all__)


def test_importing_the_package_brings_torch_and_neither_pictures_nor_widgets():
    heavy = ["matplotlib", "ipywidgets", "anywidget", "sklearn", "transformers", "peft", "IPython"]
    code = f"import lora_lab, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_layer_stays_short_enough_to_read_aloud():
    lines = (PACKAGE / "layer.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 115


def test_both_environment_files_install_the_same_versions():
    """All but torch, of which conda has builds and versions of its own."""
    pins = re.findall(r"^[\w-]+==[\w.]+$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    conda = re.findall(r"^ +- ([\w-]+==[\w.]+)$", (ROOT / "environment.yml").read_text(encoding="utf-8"), re.M)
    assert conda == [pin for pin in pins if not pin.startswith("torch==")]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
