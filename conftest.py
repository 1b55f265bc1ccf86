"""What all tests share, the notebooks' too: quiet progress bars, a small model, a way to make an adapter speak, and a
way to see that nothing changed.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from torch import nn

from lora_lab import lora_layers, set_seed

# The kernels that run the notebooks inherit this. Whether a progress bar appears depends on the machine's speed.
os.environ["TQDM_DISABLE"] = "1"

# The same examples in every run, and no verdict on how long they take.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")


def pytest_collectstart(collector):
    """nbval compares numbers and words: the HTML of a table or a picture says what the text beside it says."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html",)


def pytest_collection_modifyitems(items):
    """The site's tests first: making it takes longest, and other processes have something to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_site.py")


class SmallNet(nn.Module):
    """An MLP with names: 12 → 16 → 16 → 6."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(16, 16)
        self.head = nn.Linear(16, 6)

    def forward(self, x):
        return self.head(self.act(self.fc2(self.act(self.fc1(x)))))


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)


@pytest.fixture(scope="session")
def site(testrun_uid):
    """The folder of the site, with the slides in it; sliders that have not changed since are not computed again.

    Of several processes that test, each with a session of its own, the first makes it, and the others wait for it.
    """
    if not find_spec("myst_nb"):
        if os.environ.get("CI"):
            pytest.fail("CI is set, so that these tests must run: install docs/requirements.txt", pytrace=False)
        pytest.skip("NO TEST OF SITE AND SLIDES HAS RUN: install docs/requirements.txt")
    root = Path(__file__).parent
    build = root / "build"
    build.mkdir(exist_ok=True)
    made_for = build / "site_made_for"
    with FileLock(build / "site.lock"):
        if not made_for.exists() or made_for.read_text() != testrun_uid:
            made = subprocess.run([sys.executable, root / "docs" / "book.py"], capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
            made_for.write_text(testrun_uid)
    return build / "site"


@pytest.fixture
def net():
    return SmallNet()


@pytest.fixture
def x():
    return torch.randn(5, 12)


def speak(model, size=0.3):
    """Give every B random numbers, as training would: a new adapter adds nothing, and hides most mistakes."""
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora.B, std=size)
    return model


def snapshot(model):
    """All that a failed call must leave alone: the modules, every number, and what is trainable."""
    modules = [(name, id(module)) for name, module in model.named_modules()]
    values = [(n, id(p), p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()]
    return modules, values


def assert_untouched(model, before):
    modules, values = snapshot(model)
    assert modules == before[0]
    assert [v[:2] + v[3:] for v in values] == [v[:2] + v[3:] for v in before[1]]
    for (name, _, now, _), (_, _, then, _) in zip(values, before[1], strict=True):
        assert torch.equal(now, then), name
