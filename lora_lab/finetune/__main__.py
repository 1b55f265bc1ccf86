"""``python -m lora_lab.finetune text my_diary.txt``: a model of transformers learns from a text file, by LoRA.

Without --model it is TinyGPT, which is here; any other is a folder, or a name on a hub, which needs a network. What
comes out is an adapter that PEFT reads, always the best one so far, with a checkpoint from which --resume goes on.
Several processes: --processes 2, or torchrun --standalone --nproc-per-node 2 -m lora_lab.finetune text my_diary.txt
"""

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import threading
import warnings
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..checks import positive_number, whole_number
from ..material.texts import read_text
from . import checkpoint
from .launch import launch
from .loop import Settings, train
from .reading import read_pieces
from .team import ENGINES, together

BAD_INPUT = 2


def main(words=None):
    """What the command line says; returns the exit status."""
    words = sys.argv[1:] if words is None else list(words)
    options = _parser().parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # into a file Windows writes no arrow, and no training ends for want of one
            stream.reconfigure(errors="replace")
    try:
        return _run(options, words)
    except (ValueError, OSError, FloatingPointError, SafetensorError) as error:  # the last of a disk that is full
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes here, which all find the same, one
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"\nstopped by hand; {_what_is_left(options.out)}", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m lora_lab.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=["text"], help="what to learn from")
    add("file", type=Path, help="a text file in UTF-8")
    add("--model", default=Settings.model, help="a folder or a name on a hub; without it, TinyGPT")
    add("--out", default="my_adapter", help="the folder that the adapter comes into (%(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint in that folder")
    add("--rank", type=int, default=Settings.rank, help="of the adapter (%(default)s)")
    add("--alpha", type=float, help="the rank, if left out: a scale of 1")
    add("--targets", default=Settings.targets, help="layers by name, with commas (%(default)s, without the head)")
    add("--all-weights", action="store_true", help="full fine-tuning, to compare: a whole model comes out")
    add("--rate", type=float, help="of learning: 0.001 for TinyGPT and 0.0002 for others, if left out")
    add("--steps", type=int, default=Settings.steps, help="at most (%(default)s)")
    add("--batch", type=int, default=Settings.batch, help="pieces a step, of all processes together (%(default)s)")
    add("--length", type=int, default=Settings.length, help="tokens a piece (%(default)s)")
    add("--every", type=int, default=Settings.every, help="steps from one checkpoint to the next (%(default)s)")
    add("--patience", type=int, default=Settings.patience, help="stop after so many without a better one (%(default)s)")
    add("--seed", type=int, default=Settings.seed, help="of all that is random (%(default)s)")
    add("--processes", type=int, default=1, help="on this machine (%(default)s)")
    add("--engine", choices=ENGINES, default="ddp", help="of several processes: copies (ddp) or shards (fsdp)")
    add("--port", type=int, help="where the processes meet; a free one, if left out")
    add("--launched", action="store_true", help=argparse.SUPPRESS)  # by this script, which says what went wrong
    return parser


def _run(options, words):
    settings = _settings(options)
    if options.processes > 1:
        status = launch(_for_each_process(words), options.processes, options.port)
        if status not in (0, BAD_INPUT):
            print(f"error: the training has ended early; {_what_is_left(options.out)}", file=sys.stderr)
        return status
    with together(options.engine) as team:
        if team.size > 1:
            _listen_for_the_end(options)
        if settings.batch % team.size:
            _refuse_batch(settings.batch, team.size)
        state = _before(settings, options.resume, team)
        model, tokenizer = _open(settings, team)
        most = getattr(model.config, "max_position_embeddings", None) or settings.length
        if settings.length > most:
            raise ValueError(
                f"--length {settings.length} is more than the {most} tokens that the model can look back on"
            )
        with contextlib.nullcontext() if team.leads else contextlib.redirect_stdout(io.StringIO()):
            pieces = read_pieces(options.file, tokenizer, settings.length)
        try:
            progress = train(model, pieces, settings, team, state)
        except RuntimeError as error:
            if team.size > 1 and _is_broken_off(error):
                _end_without_the_others(options)
            raise
        except (OSError, SafetensorError) as error:
            raise OSError(f"{error}; {_what_is_left(options.out)}") from error
        _say_the_end(progress, settings, team)
    return 0


def _settings(options):
    whole_number("--steps", options.steps)
    positive_number("--alpha", 1 if options.alpha is None else options.alpha)
    whole_number("--seed", options.seed, 0, 2**32)
    for name in ("rank", "batch", "every", "patience", "processes"):
        whole_number(f"--{name}", getattr(options, name))
    whole_number("--length", options.length, 2)
    if options.batch % options.processes:
        _refuse_batch(options.batch, options.processes)
    usual = 1e-3 if options.model == "tinygpt" else 2e-4
    rate = positive_number("--rate", usual if options.rate is None else options.rate)
    checksum = zlib.crc32(read_text(options.file).encode())  # what is wrong with the file is said at once
    known = {name: value for name, value in vars(options).items() if name in Settings.__dataclass_fields__}
    alpha = options.rank if options.alpha is None else options.alpha
    return Settings(**known | {"text": str(options.file), "alpha": alpha, "rate": rate, "checksum": checksum})


def _refuse_batch(batch, processes):
    raise ValueError(f"--batch {batch} can't be divided among {processes} processes; take a multiple")


def _for_each_process(words):
    """The command line for each of several processes: all of it but how many there are."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--processes")
    parser.add_argument("--port")
    return [*parser.parse_known_args(words)[1], "--launched"]


def _before(settings, resume, team):
    """What is in the folder: the checkpoint to go on from, or nothing that would be written over."""
    out = Path(settings.out)
    state = checkpoint.read(out)
    if resume:
        if state is None:
            raise ValueError(f"there is no checkpoint in {str(out)!r} to go on from; leave --resume out")
        other = settings.differs(state["progress"]["told"])
        if other:
            told = state["progress"]["told"]
            said = [
                "the text was another" if name == "checksum" else f"--{name.replace('_', '-')} was {told.get(name)}"
                for name in other
            ]
            raise ValueError(f"this is another training than the one in {str(out)!r}: {', '.join(said)}")
        return state
    taken = out.exists() and (not out.is_dir() or any(path.name not in ("base", "base.part") for path in out.iterdir()))
    if team.size > 1:
        torch.distributed.barrier()  # everybody has looked before the first one makes the folder
    if taken:
        way = "--resume goes on with it" if state is not None else "take it away"
        raise ValueError(f"{str(out)!r} is there already; {way}, or --out names another folder")
    return None


def _open(settings, team):
    """The model with LoRA in it, and its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    folder = settings.model
    if folder == "tinygpt":
        folder = str(Path(settings.out, "base").resolve())  # the adapter's file names it, wherever one stands
        if team.leads and not Path(folder).exists():
            from ..material.hub import save_for_transformers

            beside = folder + ".part"
            shutil.rmtree(beside, ignore_errors=True)
            os.replace(save_for_transformers(beside), folder)  # half of it is never seen
        if team.size > 1:
            torch.distributed.barrier()
    elif not Path(folder).exists() and ("." in folder[:1] or folder.count("/") != 1):
        raise ValueError(f"there is no folder {folder!r}; on a hub a model's name is like 'owner/name'")
    with contextlib.redirect_stdout(sys.stderr):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto" if torch.cuda.is_available() else None)
    if settings.all_weights:
        if team.leads:
            tokenizer.save_pretrained(settings.out)  # the whole model that comes out can be opened as this one was
        return model, tokenizer
    targets = settings.targets if settings.targets == "all-linear" else settings.targets.split(",")
    torch.manual_seed(settings.seed)  # A is drawn here, the same in every process
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, lora), tokenizer


def _is_broken_off(error):
    return any(said in str(error) for said in ("Connection closed", "Connection reset", "Broken pipe", "recvValue"))


def _listen_for_the_end(options):
    """When one process is gone, torchrun tells the others to stop, and this one says so.

    A thread listens, since the main one may be waiting in torch for the one that is gone.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(told)

    def listen():
        while os.read(heard, 1) != bytes([signal.SIGTERM]):
            pass
        _end_without_the_others(options)

    threading.Thread(target=listen, daemon=True).start()


def _end_without_the_others(options):
    """Leave at once: whoever is gone will not answer any more."""
    if not options.launched:
        print(f"error: another process is gone; {_what_is_left(options.out)}", file=sys.stderr, flush=True)
    os._exit(1)


def _what_is_left(out):
    """What a training that has ended early leaves behind."""
    try:
        state = checkpoint.read(out)
    except ValueError as error:
        return str(error)
    if state is None:
        return "it had not come to its first checkpoint"
    step = state["progress"]["trained"]["step"]
    return f"the checkpoint of step {step} is whole, in {str(out)!r}: the same command with --resume goes on from there"


def _say_the_end(progress, settings, team):
    first = progress.measured[0]["held out"]
    if progress.step < settings.steps:
        team.say(f"stopped at step {progress.step}: the held-out loss has not fallen {progress.waited} times")
    what = "the model" if settings.all_weights else "the adapter"
    team.say(f"held out {first:.3f} → {progress.best:.3f}, at step {progress.best_step}; {what} is in {settings.out}")


if __name__ == "__main__":
    sys.exit(main())
