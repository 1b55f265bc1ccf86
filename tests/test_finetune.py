"""``python -m lora_lab.finetune``: from a text file to an adapter that PEFT reads, alone, in copies and in shards."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch

from lora_lab.finetune import checkpoint
from lora_lab.finetune.__main__ import main
from lora_lab.finetune.loop import Progress, Settings
from lora_lab.finetune.reading import read_pieces
from lora_lab.material import TinyGPT
from lora_lab.material.hub import save_for_transformers
from lora_lab.material.texts import ships_log

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT, transformers and torch warn about one another


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    return save_for_transformers(tmp_path_factory.mktemp("base"), TinyGPT(width=24, depth=2, heads=2, context=32))


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder to stand in, with a text in it."""
    (tmp_path / "log.txt").write_text(ships_log(40))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def words(base, room):
    """A command line for a short training, and what is added to it."""
    short = [
        "text",
        "log.txt",
        "--model",
        str(base),
        "--length",
        "16",
        "--batch",
        "4",
        "--every",
        "3",
        "--rate",
        "0.01",
    ]
    return lambda *more: [*short, *map(str, more)]


def history(folder):
    return json.loads((folder / "history.json").read_text())


def logits(model):
    with torch.no_grad():
        return model(torch.arange(16)[None]).logits


def test_from_a_text_to_an_adapter_that_peft_reads(base, room, words, capsys):
    assert main(words("--steps", 12, "--out", "mine")) == 0
    said = capsys.readouterr().out
    assert "held out" in said and "the adapter is in mine" in said
    measured = history(room / "mine")
    assert [row["step"] for row in measured] == [0, 3, 6, 9, 12] and measured[0]["held out"] > measured[-1]["held out"]
    fresh = transformers.AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), room / "mine")
    assert (logits(adapted) - logits(fresh)).abs().max() > 0.01
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    held_out = read_pieces(room / "log.txt", tokenizer, 16).held_out
    with torch.no_grad():
        loss = adapted(input_ids=held_out, labels=held_out).loss.item()
    assert loss == pytest.approx(min(row["held out"] for row in measured), abs=1e-4)


def test_without_a_model_it_is_tinygpt_and_its_base_lies_beside_the_adapter(room, capsys):
    assert main(["text", "log.txt", "--steps", "1", "--batch", "1", "--length", "32", "--out", "mine"]) == 0
    assert "110,592 of 1,976,832 numbers learn" in capsys.readouterr().out
    model = peft.AutoPeftModelForCausalLM.from_pretrained(room / "mine")  # finds its base by itself
    assert sum(p.numel() for p in model.parameters()) == 1_976_832


def test_the_settings_reach_the_adapter(room, words):
    assert main(words("--steps", 1, "--rank", 2, "--alpha", 6, "--targets", "q_proj,fc2")) == 0
    config = json.loads((room / "my_adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], set(config["target_modules"])) == (2, 6, {"q_proj", "fc2"})


def test_all_weights_give_a_whole_model(room, words):
    assert main(words("--steps", 3, "--all-weights", "--out", "whole")) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(room / "whole")
    assert not (room / "whole" / "adapter_config.json").exists() and logits(model).isfinite().all()
    assert main(words("--steps", 1, "--model", "whole", "--out", "again")) == 0, "it can be a base itself"


@pytest.mark.parametrize(
    ("kind", "file"), [((), "adapter_model.safetensors"), (("--all-weights",), "model.safetensors")]
)
def test_a_training_that_goes_on_ends_where_one_without_a_break_ends(kind, file, room, words, capsys):
    assert main(words("--steps", 12, "--out", "whole", *kind)) == 0
    assert main(words("--steps", 6, "--out", "parts", *kind)) == 0
    assert main(words("--steps", 12, "--out", "parts", "--resume", *kind)) == 0
    assert "going on from step 6" in capsys.readouterr().out
    assert history(room / "parts") == history(room / "whole")
    for each in (file, "history.json"):
        assert (room / "parts" / each).read_bytes() == (room / "whole" / each).read_bytes()


def test_it_stops_when_the_held_out_loss_has_not_fallen_and_keeps_the_best(room, words, capsys):
    (room / "log.txt").write_text("".join(map(chr, range(32, 127))) * 4 + "zyxw" * 60)  # held out is another text
    assert main(words("--steps", 300, "--patience", 2, "--rate", 0.03)) == 0
    said, measured = capsys.readouterr().out, history(room / "my_adapter")
    assert "the held-out loss has not fallen 2 times" in said and measured[-1]["step"] < 300
    losses = [row["held out"] for row in measured]
    assert min(losses) == losses[-3] and f"at step {measured[-3]['step']}" in said


def test_progress_counts_from_the_last_best():
    progress = Progress()
    assert progress.note(0, None, 2.0) and progress.note(5, 1.9, 1.5) and not progress.note(10, 1.0, 1.5)
    assert (progress.best, progress.best_step, progress.waited, progress.step) == (1.5, 5, 1, 10)
    assert progress.note(15, 1.0, 1.4) and progress.waited == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file 'own.txt'"),
        (b"", "'own.txt' is empty"),
        (b"  \n \n", "'own.txt' is empty"),
        (b"A short text.", "has 13 tokens, and at least 160 are needed"),
        (bytes(range(256)) * 20, "is not text in UTF-8"),
        (b"\0\0\0\0PK" * 200, "is not text in UTF-8"),
        ("folder", "'own.txt' is a folder"),
        ("Да, это дневник. ".encode() * 50, "TinyGPT knows no others"),
    ],
    ids=["missing", "empty", "blank", "short", "binary", "zeros", "folder", "cyrillic"],
)
def test_a_file_that_is_no_text_to_learn_from_gets_a_sentence(content, said, room, words, capsys):
    if content == "folder":
        (room / "own.txt").mkdir()
    elif content is not None:
        (room / "own.txt").write_bytes(content)
    assert main(["text", "own.txt", *words()[2:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Traceback" not in error
    assert not (room / "my_adapter").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", 0], "--rank=0"),
        (["--steps", -1], "--steps=-1"),
        (["--rate", -1], "--rate=-1.0"),
        (["--rate", 0], "--rate=0.0"),
        (["--alpha", 0], "--alpha=0.0"),
        (["--seed", -1], "--seed=-1"),
        (["--seed", 10**16], "--seed=10000000000000000"),
        (["--length", 100], "--length 100 is more than the 32 tokens"),
        (["--processes", 3], "--batch 4 can't be divided among 3 processes"),
        (["--alpha", -2], "--alpha=-2.0"),
        (["--length", 1], "--length=1"),
        (["--model", "nowhere"], "there is no folder 'nowhere'"),
        (["--targets", "query"], "query"),
        (["--resume"], "there is no checkpoint in 'my_adapter'"),
        (["--rate", 1e30], "most likely the rate"),
    ],
    ids=str,
)
def test_settings_that_will_not_do_get_a_sentence(options, said, words, capsys):
    assert main(words("--steps", 6, *options)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_nothing_is_written_over_and_another_training_is_not_gone_on_with(room, words, capsys):
    assert main(words("--steps", 3)) == 0
    before = (room / "my_adapter" / "adapter_model.safetensors").read_bytes()
    assert main(words("--steps", 3)) == 2 and "is there already" in capsys.readouterr().err
    assert main(words("--steps", 6, "--rank", 4, "--resume")) == 2 and "--rank was 8" in capsys.readouterr().err
    (room / "log.txt").write_text(ships_log(40, seed=3))
    assert main(words("--steps", 6, "--resume")) == 2 and "the text was another" in capsys.readouterr().err
    (room / "log.txt").write_text(ships_log(40))
    assert (room / "my_adapter" / "adapter_model.safetensors").read_bytes() == before
    (room / "my_adapter" / checkpoint.FILE).write_bytes(b"half of it")
    assert main(words("--steps", 6, "--resume")) == 2 and "is damaged" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_not_gone_on_with(room, words, capsys):
    (room / "mine").mkdir()
    (room / "mine" / "notes.txt").write_text("mine")
    assert main(words("--steps", 3, "--out", "mine")) == 2
    assert "take it away, or --out names another folder" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_not_blamed_on_the_text(base, room, words, capsys):
    for file in ("config.json", "model.safetensors"):
        (room / "bare").mkdir(exist_ok=True)
        (room / "bare" / file).write_bytes((base / file).read_bytes())
    assert main(words("--steps", 1, "--model", "bare")) == 2
    assert "no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 44 vs 41")])
def test_a_checkpoint_is_replaced_whole_or_not_at_all(room, words, monkeypatch, capsys, error):
    assert main(words("--steps", 3)) == 0
    whole = (room / "my_adapter" / checkpoint.FILE).read_bytes()

    def no_room(state, file):
        file.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", no_room)
    assert main(words("--steps", 6, "--resume")) == 2
    said = capsys.readouterr().err
    assert str(error.args[-1]) in said and "the checkpoint of step 3 is whole" in said and "None" not in said
    assert not list((room / "my_adapter").glob("*.part"))
    assert (room / "my_adapter" / checkpoint.FILE).read_bytes() == whole


def test_the_pieces_of_a_step_are_the_same_for_whoever_asks(base, room):
    pieces = read_pieces(room / "log.txt", transformers.AutoTokenizer.from_pretrained(base), 16)
    assert torch.equal(pieces.batch(7, 4), pieces.batch(7, 4)) and not torch.equal(
        pieces.batch(7, 4), pieces.batch(8, 4)
    )
    assert pieces.batch(7, 4).shape == (4, 16) and pieces.held_out.shape[1] == 16
    text = ships_log(40).strip()
    assert len(pieces.tokens) + len(text) // 10 == len(text), "the last tenth is held out"


def test_settings_say_which_of_them_may_change():
    told = {"text": "a", "out": "b", "rank": 8}
    assert Settings("a", "b").differs(Settings("a", "c", steps=9, patience=1, every=2).__dict__) == []
    assert "rate" in Settings("a", "b").differs(told | {"rate": 3})


# Several processes: each test starts real ones.


def command(*words):
    return [sys.executable, "-m", "lora_lab.finetune", *words]


def run(words, **options):
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=240, env=one_thread, **options)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(engine, room, words):
    assert main(words("--steps", 6, "--out", "alone")) == 0
    together = run(words("--steps", 6, "--out", "both", "--processes", 2, "--engine", engine))
    assert together.returncode == 0, together.stderr
    for one, two in zip(history(room / "alone"), history(room / "both"), strict=True):
        assert one["held out"] == pytest.approx(two["held out"], abs=1e-4) and one["step"] == two["step"]
    weights = [room / folder / "adapter_model.safetensors" for folder in ("alone", "both")]
    one, two = map(_tensors, weights)
    assert one.keys() == two.keys() and all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)
    assert any(tensor.any() for key, tensor in two.items() if "lora_B" in key)
    lora, whole = sum(tensor.numel() for tensor in two.values()), 2 * _held(together.stdout)
    if engine == "ddp":
        assert f"each process sent {4 * lora:,} bytes a step" in together.stdout, "the gradients, in two halves"
        assert whole == 2 * _parameters(room / "alone"), "two whole copies"
    else:
        # Every weight on the way forward, those of the blocks again on the way back, and LoRA's gradients: half each.
        blocks = _parameters(room / "alone", inside=".layers.")
        assert f"each process sent {4 * (whole + blocks + lora) // 2:,} bytes a step" in together.stdout
        assert whole == pytest.approx(_parameters(room / "alone"), rel=0.02), "shards are filled up to equal sizes"


def test_shards_can_be_gone_on_with_by_one_process(room, words, capsys):
    assert run(words("--steps", 3, "--out", "both", "--processes", 2, "--engine", "fsdp")).returncode == 0
    assert main(words("--steps", 6, "--out", "both", "--resume")) == 0
    assert main(words("--steps", 6, "--out", "alone")) == 0
    for one, two in zip(history(room / "alone"), history(room / "both"), strict=True):
        assert one["held out"] == pytest.approx(two["held out"], abs=1e-4)


def test_a_process_that_is_killed_ends_the_training_in_a_sentence_and_the_checkpoint_is_whole(room, words):
    endless = words("--steps", 100000, "--patience", 100000, "--processes", 2)
    training = subprocess.Popen(command(*endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(children := _children(training.pid)) < 2 or not (room / "my_adapter" / checkpoint.FILE).exists():
        assert time.monotonic() < deadline and training.poll() is None
        time.sleep(0.1)
    os.kill(children[-1], signal.SIGKILL)
    _, error = training.communicate(timeout=120)
    assert training.returncode == 1
    assert "was killed (SIGKILL)" in error and "the same command with --resume goes on from there" in error
    assert "Traceback" not in error
    assert checkpoint.read(room / "my_adapter")["progress"]["trained"]["step"] >= 0


def test_stopping_two_processes_by_hand_says_what_is_left(room, words):
    endless = words("--steps", 100000, "--patience", 100000, "--processes", 2)
    training = subprocess.Popen(command(*endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (room / "my_adapter" / checkpoint.FILE).exists():
        assert time.monotonic() < deadline and training.poll() is None
        time.sleep(0.1)
    training.send_signal(signal.SIGINT)
    _, error = training.communicate(timeout=120)
    assert training.returncode == 130 and "stopped by hand; the checkpoint of step" in error
    assert "Traceback" not in error


def test_a_port_that_is_taken_is_named(words):
    with socket.socket() as door:
        door.bind(("localhost", 0))
        door.listen()
        port = door.getsockname()[1]
        together = run(words("--processes", 2, "--port", port))
    assert together.returncode == 2 and f"port {port} can't be had" in together.stderr
    assert "Traceback" not in together.stderr


def test_what_all_processes_find_wrong_is_said_once(words):
    together = run(words("--processes", 2, "--targets", "query"))
    assert together.returncode == 2 and together.stderr.count("error: ") == 1 and "query" in together.stderr
    odd = run(words("--processes", 3))
    assert odd.returncode == 2 and "--batch 4 can't be divided among 3 processes" in odd.stderr


def _tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def _held(said):
    """How many numbers the first of two processes has said to hold."""
    line = next(line for line in said.splitlines() if " hold " in line)
    return int(line.split(" hold ")[1].split()[0].replace(",", ""))


def _parameters(folder, inside=""):
    """How many numbers an adapted model has in the modules of this name, A and B among them."""
    model = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
    return sum(p.numel() for name, p in model.named_parameters() if inside in name)


def _children(pid):
    """The processes that a process has started, the oldest first."""
    return sorted(child.pid for child in psutil.Process(pid).children())
