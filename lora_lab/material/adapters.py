"""How TinyGPT's adapters were made: ``python -m lora_lab.material.adapters texts`` or ``… study``, half an hour each.

``texts`` are the three adapters that write: code, names and tales. ``study`` are trainings on Unicode's names of one
length each, to be compared: LoRA in several places and ranks, and full fine-tuning, each at its own learning rate.
"""

import argparse
import json

from ..adapt import replace_linear_with_lora
from ..adapter_file import save_adapter
from ..training import evaluate, set_seed, train_model
from .models import ADAPTERS, STUDY, TinyGPT, shipped_adapter, windows
from .pretrain import save
from .texts import KINDS, held_out, split_by_file, unicode_names

PLACES = {"q": ["q"], "q-v": ["q", "v"], "attention": ["q", "k", "v", "o"], "mlp": ["up", "down"]}
PLACES["everywhere"] = [*PLACES["attention"], *PLACES["mlp"]]
# The study's contenders: where LoRA goes, and its rank. The first five have the same budget, 55,296 numbers (53,760 for
# the MLP), the others show what the rank does.
CONTENDERS = [("q", 36), ("q-v", 18), ("attention", 9), ("mlp", 7), ("everywhere", 4)]
CONTENDERS += [("everywhere", 1), ("everywhere", 16), ("q-v", 8), ("q-v", 64)]
SEEDS = (0, 1, 2)


def train_on(text, targets=None, rank=None, lr=3e-3, steps=300, *, length=64, seed=0):
    """TinyGPT trained on a text, 16 new pieces a step: LoRA in the targets or, without a rank, all its weights."""
    set_seed(seed)
    model = TinyGPT.pretrained()
    if rank:
        replace_linear_with_lora(model, rank, targets=targets)
    train_model(model, *windows(text, length, n=16 * steps, seed=seed), epochs=1, batch_size=16, lr=lr, seed=seed)
    return model


def make_texts(steps=1800):
    """One adapter for each kind of text: rank 8 in every matrix of the blocks, shipped in half precision.

    The last third of the steps is smaller, which takes away the jitter of the ones before.
    """
    for name in ADAPTERS:
        train, _ = split_by_file(KINDS[name]())
        model = train_on(train, PLACES["everywhere"], 8, lr=3e-3, steps=2 * steps // 3, length=128)
        refine = windows(train, 128, n=16 * (steps // 3), seed=1)
        train_model(model, *refine, epochs=1, batch_size=16, lr=5e-4)
        save_adapter(model.half(), shipped_adapter(name))
        before, after = (evaluate(gpt.float(), *windows(held_out(name))) for gpt in (TinyGPT.pretrained(), model))
        print(f"{name}: held out {before:.3f} → {after:.3f}")


def make_study(steps=300):
    """Search each contender's learning rate on names held out for that, then train it from three seeds at the best.

    Full fine-tuning, of which one training is kept, is among them.
    """
    train, validation, _ = split_by_file(unicode_names(), validation=True)
    chosen_on, search = windows(validation, 64), {}
    STUDY.mkdir(exist_ok=True)

    def loss_at(*options):
        return round(evaluate(train_on(train, *options, steps=steps), *chosen_on), 3)

    for place, rank in CONTENDERS:
        name = f"{place}-r{rank}"
        search[name] = {lr: loss_at(PLACES[place], rank, lr) for lr in (1e-3, 3e-3, 1e-2, 3e-2)}
        for seed in SEEDS:
            model = train_on(train, PLACES[place], rank, min(search[name], key=search[name].get), steps, seed=seed)
            save_adapter(model.half(), STUDY / f"{name}-seed{seed}")
        print(f"{name}: {search[name]}")
    search["full"] = {lr: loss_at(None, None, lr) for lr in (1e-4, 3e-4, 1e-3, 3e-3)}
    model = train_on(train, lr=min(search["full"], key=search["full"].get), steps=steps)
    save(model, f"full fine-tuning: {search['full']}", STUDY / "full.safetensors")
    (STUDY / "search.json").write_text(json.dumps(search, indent=1))


def main():
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m lora_lab.material.adapters", description=__doc__)
    parser.add_argument("what", choices=["texts", "study"])
    {"texts": make_texts, "study": make_study}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
