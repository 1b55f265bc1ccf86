"""How the trainings of notebook 13 were made: ``python -m lora_lab.material.questions``, an hour; or one part of it.

Each part answers a question that people ask: does ``dropout`` help, what is lost when a training goes on
(``again``, beside ``unbroken``), and what must learn when a text has new ``tokens``? What came out is written down as
soon as a training ends, and an interrupted part goes on where it stopped.
"""

import itertools
import re
import tempfile
from pathlib import Path

import torch

from ..adapt import count_parameters, merge_lora, remove_lora, replace_linear_with_lora
from ..training import default_loss, evaluate, set_seed, train_model
from .adapters import PLACES, SEEDS
from .forgetting import yardsticks
from .hub import save_for_transformers
from .models import WEIGHTS, TinyGPT, windows
from .records import from_the_command_line, write, written
from .texts import ships_log, split_by_file, unicode_names

QUESTIONS = WEIGHTS / "questions"
RATES = (0.001, 0.003)
RANK = 8
BATCH = 16
STEPS = 50  # between two looks at the dropout, and a measure of all other trainings
LENGTH = 64
NEW_TOKENS = ("<day>", "<weather>", "<event>", "<mood>")
# What learns beside LoRA where a text has new tokens, as PEFT is told.
BESIDE = {
    "LoRA alone": {},
    "LoRA alone, rows at random": {},
    "LoRA alone, at random in the embedding": {},
    "LoRA alone, at random in the head": {},
    "and the new rows": {"trainable_token_indices": {"embed_tokens": [96, 97, 98, 99], "lm_head": [96, 97, 98, 99]}},
    "and all rows": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


def plan(part):
    """The trainings of a part: ``{name: options}``."""
    ways = {"dropout": (0.0, 0.1, 0.3), "tokens": BESIDE, "unbroken": ("LoRA", "rank 16")}.get(part, ("LoRA",))
    trainings = itertools.product(ways, RATES, SEEDS)
    return {f"{way} {rate} seed {seed}": {"way": way, "rate": rate, "seed": seed} for way, rate, seed in trainings}


def record(part):
    """What was measured in a part, a dictionary for each training and moment: its options and its losses."""
    options = plan(part)
    return [options[name] | row for name, rows in written(QUESTIONS, part).items() for row in rows]


def marked(log):
    """A log whose days are marked with the new tokens: "<day>3<weather>Wind west, fog<event>…<mood>All well."

    >>> marked("Day 3. Wind west, fog. The soup tasted of rope. All well.\\n")
    '<day>3<weather>Wind west, fog<event>The soup tasted of rope.<mood>All well.'
    """
    day = r"Day (\d+)\. (.*?)\. (.*\.) ((?:All well|Mood|Nobody).*)\n"
    return re.sub(day, r"<day>\1<weather>\2<event>\3<mood>\4", log)


def learn(model, text, steps, rate, seed=0, adam=None):
    """Steps of Adam, a new one unless it is given, on new pieces of a text, a batch each."""
    pieces = windows(text, LENGTH, n=steps * BATCH, seed=seed)
    own = {"optimizer": lambda parameters, lr: adam} if adam else {}
    train_model(model, *pieces, epochs=1, batch_size=BATCH, lr=rate, seed=seed, progress=False, **own)


def dropout(way, rate, seed):
    """Four hundred steps on sixty days of a log: in all some eighty times as many characters as it has."""
    text, test = ships_log(60), windows(ships_log(60, seed=1), LENGTH)
    set_seed(seed)
    model = TinyGPT.pretrained()
    replace_linear_with_lora(model, RANK, targets=PLACES["everywhere"], dropout=way)
    for steps in range(STEPS, 8 * STEPS + 1, STEPS):
        learn(model, text, STEPS, rate, seed=100 * seed + steps)
        yield {"steps": steps, "seen": evaluate(model, *windows(text, LENGTH)), "new": evaluate(model, *test)}


def again(way, rate, seed):
    """Names for 150 steps; then names for 150 more, or a log: with the same LoRA, or merged and with a new one."""
    names, log, tests = split_by_file(unicode_names(), validation=True)[0], ships_log(400), yardsticks()
    test = windows(ships_log(100, seed=1), LENGTH)
    set_seed(seed)
    first = TinyGPT.pretrained()
    replace_linear_with_lora(first, RANK, targets=PLACES["everywhere"])
    learn(first, names, 3 * STEPS, rate, seed)
    yield {"then": "first stage"} | _losses(first, tests, test)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    for text, how in itertools.product(("names", "log"), ("same LoRA", "new LoRA")):
        model = TinyGPT.pretrained()
        replace_linear_with_lora(model, RANK, targets=PLACES["everywhere"])
        model.load_state_dict(state)
        if how == "new LoRA":
            merge_lora(model)
            remove_lora(model)
            replace_linear_with_lora(model, RANK, targets=PLACES["everywhere"])
        learn(model, names if text == "names" else log, 3 * STEPS, rate, seed + 100)
        yield {"then": f"{text}, {how}"} | _losses(model, tests, test)


def unbroken(way, rate, seed):
    """The same 300 steps on names as in ``again``, with one LoRA and one Adam from the beginning to the end.

    The second way has, with rank 16, as much rank from the beginning as two LoRAs one after the other.
    """
    names, tests = split_by_file(unicode_names(), validation=True)[0], yardsticks()
    set_seed(seed)
    model = TinyGPT.pretrained()
    replace_linear_with_lora(model, RANK if way == "LoRA" else 16, targets=PLACES["everywhere"])
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, fused=True)
    for its_seed in (seed, seed + 100):
        learn(model, names, 3 * STEPS, rate, its_seed, adam)
    then = "names, without a break" if way == "LoRA" else f"names, without a break, {way}"
    yield {"then": then} | _losses(model, tests, windows(ships_log(100, seed=1), LENGTH))


def _losses(model, tests, log):
    """On names and prose held out, and on another captain's log."""
    found = {kind: evaluate(model, *tests[kind][:2]) for kind in ("names", "prose")}
    return found | {"log": evaluate(model, *log)}


def tokens(way, rate, seed):
    """A log with four new tokens in it, in 200 steps, by transformers and PEFT."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_for_transformers(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(NEW_TOKENS))

        def base(its_seed):
            model = AutoModelForCausalLM.from_pretrained(folder)
            set_seed(its_seed)
            model.resize_token_embeddings(len(tokenizer))  # the new rows are the old ones' mean, all alike
            if way in ("LoRA alone, rows at random", "LoRA alone, at random in the embedding"):
                _scatter(model.get_input_embeddings().weight)
            if way in ("LoRA alone, rows at random", "LoRA alone, at random in the head"):
                _scatter(model.get_output_embeddings().weight)
            return model

        settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", **BESIDE[way])
        model = get_peft_model(base(seed), settings)
        numbers = tokenizer(marked(ships_log(400)), return_tensors="pt").input_ids[0]
        test = tokenizer(marked(ships_log(100, seed=1)), return_tensors="pt").input_ids[0]
        adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, fused=True)
        drawn = torch.Generator().manual_seed(seed)
        for _ in range(4 * STEPS):
            starts = torch.randint(len(numbers) - LENGTH, (BATCH, 1), generator=drawn)
            piece = numbers[starts + torch.arange(LENGTH + 1)]
            adam.zero_grad()
            default_loss(model(piece[:, :-1]).logits, piece[:, 1:]).backward()
            adam.step()
        yield {"model": "in memory", "trained": count_parameters(model).trainable} | _token_losses(model, test)
        for kept, rows in {"loaded": "auto", "loaded, the rows not saved": False}.items():
            adapter = Path(folder, kept)
            model.save_pretrained(adapter, save_embedding_layers=rows)
            size = (adapter / "adapter_model.safetensors").stat().st_size
            loaded = PeftModel.from_pretrained(base(seed + 1000), adapter)
            yield {"model": kept, "bytes": size} | _token_losses(loaded, test)


@torch.no_grad()
def _scatter(table):
    """Fill the rows of the new tokens, in a table (tokens, width), with numbers at random, as large as the others."""
    table[-len(NEW_TOKENS) :].normal_().mul_(table[: -len(NEW_TOKENS)].std())


@torch.no_grad()
def _token_losses(model, numbers):
    """The mean loss on a text, and on its new tokens alone."""
    pieces = numbers[: (len(numbers) - 1) // LENGTH * LENGTH + 1]
    X, y = pieces[:-1].view(-1, LENGTH), pieces[1:].view(-1, LENGTH)
    model.eval()
    each = torch.nn.functional.cross_entropy(model(X).logits.flatten(0, 1), y.flatten(), reduction="none")
    return {"all": each.mean().item(), "new": each[y.flatten() >= 96].mean().item()}


PARTS = {"dropout": dropout, "again": again, "unbroken": unbroken, "tokens": tokens}


def make(part):
    """Train what a part still lacks, and write each down."""
    from tqdm.auto import tqdm

    QUESTIONS.mkdir(exist_ok=True)
    done = written(QUESTIONS, part)
    for name, options in tqdm(plan(part).items(), desc=part):
        if name not in done:
            rows = PARTS[part](**options)
            done[name] = [{key: _short(value) for key, value in row.items()} for row in rows]
            write(QUESTIONS, part, done)


def _short(value):
    return round(value, 4) if isinstance(value, float) else value


def main():
    """What the command line says."""
    from_the_command_line("lora_lab.material.questions", __doc__, PARTS, make)


if __name__ == "__main__":
    main()
