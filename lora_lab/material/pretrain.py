"""How the shipped weights were made: ``python -m lora_lab.material.pretrain digits``, or ``… tinygpt``.

The first takes seconds, the second hours. Both need nothing but this package. An interrupted ``tinygpt`` goes on from
its last checkpoint.
"""

import argparse
import math
from pathlib import Path

import safetensors.torch
import torch

from ..disk import replacing
from ..training import accuracy, default_loss, mode, set_seed, train_model
from .data import digits
from .models import DigitClassifier, TinyGPT, encode
from .texts import python_prose, split_by_file

CHECKPOINT = Path("tinygpt.checkpoint")
BATCH, RATE = 16, 2e-3  # of TinyGPT: the pieces of a step, the highest learning rate
WARMUP, SAVED_EVERY = 200, 500  # steps


def pretrain_digits():
    """Train the digit classifier on upright digits, (n, 64) → (n, 10)."""
    task = digits("upright")
    set_seed(0)
    model = DigitClassifier()
    train_model(model, task.X, task.y, epochs=60, lr=1e-3, batch_size=128)
    return model, f"{accuracy(model, task.X_test, task.y_test):.1%} of the test digits are right"


def pretrain_tinygpt(steps, checkpoint=CHECKPOINT):
    """Train TinyGPT on the prose of the running Python; now and then a checkpoint and the held-out loss."""
    from tqdm.auto import trange

    train, test = map(encode, split_by_file(python_prose()))
    set_seed(0)
    model = TinyGPT(dropout=0.1)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"going on from step {first:,}")
    bar = trange(first, steps, initial=first, total=steps, desc="TinyGPT", unit="step")
    for step in bar:
        set_seed(step)  # the same batch and the same dropout, whether interrupted before or not
        for group in optimizer.param_groups:
            group["lr"] = RATE * _schedule(step, steps)
        tokens = _windows(train, BATCH, model.context)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            with replacing(checkpoint) as (beside,):
                torch.save(state, beside)
            bar.write(f"step {step + 1:,}: loss {loss.item():.3f}, held out {held_out_loss(model, test):.3f}")
    nats = held_out_loss(model, test)
    return model, f"held out: {nats:.3f} nats, {nats / math.log(2):.3f} bits per character after {steps:,} steps"


@torch.no_grad()
def held_out_loss(model, tokens):
    """The mean loss in nats per character over a whole text (length,), each window read from its own beginning."""
    windows = tokens[: len(tokens) // (model.context + 1) * (model.context + 1)].view(-1, model.context + 1)
    with mode(False, model):
        total = sum(_loss(model, batch).item() * len(batch) for batch in windows.split(32))
    return total / len(windows)


def _windows(tokens, n, length):
    """(n, length + 1) pieces of a text from random places."""
    starts = torch.randint(len(tokens) - length, (n,))
    return tokens[starts[:, None] + torch.arange(length + 1)]


def _loss(model, tokens):
    """What the model makes of each next character."""
    return default_loss(model(tokens[:, :-1]).float(), tokens[:, 1:])


def _schedule(step, steps):
    """The share of the learning rate: up in WARMUP steps, then down a half cosine to a fiftieth."""
    progress = max(0, step - WARMUP) / max(1, steps - WARMUP)
    return min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def save(model, note, file=None):
    """Write a model's weights, in half precision, into a file, or else where ``pretrained`` finds them."""
    file = file or model.weights_file()
    file.parent.mkdir(exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    file.write_bytes(safetensors.torch.save(weights, metadata={"trained": note}))
    print(f"{file.name}: {note}")


def main():
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m lora_lab.material.pretrain", description=__doc__)
    parser.add_argument("model", choices=["digits", "tinygpt"])
    parser.add_argument("--steps", type=int, default=14000, help="how long to train TinyGPT")
    options = parser.parse_args()
    save(*(pretrain_digits() if options.model == "digits" else pretrain_tinygpt(options.steps)))


if __name__ == "__main__":
    main()
