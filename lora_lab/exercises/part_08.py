"""The exercises of notebook 08."""

import math

import torch
from torch.nn.functional import cross_entropy

from ..material.models import TinyGPT, encode
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

surprises_most = Guess("surprises most", ["code", "names", "tales"])
errors = Guess("of the three fail with an error")


def next_character(logits, temperature):
    return (logits / temperature).softmax(-1)


_LOGITS = torch.tensor([2.0, 1.0, 0.0, -2.5])
_ROWS = torch.tensor([[0.5, 2.0, -1.0], [3.0, -2.0, 0.0]])

next_character = Exercise(
    title="The temperature",
    reference=next_character,
    cases=[
        (_LOGITS, 0.5),
        (_LOGITS, 2.0),
        (_ROWS, 0.7),
        (10 * _LOGITS, 0.01),
        (_LOGITS / 10, 0.001),
    ],
    hints=[
        "Softmax turns logits into probabilities: positive numbers that add up to 1. Where does the temperature act?",
        "A low temperature makes the differences between logits larger, before softmax. The characters are in the last dimension.",
        "(logits / temperature).softmax(-1)",
    ],
    misconceptions=[
        (
            lambda logits, temperature: (
                (logits / temperature).exp() / (logits / temperature).exp().sum(-1, keepdim=True)
            ),
            "Right, until exp of a large number is infinite, at a temperature of 0.01, say. softmax takes the largest logit away first, which changes nothing and can't overflow.",
        ),
        (
            lambda logits, temperature: (
                logits.softmax(-1) ** (1 / temperature)
                / (logits.softmax(-1) ** (1 / temperature)).sum(-1, keepdim=True)
            ),
            "Right on paper. But at a low temperature every one of these powers is rounded to 0, and 0/0 is left: divide the logits, before softmax.",
        ),
        (
            lambda logits, temperature: (logits * temperature).softmax(-1),
            "That is the other way round: a low temperature would make the model bolder. Divide by the temperature.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1) / temperature,
            "Those no longer add up to 1. Divide the logits, before softmax.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1),
            "The temperature does nothing here. Divide the logits by it.",
        ),
        (
            lambda logits, temperature: logits / temperature,
            "Those are the divided logits. Softmax makes probabilities of them.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp(),
            "Those are positive, but don't add up to 1: divide by their sum, or use softmax.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp() / (logits / temperature).exp().sum(),
            "That adds up to 1 over everything. With several rows, each row is a distribution of its own: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits / temperature).softmax(0),
            "Softmax went over the first dimension. The characters are in the last one: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits.softmax(-1) / temperature).softmax(-1),
            "Softmax was applied twice. Divide the logits, then apply it once.",
        ),
        (
            lambda logits, temperature: (logits / temperature).log_softmax(-1),
            "Those are logarithms of probabilities. Use softmax.",
        ),
        (
            lambda logits, temperature: (logits / temperature).argmax(-1),
            "That is the likeliest character alone. Asked for are the probabilities of all.",
        ),
        (
            lambda logits, temperature: (logits / temperature).sigmoid(),
            "A sigmoid looks at each character alone, and the sum is not 1. Use softmax.",
        ),
        (
            lambda logits, temperature: torch.multinomial((logits / temperature).softmax(-1), 1),
            "That draws a character. Asked for are the probabilities from which it is drawn.",
        ),
        (
            lambda logits, temperature: logits.softmax(-1) ** (1 / temperature),
            "The proportions are right, but they don't add up to 1: divide by their sum.",
        ),
        (
            lambda logits, temperature: (logits / temperature).exp() / (logits / temperature).exp().sum(-1),
            "The sums have lost their dimension, so rows and sums don't line up: sum(-1, keepdim=True).",
        ),
        (
            lambda logits, temperature: logits / temperature / (logits / temperature).sum(-1, keepdim=True),
            "Logits can be negative, and so can their sum: take exp before you divide, or use softmax.",
        ),
        (
            lambda logits, temperature: (logits[-1] / temperature).softmax(-1),
            "That takes the last number, or the last row, of the logits. All of them are wanted: softmax(-1).",
        ),
        (
            lambda logits, temperature: (logits / temperature).softmax(-1).amax(-1),
            "That is the largest probability alone. Asked for are all of them.",
        ),
    ],
    praise="At 0.01 the likeliest wins nearly always; at 100 all are nearly alike. TinyGPT.write does exactly this.",
)


def hold_out(text, share):
    cut = len(text) - int(share * len(text))
    return text[:cut], text[cut:]


hold_out = Exercise(
    title="Hold a part of it out",
    reference=hold_out,
    cases=[
        ("abcdefghij", 0.2),
        ("to be or not to be", 0.25),
        ("short", 0.1),
        ("bananas", 0.4),
        ("\n leaves at the ends\t ", 0.3),
        ("ein Übergrößenträger", 0.5),
        ("abab" * 5, 0.33),
    ],
    hints=[
        "A slice of a string is a string. Where is the cut?",
        "held has int(share * len(text)) characters, so the cut is so many from the end.",
        "cut = len(text) - int(share * len(text)), then text[:cut] and text[cut:].",
    ],
    misconceptions=[
        (
            lambda text, share: hold_out.reference(text.strip(), share),
            "White space is text as well. strip() loses what stands at the ends, and with it the length changes.",
        ),
        (
            lambda text, share: (
                text[: len(text) - round(share * len(text))],
                text[len(text) - round(share * len(text)) :],
            ),
            "round may go up. Asked for are int(share * len(text)) characters, which rounds down.",
        ),
        (
            lambda text, share: (
                text.rstrip(text[len(text) - int(share * len(text)) :]),
                text[len(text) - int(share * len(text)) :],
            ),
            "rstrip takes away any of these characters, as many as there are, and not this ending. Cut by position.",
        ),
        (
            lambda text, share: (
                text.replace(text[len(text) - int(share * len(text)) :] or "\0", ""),
                text[len(text) - int(share * len(text)) :],
            ),
            "replace removes that piece wherever it stands. Cut by position.",
        ),
        (
            lambda text, share: (
                text[: len(text) - int(share * len(text))] if int(share * len(text)) else text,
                text[-int(share * len(text)) :],
            ),
            "Where nothing is to be held out, text[-0:] is the whole text. Count the cut from the front.",
        ),
        (
            lambda text, share: (
                list(text[: len(text) - int(share * len(text))]),
                list(text[len(text) - int(share * len(text)) :]),
            ),
            "Those are lists of characters. A slice of a string is a string: slice the text itself.",
        ),
        (
            lambda text, share: (text[: int(share * len(text))], text[int(share * len(text)) :]),
            "That learns from the share and holds out the rest. The share is what is held out.",
        ),
        (
            lambda text, share: (text[int(share * len(text)) :], text[: int(share * len(text))]),
            "That holds out the beginning. Asked for is the end of the text.",
        ),
        (
            lambda text, share: (text[-int(share * len(text)) :], text[: -int(share * len(text))]),
            "The two are swapped: first what is learned from, then what is held out.",
        ),
        (
            lambda text, share: (
                text[len(text) - int(share * len(text)) :],
                text[: len(text) - int(share * len(text))],
            ),
            "The two are swapped, each right in itself: first what is learned from.",
        ),
        (
            lambda text, share: (text, text[len(text) - int(share * len(text)) :]),
            "What is held out is learned from, too. Then it says nothing about new text.",
        ),
        (
            lambda text, share: (text[: -int(share * len(text))], text[-int(share * len(text)) :]),
            "Right, unless the share is so small that nothing is held out: text[:-0] is empty. Count the cut from the front.",
        ),
        (
            lambda text, share: (text[: int((1 - share) * len(text))], text[int((1 - share) * len(text)) :]),
            "Nearly: here the length of to_learn is rounded down, and it should be that of held. Subtract from len(text).",
        ),
        (
            lambda text, share: text[len(text) - int(share * len(text)) :],
            "That is the held-out part alone. Return both, what is learned from first.",
        ),
        (
            lambda text, share: (
                text[: len(text) - int(share * len(text))],
                text[len(text) - int(share * len(text)) + 1 :],
            ),
            "A character is lost at the cut: the second slice begins where the first ends.",
        ),
        (
            lambda text, share: (
                text[: len(text) - int(share * len(text))],
                text[len(text) - int(share * len(text)) - 1 :],
            ),
            "A character stands in both parts: the second slice begins where the first ends.",
        ),
        (
            lambda text, share: (text[: len(text) - int(share)], text[len(text) - int(share) :]),
            "The share is a part of 1, not a number of characters: multiply it by len(text).",
        ),
        (
            lambda text, share: (
                text.split()[: len(text.split()) - int(share * len(text.split()))],
                text.split()[len(text.split()) - int(share * len(text.split())) :],
            ),
            "Those are lists of words. Slice the text itself.",
        ),
    ],
    praise="Whole files are better still: pages of one text resemble each other.",
)


def mean_surprise(model, text):
    if len(text) < 2:
        raise ValueError(f"a text of {len(text)} characters has no next character that could surprise")
    tokens, losses = encode(text), []
    with torch.no_grad():
        for i in range(1, len(tokens)):
            seen = tokens[max(0, i - model.context) : i]
            losses.append(cross_entropy(model(seen[None])[0, -1], tokens[i]).item())
    return sum(losses) / len(losses)


def _reader():
    """A small model that looks back on 12 characters, and has opinions."""
    model = TinyGPT(width=16, depth=1, heads=2, context=12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 3
            )
    return model


def _measure(mean_surprise, text):
    model = _reader()
    try:
        found = mean_surprise(model, text)
    except ValueError as error:
        require(
            "can look back on" not in str(error),
            f"The model can look back on 12 characters, and it was given more. For each character give it what stands before, but at most the last model.context of it; the text has {len(text)}.",
        )
        raise
    require(found is not None, "It returns nothing; is the return missing?")
    if isinstance(found, torch.Tensor) and found.numel() == 1:
        require(not found.requires_grad, "The result still requires a gradient: with torch.no_grad(), and .item().")
        found = found.item()
    require(isinstance(found, (int, float)), f"Return one number; this is of type {type(found).__name__}.")
    require(not math.isnan(found), f"For {text!r} it gives NaN.")
    return found


def _each(text):
    """The surprise at each character but the first, in nats: (characters - 1,)."""
    model, tokens = _reader(), encode(text)
    with torch.no_grad():
        places = [model(tokens[None, max(0, i - model.context) : i])[0, -1] for i in range(1, len(tokens))]
    return cross_entropy(torch.stack(places), tokens[1:], reduction="none")


def _reads_a_short_text(mean_surprise):
    for text in ("to be", "A geese"):
        found, nats = _measure(mean_surprise, text), _each(text)
        logits, tokens = _reader()(encode(text)[None])[0].detach(), encode(text)
        known = {
            "the sum over all characters. Asked for is the mean": nats.sum(),
            "in bits, log2. Asked for are nats, log": nats.mean() / math.log(2),
            "the mean probability. The surprise at a character is minus its logarithm": (-nats).exp().mean(),
            "minus the logarithm of the mean probability. Take the logarithm of each, and then the mean": -(-nats)
            .exp()
            .mean()
            .log(),
            "negative: the logarithm of a probability. The surprise is minus that": -nats.mean(),
            "the perplexity, the exponential of the surprise": nats.mean().exp(),
            "divided by the number of characters. There is one prediction less: nothing stands before the first": nats.sum()
            / len(text),
            "how surprised the model is at the character that it has just read. The output at a place is about the next one": cross_entropy(
                logits, tokens
            ),
            "the surprise at the last character alone": nats[-1],
        }
        for what, value in known.items():
            require(
                abs(found - value.item()) > 1e-3 or abs(found - nats.mean().item()) < 1e-3,
                f"For {text!r} that is {what}.",
            )
        right = nats.mean().item()
        require(abs(found - right) < 1e-3, f"For {text!r} it gives {found:.4f}, and {right:.4f} is right.")


def _reads_a_long_text(mean_surprise):
    for text in ("to be or not to be", "a text of forty characters, and so on ok"):
        found, right = _measure(mean_surprise, text), _each(text).mean().item()
        cut = _each(text[:12]).mean().item()
        require(
            abs(found - cut) > 1e-3, "Of a text longer than the model can look back on it reads the beginning alone."
        )
        require(
            abs(found - right) < 1e-3,
            f"For {len(text)} characters and a model that looks back on 12 it gives {found:.4f}, and {right:.4f} is right. "
            "Each character is predicted from all before it, but at most model.context of them.",
        )


def _refuses_what_says_nothing(mean_surprise):
    for text in ("", "a"):
        try:
            found = mean_surprise(_reader(), text)
        except ValueError:
            continue
        except Exception as error:
            require(False, f"For {text!r} it raises {type(error).__name__}: {error}. Raise a ValueError that says why.")
        require(
            False,
            f"For {text!r} it gives {found}. With fewer than two characters there is nothing to predict: raise ValueError(…).",
        )


_right = mean_surprise


def _short_only(model, text):
    if len(text) < 2:
        raise ValueError("too short")
    tokens = encode(text)
    return cross_entropy(model(tokens[None, :-1])[0], tokens[1:]).item()


def _pieces(model, text):
    tokens = encode(text)
    losses = [
        cross_entropy(model(piece[None, :-1])[0], piece[1:], reduction="sum").item()
        for piece in tokens.split(model.context)
        if len(piece) > 1
    ]
    return sum(losses) / (len(text) - 1)


def _unshifted(model, text):
    return cross_entropy(model(encode(text)[None])[0], encode(text)).item()


def _with_gradient(model, text):
    tokens = encode(text)
    return cross_entropy(model(tokens[None, :-1])[0], tokens[1:])


def _zero_for_nothing(model, text):
    return _right(model, text) if len(text) > 1 else 0.0


mean_surprise = Task(
    title="How surprising is a text?",
    reference=mean_surprise,
    stages={
        "a short text": _reads_a_short_text,
        "a text longer than the model can look back on": _reads_a_long_text,
        "too short a text is refused": _refuses_what_says_nothing,
    },
    hints=[
        "encode(text) gives numbers, and model(tokens[None])[0] the outputs at each place. Which character is the output at place i about?",
        "For a short text: cross_entropy(model(tokens[None, :-1])[0], tokens[1:]). For a long one, go character by character: for i, give the model tokens[max(0, i - model.context) : i] and look at its last output.",
        "In a loop over i from 1: losses.append(cross_entropy(model(seen[None])[0, -1], tokens[i]).item()), all of it under torch.no_grad(), and the mean at the end.",
    ],
    misconceptions=[
        (_unshifted, "For 'to be' that is how surprised the model is at the character that it has just read."),
        (lambda model, text: _right(model, text) / math.log(2), "For 'to be' that is in bits, log2."),
        (lambda model, text: _right(model, text) * (len(text) - 1), "For 'to be' that is the sum over all characters."),
        (lambda model, text: -_right(model, text), "For 'to be' that is negative"),
        (lambda model, text: math.exp(_right(model, text)), "For 'to be' that is the perplexity"),
        (
            lambda model, text: _right(model, text) * (len(text) - 1) / len(text),
            "For 'to be' that is divided by the number",
        ),
        (_with_gradient, "The result still requires a gradient"),
        (_short_only, "The model can look back on 12 characters, and it was given more."),
        (
            lambda model, text: _right(model, text[:12]),
            "Of a text longer than the model can look back on it reads the beginning",
        ),
        (_pieces, "For 18 characters and a model that looks back on 12 it gives"),
        (_zero_for_nothing, "For '' it gives 0.0."),
    ],
    praise="It measures any text with any such model: a page of yours, before and after.",
)
