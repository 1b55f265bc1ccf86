"""How the trainings of notebooks 10 to 12 were made: ``python -m lora_lab.material.forgetting``, hours; or a part.

TinyGPT learns Unicode's names, and what it has learned and what it has forgotten is written down as soon as a training
ends: an interrupted part goes on where it stopped. Of the part ``rates``, the models of seed 0 are kept as well, of
``family`` and ``bits`` the best.
"""

import copy

import safetensors.torch
import torch

from ..adapt import merge_lora, remove_lora, replace_linear_with_lora
from ..adapter_file import load_adapter, save_adapter
from ..find import select_layers
from ..four_bits import Linear4bit, dequantize_linear_layers, quantize_linear_layers
from ..training import default_loss, mode, set_seed, train_model
from .adapters import PLACES
from .models import ALPHABET, WEIGHTS, TinyGPT, windows
from .plans import KINDS, PARTS, contender, trainings
from .records import from_the_command_line, write, written
from .texts import held_out, python_prose, split_by_file, tales, unicode_names

FORGETTING = WEIGHTS / "forgetting"
KEPT = {"family": ("rsLoRA", "LoRA+", "LoRA-FA", "PiSSA", "DoRA"), "bits": ("QLoRA",)}  # of these the best models
STRENGTHS = (0.25, 0.5, 0.75)
_FINE = 2.0**10  # a change of weights, times this, is in the middle of what eight bits can hold


def record(part):
    """What was measured in a part: a dictionary for each training, number of steps and strength.

    It holds the training's options ("rank", "rate", "seed", …), the losses on the yardsticks ("names", "prose", …), the
    KL divergences from the base ("KL names", …), the "distance" from it, and what the model "writes".
    """
    options = trainings(part)
    return [
        {"method": options[name].get("kind") or contender(options[name]["rank"]), **options[name], **point}
        for name, points in written(FORGETTING, part).items()
        for point in points
    ]


def race():
    """The record of notebook 11's race: the family's, and LoRA and full fine-tuning from the part "rates", too."""
    names = {"r16": "LoRA", "full": "full"}
    known = [row | {"method": names[row["method"]]} for row in record("rates") if row["method"] in names]
    return known + record("family")


def tuned(rank, rate):
    """A plain TinyGPT, trained on names in 300 steps with this rank and rate, seed 0; rank None is full fine-tuning."""
    model, place = TinyGPT.pretrained(), _place(rank, rate)
    if rank:
        load_adapter(model, place)
        return _plain(model)
    change = safetensors.torch.load_file(place)
    return _moved(model, {name: value.float() / _FINE for name, value in change.items()})


def part_of_the_way(model, strength):
    """The plain TinyGPT whose weights lie this far on the way from the base's to the model's; 0 is the base."""
    base = TinyGPT.pretrained()
    return _moved(base, {name: strength * value for name, value in _change(model, base).items()})


def yardsticks(*kinds):
    """Texts that models are measured on and never trained on: ``{kind: pieces}``, some 5,800 characters of each kind.

    Rates are chosen on "choice", names as well; what is learned is read from "names", what is forgotten from "prose".
    Without ``kinds`` all three.
    """
    _, choice, _ = split_by_file(unicode_names(), validation=True)
    texts = {"choice": (choice, 6), "names": (held_out("names"), 6), "prose": (held_out("prose"), 2)}
    return {kind: yardstick(texts[kind][0], every=texts[kind][1]) for kind in kinds or texts}


def yardstick(text, length=128, every=1):
    """Some pieces of a text, X and y (n, length), and the base's answers to them, (n, length, 96)."""
    X, y = (half[::every] for half in windows(text, length))
    return X, y, answers(TinyGPT.pretrained(), X)


def answers(model, X):
    """The logarithms of all probabilities that a model gives on X (n, length): (n, length, 96)."""
    with torch.no_grad(), mode(False, model):  # a few pieces at a time, which a processor's cache has room for
        return torch.cat([model(part) for part in X.split(8)]).log_softmax(-1)


def measure(model, X, y, before):
    """Mean loss on pieces of text X, y (n, length), and KL(model ‖ base), the base's answers being ``before``."""
    now = answers(model, X)
    return default_loss(now, y).item(), (now.exp() * (now - before)).sum(-1).mean().item()


def distance(model, base):
    """How far the weights are from the base's: the root of the sum of all squared differences."""
    pairs = zip(model.parameters(), base.parameters(), strict=True)
    return sum((new.detach() - old).square().sum() for new, old in pairs).sqrt().item()


def train(
    text,
    rank,
    rate,
    *,
    alpha=None,
    seed=0,
    batch=16,
    pieces=4800,
    length=64,
    old=None,
    share=0.0,
    stages=1,
    place="everywhere",
    matrices=False,
    kind="LoRA",
):
    """Train TinyGPT on pieces of a text, some from the old text; yield ``(steps, model)`` after each stage.

    LoRA of the rank in a place, or with None all weights, or with ``matrices`` the weights of that place alone.
    ``kind`` is one of KINDS.
    """
    set_seed(seed)
    model, kind = TinyGPT.pretrained(), KINDS[kind]
    if kind.four_bits:
        quantize_linear_layers(model, targets=PLACES[place])
    if rank:
        replace_linear_with_lora(model, rank, alpha, targets=PLACES[place], **kind.settings)
    elif matrices:
        model.requires_grad_(False)
        for name in select_layers(model, PLACES[place]):
            model.get_submodule(name).weight.requires_grad_(True)
    X, y = windows(text, length, n=pieces, seed=seed)
    if share:
        for new, kept in zip((X, y), windows(old, length, n=round(share * pieces), seed=seed), strict=True):
            new[torch.linspace(0, pieces - 1, len(kept)).long()] = kept  # evenly among the new ones
    adam = kind.step(model)([p for p in model.parameters() if p.requires_grad], lr=rate)
    parts = zip(X.chunk(stages), y.chunk(stages), strict=True)
    for stage, part in enumerate(parts, 1):
        train_model(model, *part, epochs=1, batch_size=batch, lr=rate, optimizer=lambda *_, **__: adam, seed=seed)
        yield stage * pieces // stages // batch, model


def random_letters(length):
    """Letters drawn by lot, of which nothing can be learned but they themselves: log 26 = 3.26 nats each."""
    drawn = torch.randint(26, (length,), generator=torch.Generator().manual_seed(0))
    return "".join(ALPHABET[ALPHABET.index("a") + letter] for letter in drawn.tolist())


def make(part):
    """Train what a part still lacks, and write each down."""
    from tqdm.auto import tqdm

    FORGETTING.mkdir(exist_ok=True)
    done, base = written(FORGETTING, part), TinyGPT.pretrained()
    text = split_by_file(tales())[0] if part == "tales" else split_by_file(unicode_names(), validation=True)[0]
    old = split_by_file(python_prose())[0] if part == "mixing" else None
    tests = yardsticks()
    if part == "tales":
        tests["names"] = tests["choice"] = yardstick(held_out("tales"), every=15)
    plan = trainings(part)
    todo = {name: options for name, options in plan.items() if name not in done}
    for name, options in tqdm(todo.items(), desc=part):
        points = []
        if "letters" in options:
            text = random_letters(options.pop("letters"))
            tests = {"names": yardstick(text, 64)}
        for steps, model in train(text, **options, old=old):
            plain = _plain(model) if options["rank"] else model
            points.append({"steps": steps, "strength": 1} | _point(plain, base, tests))
        if part in ("rates", "family", "bits"):
            if part == "rates" and options["seed"] == 0:
                _keep(model, options["rank"], options["rate"])
            for strength in STRENGTHS:
                way = part_of_the_way(plain, strength)
                points.append({"steps": steps, "strength": strength} | _point(way, base, tests))
        done[name] = points
        in_order = {name: done[name] for name in plan if name in done}
        write(FORGETTING, part, in_order)
    for kind in KEPT.get(part, ()):
        if not (FORGETTING / kind).exists():
            _keep_the_best(part, kind, text)


def _point(model, base, tests):
    """Everything that is written down about one model."""
    found = {kind: measure(model, *test) for kind, test in tests.items()}
    point = {kind: round(loss, 4) for kind, (loss, _) in found.items()}
    point |= {f"KL {kind}": round(kl, 4) for kind, (_, kl) in found.items()}
    return point | {"distance": round(distance(model, base), 2), "writes": model.write("The ", 110)}


def _plain(model):
    """A copy with LoRA merged into the weights, as a TinyGPT."""
    model = copy.deepcopy(model)
    if any(isinstance(module, Linear4bit) for module in model.modules()):
        dequantize_linear_layers(model)
    merge_lora(model)
    remove_lora(model)
    return model


def _change(model, base):
    """By how much each of a plain model's weights differs from the base's."""
    return {name: (value - base.get_parameter(name)).detach() for name, value in model.named_parameters()}


def _moved(base, change):
    """The base with its weights moved by a change."""
    with torch.no_grad():
        for name, value in change.items():
            base.get_parameter(name).add_(value)
    return base


def _place(rank, rate):
    """Where a model of seed 0 is kept: an adapter's folder, or the file of full fine-tuning's change."""
    return FORGETTING / f"{contender(rank)}-{rate}{'' if rank else '.safetensors'}"


def _keep_the_best(part, kind, text):
    """Ship a kind of LoRA, trained at the rate that is best by names of the choice; of its seeds the first."""
    losses = {}
    for row in record(part):
        if row["method"] == kind and row["steps"] == 300 and row["strength"] == 1:
            losses.setdefault(row["rate"], []).append(row["choice"])
    best = min(losses, key=lambda rate: sum(losses[rate]))
    *_, (_, model) = train(text, **trainings(part)[f"{kind} {best} seed 0"])
    save_adapter(model.half(), FORGETTING / kind)


def _keep(model, rank, rate):
    """Ship a model small: an adapter in half precision, full fine-tuning as the weights' change in eight bits."""
    place = _place(rank, rate)
    if rank:
        return save_adapter(copy.deepcopy(model).half(), place)
    change = _change(model, TinyGPT.pretrained())
    small = {name: (value * _FINE).to(torch.float8_e4m3fn) for name, value in change.items()}
    safetensors.torch.save_file(small, place)


def main():
    """What the command line says."""
    from_the_command_line("lora_lab.material.forgetting", __doc__, PARTS, make)


if __name__ == "__main__":
    main()
