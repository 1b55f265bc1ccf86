"""The capstone: an adapter for a text of one's own, in five steps."""

import copy
import tempfile
from itertools import pairwise
from pathlib import Path

import torch

from ..adapt import count_parameters, lora_disabled, lora_state, replace_linear_with_lora, set_strength
from ..adapter_file import load_adapter, save_adapter
from ..find import adapted_layers, lora_layers, lora_parameters
from ..material.models import TinyGPT, shipped_adapter, windows
from ..material.texts import held_out, ships_log
from ..training import evaluate, train_model
from .kinds import Task, require


def split(text):
    ends = [i + 1 for i, character in enumerate(text) if character == "\n"]
    first, second = (max(end for end in ends if end <= share * len(text)) for share in (0.8, 0.9))
    return text[:first], text[first:second], text[second:]


def adapt(text, lr):
    model = TinyGPT.pretrained()
    replace_linear_with_lora(model, rank=4)
    X, y = windows(text, length=64, n=480)
    train_model(model, X, y, epochs=1, lr=lr, batch_size=8, progress=False)
    return model


def try_rates(adapt, to_learn, to_choose):
    X, y = windows(to_choose, 64)
    rates, tried = [0.001, 0.003, 0.01], {}
    while rates:
        tried |= {lr: evaluate(adapt(to_learn, lr), X, y) for lr in rates}
        best = min(tried, key=tried.get)
        rates = [best / 3] if best == min(tried) else [best * 3] if best == max(tried) else []
    return tried


def turn_down(model, prose, limit):
    X, y = windows(prose, 64)
    set_strength(model, 0)
    base = evaluate(model, X, y)
    for twentieths in range(20, -1, -1):
        set_strength(model, twentieths / 20)
        if evaluate(model, X, y) <= base + limit:
            return twentieths / 20


def publish(model, folder):
    model = copy.deepcopy(model)
    for layer in lora_layers(model).values():
        layer.lora.B.data *= layer.lora.strength
    set_strength(model, 1)
    save_adapter(model, folder)


def fetch(folder):
    model = TinyGPT.pretrained()
    load_adapter(model, folder)
    return model


# What the five are judged by.


def _three_parts(split):
    for text in (ships_log(60), ships_log(400).rstrip()):  # a text may end without a newline
        parts = split(text)
        require(parts is not None, "It returns nothing; is the return missing?")
        right = isinstance(parts, (tuple, list)) and len(parts) == 3 and all(isinstance(part, str) for part in parts)
        require(right, "Return three texts: to learn from, to choose by, and held out.")
        together = "".join(parts)
        mixed = together != text and sorted(together) == sorted(text)
        require(not mixed, "All of it is there, but not in the order of the text: what is held out is its end.")
        require(
            together == text,
            f"Put together again, the three have {len(together):,} characters, and the text has {len(text):,}. They are to be the whole of it, in its order, nothing lost and nothing twice.",
        )
        for name, part in zip(("to choose by", "held out"), parts[1:], strict=True):
            share = len(part) / len(text)
            require(0.08 <= share <= 0.25, f"The part {name} is {share:.0%} of the text. Make it about a tenth, each.")
        for part in parts[:2]:
            require(part.endswith("\n"), f"A cut goes through a line: {part[-20:]!r}. Cut behind a newline.")


def _adapts(adapt):
    text = ships_log(250)
    to_learn, held = text[:14_000], text[-2_000:]
    X, y = windows(held, 64)
    base = TinyGPT.pretrained()
    model = adapt(to_learn, 0.003)
    require(model is not None, "It returns nothing; is the return missing?")
    require(isinstance(model, TinyGPT), f"Return the model, a TinyGPT; this is of type {type(model).__name__}.")
    require(adapted_layers(model), "There is no LoRA in the model: replace_linear_with_lora.")
    numbers = sum(parameter.numel() for parameter in lora_parameters(model).values())
    require(
        count_parameters(model).trainable == numbers,
        f"{count_parameters(model).trainable:,} numbers learn, and A and B have {numbers:,}. Nothing else is to learn.",
    )
    with lora_disabled(model):
        off = (model(X[:2]) - base(X[:2])).abs().max().item()
    require(off < 1e-4, "With LoRA switched off it is not the pretrained model any more.")
    before, after = evaluate(base, X, y), evaluate(model, X, y)
    require(
        after < before - 0.8,
        f"At a rate of 0.003 a text of the same kind went from {before:.2f} to {after:.2f} nats. Fifty steps of eight pieces bring it below {before - 0.8:.1f}.",
    )
    slow = evaluate(adapt(to_learn, 1e-6), X, y)
    require(abs(slow - before) < 0.05, f"At a rate of 0.000001 it went to {slow:.2f} nats. Is lr used?")
    return f"A new text of its kind: {before:.2f} → {after:.2f} nats."


class _Pretender(torch.nn.Module):
    """Stands for a model that was trained at some rate: the surer of the letter a, the nearer that was to the best."""

    def __init__(self, sure):
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(float(sure)))

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, 96)
        logits[..., 66] = self.sure  # the number of the letter a
        return logits


def _chooses(try_rates):
    to_learn, to_choose = "b" * 3000, "a" * 700
    for best in (0.003, 0.03, 0.0002):
        asked = []

        def pretend(text, lr, best=best, asked=asked):
            asked.append(lr)
            require(text == to_learn, "adapt is to learn from to_learn, and from nothing else.")
            return _Pretender(5 - torch.log10(torch.tensor(lr / best)).abs())

        tried = try_rates(pretend, to_learn, to_choose)
        require(tried is not None, "It returns nothing; is the return missing?")
        require(isinstance(tried, dict) and tried, "Return a dictionary of what was tried: {rate: loss}.")
        lost = sorted(set(asked) - set(tried))
        require(
            not lost, f"adapt was called at {', '.join(f'{lr:g}' for lr in lost)} as well. Return all that was tried."
        )
        require(set(tried) <= set(asked), "There is a rate in the dictionary at which adapt was never called.")
        require(len(tried) >= 3, f"It tries {len(tried)} of them. Three rates at least.")
        wrong = next((lr for lr, loss in tried.items() if abs(float(loss) - _loss(lr, best, to_choose)) > 1e-3), None)
        turned = wrong is not None and abs(float(tried[wrong]) - _loss(wrong, best, to_learn)) < 1e-3
        require(
            not turned, "Those are losses on to_learn. A rate is chosen by a text that was not learned from: to_choose."
        )
        require(
            wrong is None,
            f"At {wrong} it notes {tried.get(wrong, 0):.3f}, and evaluate on windows(to_choose, 64) gives {_loss(wrong or 1, best, to_choose):.3f}.",
        )
        rates = sorted(tried)
        widest = max(high / low for low, high in pairwise(rates))
        require(
            widest < 6,
            f"Between two of its rates lies a factor of {widest:.3g}: the best may hide there. Steps of about three.",
        )
        found = min(tried, key=tried.get)
        ratio = max(found / best, best / found)
        require(
            ratio <= 3.5,
            f"In a test where {best} is best it stops with {found:g} as the best of {', '.join(f'{lr:g}' for lr in sorted(tried))}. If the best is the first or the last, go on beyond it.",
        )
        between = min(tried) < found < max(tried)
        require(
            between,
            f"The best of its rates, {found:g}, is the first or the last one. Who knows what lies beyond? Go on.",
        )


def _loss(lr, best, text):
    return evaluate(_Pretender(5 - torch.log10(torch.tensor(lr / best)).abs()), *windows(text, 64))


def _names_model():
    model = TinyGPT.pretrained()
    load_adapter(model, shipped_adapter("names"))
    return model


def _turns_down(turn_down):
    prose = held_out("prose")[:600]
    X, y = windows(prose, 64)
    base = evaluate(TinyGPT.pretrained(), X, y)
    for limit, loud in ((0.2, 1), (0.45, 1), (50.0, 1), (0.1, 40)):
        model = _names_model()
        for layer in lora_layers(model).values():
            layer.lora.B.data *= loud
        strength = turn_down(model, prose, limit)
        require(
            strength is not None,
            f"With a limit of {limit:g} it returns nothing. If no setting was within it: the limit is on what the prose costs more than at strength 0, and 0 is within any.",
        )
        require(
            isinstance(strength, (int, float)),
            f"Return the strength, a number; this is of type {type(strength).__name__}.",
        )
        require(0 <= strength <= 1, f"A strength of {strength:g} is not from 0 to 1.")
        now = {layer.lora.strength for layer in lora_layers(model).values()}
        require(
            now == {strength},
            f"It returns {strength:g}, and the model is left at {', '.join(f'{n:g}' for n in now)}: set_strength.",
        )
        lost = evaluate(model, X, y) - base
        require(
            lost <= limit + 1e-4,
            f"With a limit of {limit:g} it chooses {strength:g}, and that costs {lost:.2f} nats on the prose.",
        )
        if strength < 1:
            more = min(strength + 0.05, 1)
            set_strength(model, more)
            cost = evaluate(model, X, y) - base
            require(
                cost > limit,
                f"With a limit of {limit:g} it chooses {strength:g}. More would do: {more:.2f} costs {cost:.2f} nats. Go down from 1 in steps of 0.05.",
            )


def _comes_back(publish, fetch):
    X = windows(held_out("names")[:300], 64)[0]
    with tempfile.TemporaryDirectory() as place:
        sent = {}
        for strength in (1.0, 0.35):  # both are written before either is read
            model, folder = _names_model(), Path(place) / f"strength {strength}"
            set_strength(model, strength)
            sent[strength], before = model(X).detach(), lora_state(model)
            publish(model, folder)
            names = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
            said = f"In the folder there is {', '.join(names) or 'nothing'}: save_adapter writes it."
            require("adapter_model.safetensors" in names, said)
            kept = all(torch.equal(value, before[key]) for key, value in lora_state(model).items())
            dial = {layer.lora.strength for layer in lora_layers(model).values()}
            require(kept and dial == {strength}, "Writing has changed the model itself. Change a copy of it.")
        for strength, wanted in sent.items():
            there = fetch(Path(place) / f"strength {strength}")
            require(
                isinstance(there, TinyGPT), f"fetch is to return a TinyGPT; this is of type {type(there).__name__}."
            )
            off = (there(X) - wanted).abs().max().item()
            plain = (there(X) - TinyGPT.pretrained()(X)).abs().max().item()
            said = "What fetch returns is the pretrained model. load_adapter(model, folder) reads the file into it."
            require(plain > 1e-3, said)
            require(
                off < 1e-3,
                f"At strength {strength:g} the model that comes back answers differently: off by {off:.2g}. The dial is not part of an adapter file, and of a model that is not there any more nobody knows it. What can carry it is B, or alpha.",
            )


def _halves(text):
    half = len(text) // 2
    return text[:half], text[half:]


def _shuffled(text):
    lines = text.splitlines(keepends=True)
    order = torch.randperm(len(lines)).tolist()
    return split.reference("".join(lines[i] for i in order))


def _by_character(text):
    first, second = int(0.8 * len(text)), int(0.9 * len(text))
    return text[:first], text[first:second], text[second:]


def _held_is_learned(text):
    _, choose, held = split.reference(text)
    return text, choose, held


def _adds_a_newline(text):
    lines = text.splitlines()
    first, second = int(0.8 * len(lines)), int(0.9 * len(lines))
    return tuple("".join(f"{line}\n" for line in part) for part in (lines[:first], lines[first:second], lines[second:]))


def _loses_newlines(text):
    lines = text.splitlines()
    first, second = int(0.8 * len(lines)), int(0.9 * len(lines))
    return tuple("".join(part) for part in (lines[:first], lines[first:second], lines[second:]))


split = Task(
    title="Three parts",
    reference=split,
    stages={"three parts, cut between lines": _three_parts},
    hints=[
        "Where would you cut, if lines did not matter? At 80 and at 90 % of the characters.",
        'From there, go back to the newline before: text.rfind("\\n", 0, place) + 1.',
        'first = text.rfind("\\n", 0, int(0.8 * len(text))) + 1, the second in the same way, and three slices.',
    ],
    misconceptions=[
        (_halves, "Return three texts: to learn from, to choose by, and held out."),
        (_shuffled, "All of it is there, but not in the order of the text"),
        (_by_character, "A cut goes through a line: "),
        (_held_is_learned, "Put together again, the three have"),
        (_adds_a_newline, "Put together again, the three have"),
        (_loses_newlines, "Put together again, the three have"),
        (lambda text: (text, "", ""), "The part to choose by is 0% of the text."),
    ],
    praise="What is held out is looked at once, at the end.",
)


def _ignores_lr(text, lr):
    return adapt.reference(text, 0.003)


def _full(text, lr):
    model = TinyGPT.pretrained()
    train_model(model, *windows(text, 64, n=80), epochs=1, lr=lr / 10, batch_size=8, progress=False)
    return model


def _untrained(text, lr):
    model = TinyGPT.pretrained()
    replace_linear_with_lora(model, rank=4)
    return model


def _thawed(text, lr):
    model = _untrained(text, lr)
    model.head.linear.weight.requires_grad_(True)
    return model


def _history(text, lr):
    model = _untrained(text, lr)
    return train_model(model, *windows(text, 64, n=16), epochs=1, lr=lr, batch_size=8, progress=False)


adapt = Task(
    title="Adapt",
    reference=adapt,
    stages={"a TinyGPT with LoRA that has learned from the text": _adapts},
    hints=[
        "As in notebook 08: the pretrained TinyGPT, LoRA into it, windows of the text, one training.",
        "windows(text, length=64, n=480) are sixty steps of eight pieces; train_model(…, epochs=1, lr=lr, batch_size=8).",
        "model = TinyGPT.pretrained(); replace_linear_with_lora(model, rank=4); X, y = windows(text, length=64, n=480); train_model(model, X, y, epochs=1, lr=lr, batch_size=8); return model",
    ],
    misconceptions=[
        (_ignores_lr, "At a rate of 0.000001 it went to"),
        (_full, "There is no LoRA in the model"),
        (_untrained, "At a rate of 0.003 a text of the same kind went from"),
        (_thawed, "74,880 numbers learn, and A and B have 56,448."),
        (_history, "Return the model, a TinyGPT; this is of type History."),
    ],
    praise="It learns.",
)


def _losses_at(rates, adapt, to_learn, text):
    X, y = windows(text, 64)
    return {lr: evaluate(adapt(to_learn, lr), X, y) for lr in rates}


def _wide_steps(adapt, to_learn, to_choose):
    return _losses_at((1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), adapt, to_learn, to_choose)


def _forgets(adapt, to_learn, to_choose):
    tried = try_rates.reference(adapt, to_learn, to_choose)
    best = min(tried, key=tried.get)
    return {lr: loss for lr, loss in tried.items() if best / 4 < lr < best * 4}


def _one_rate(adapt, to_learn, to_choose):
    return _losses_at((0.003,), adapt, to_learn, to_choose)


def _fixed_rates(adapt, to_learn, to_choose):
    return _losses_at((0.001, 0.003, 0.01), adapt, to_learn, to_choose)


def _by_training_text(adapt, to_learn, to_choose):
    return _losses_at((0.001, 0.003, 0.01), adapt, to_learn, to_learn)


def _learns_both(adapt, to_learn, to_choose):
    return try_rates.reference(adapt, to_learn + to_choose, to_choose)


def _best_alone(adapt, to_learn, to_choose):
    tried = try_rates.reference(adapt, to_learn, to_choose)
    return min(tried, key=tried.get)


try_rates = Task(
    title="Choose the rate",
    reference=try_rates,
    stages={"rates tried until the best lies between others": _chooses},
    hints=[
        "Begin with three rates, each about three times the one before. What tells you that you may stop?",
        "The lowest loss on to_choose is to be at a rate that is neither the first nor the last. While it is, try one more beyond it.",
        "tried = {lr: evaluate(adapt(to_learn, lr), *windows(to_choose, 64)) for lr in (0.001, 0.003, 0.01)}; while the best is min(tried) or max(tried), add best / 3 or best * 3.",
    ],
    misconceptions=[
        (_one_rate, "It tries 1 of them. Three rates at least."),
        (_fixed_rates, "The best of its rates, 0.01, is the first or the last one."),
        (_forgets, "adapt was called at 0.001"),
        (_wide_steps, "Between two of its rates lies a factor of 10"),
        (_by_training_text, "Those are losses on to_learn."),
        (_learns_both, "adapt is to learn from to_learn, and from nothing else."),
        (_best_alone, "Return a dictionary of what was tried: {rate: loss}."),
    ],
    praise="The valley has two sides.",
)


def _always_whole(model, prose, limit):
    set_strength(model, 1)
    return 1.0


def _first_from_below(model, prose, limit):
    set_strength(model, 0.05)
    return 0.05


def _not_set(model, prose, limit):
    strength = turn_down.reference(model, prose, limit)
    set_strength(model, 1)
    return strength


def _first_within(strengths, model, prose, limit):
    X, y = windows(prose, 64)
    set_strength(model, 0)
    base = evaluate(model, X, y)
    for strength in strengths:
        set_strength(model, strength)
        if evaluate(model, X, y) <= base + limit:
            return strength
    return 0


def _steps_of_a_tenth(model, prose, limit):
    return _first_within([tenths / 10 for tenths in range(10, -1, -1)], model, prose, limit)


def _left_at_the_last(model, prose, limit):
    return _first_within([twentieths / 20 for twentieths in range(20, 0, -1)], model, prose, limit)


def _absolute(model, prose, limit):
    X, y = windows(prose, 64)
    for twentieths in range(20, 0, -1):
        set_strength(model, twentieths / 20)
        if evaluate(model, X, y) <= limit:
            return twentieths / 20
    set_strength(model, 0)
    return 0.0


turn_down = Task(
    title="What may it cost?",
    reference=turn_down,
    stages={"as strong as the limit allows": _turns_down},
    hints=[
        "At strength 0 the model is the base. How much does the prose cost there, and so how much may it cost at most?",
        "From 1 down to 0 in steps of 0.05: set_strength(model, strength), evaluate on windows(prose, 64), and stop at the first that is within the limit.",
        "base at set_strength(model, 0); for twentieths in range(20, -1, -1): set_strength(model, twentieths / 20), and if evaluate(model, X, y) <= base + limit: return twentieths / 20",
    ],
    misconceptions=[
        (_always_whole, "With a limit of 0.2 it chooses 1, and that costs"),
        (_first_from_below, "With a limit of 0.2 it chooses 0.05. More would do"),
        (_not_set, "It returns"),
        (_absolute, "With a limit of 0.2 it chooses 0. More would do"),
        (_steps_of_a_tenth, "With a limit of 0.45 it chooses 0.5. More would do"),
        (_left_at_the_last, "It returns 0, and the model is left at 0.05"),
    ],
    praise="Forgetting is measured now, and you have said how much of it you take.",
)


def _saves_as_it_is(model, folder):
    save_adapter(model, folder)


def _changes_the_model(model, folder):
    for layer in lora_layers(model).values():
        layer.lora.B.data *= layer.lora.strength
    save_adapter(model, folder)


def _turns_the_dial_into_b(model, folder):
    _changes_the_model(model, folder)
    set_strength(model, 1)


def _divides_again(model, folder):
    strength = next(iter(lora_layers(model).values())).lora.strength
    _changes_the_model(model, folder)
    for layer in lora_layers(model).values():
        layer.lora.B.data /= strength


def _saves_weights(model, folder):
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "model.pt")


def _fetches_the_base(folder):
    return TinyGPT.pretrained()


def _fetches_names(folder):
    model = TinyGPT.pretrained()
    return load_adapter(model, folder)


out_and_back = Task(
    title="A file that others can read",
    reference=(publish, fetch),
    stages={"what comes back answers as what went out": _comes_back},
    hints=[
        "save_adapter and load_adapter do nearly all. What of the model is not in the file?",
        "The strength dial. s · strength · A B: what else in this product could hold the strength, so that the dial can stand at 1?",
        "In publish, on copy.deepcopy(model): layer.lora.B.data *= layer.lora.strength for each layer of lora_layers, then save_adapter.",
    ],
    misconceptions=[
        ((_saves_as_it_is, fetch), "At strength 0.35 the model that comes back answers differently"),
        ((_changes_the_model, fetch), "Writing has changed the model itself."),
        ((_turns_the_dial_into_b, fetch), "Writing has changed the model itself."),
        ((_divides_again, fetch), "Writing has changed the model itself."),
        ((_saves_weights, fetch), "In the folder there is model.pt: save_adapter writes it."),
        ((publish, _fetches_the_base), "What fetch returns is the pretrained model."),
        ((publish, _fetches_names), "fetch is to return a TinyGPT; this is of type list."),
    ],
    praise="Whoever has the base and this folder has your adapter, as you tuned it.",
)


# What a solved copy says on its page. The numbers are those that were measured there.
TITLE_AND_WORDS = '''before, after = measured.rows["held out"]
prose_before, prose_after = measured.rows["prose"]
title = "The captain's log"
words = f"""It was made from a ship's log, line by line. On days of the log that it has not seen TinyGPT was at
{before:.2f} nats and is at {after:.2f} with it. English prose costs {prose_after:.2f} in place of {prose_before:.2f}.
It writes days in the manner of the log, not all of them English, and is good for nothing else: not for facts."""'''
