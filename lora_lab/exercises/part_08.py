"""The exercises of notebook 08."""

import torch

from .engine import Exercise


def next_character(logits, temperature):
    return (logits / temperature).softmax(-1)


_LOGITS = torch.tensor([2.0, 1.0, 0.0, -2.5])
_ROWS = torch.tensor([[0.5, 2.0, -1.0], [3.0, -2.0, 0.0]])

next_character = Exercise(
    title="The temperature",
    reference=next_character,
    cases=[(_LOGITS, 0.5), (_LOGITS, 2.0), (_ROWS, 0.7)],
    hints=[
        "Softmax turns logits into probabilities: positive numbers that add up to 1. Where does the temperature act?",
        "A low temperature makes the differences between logits larger, before softmax. The characters are in the last dimension.",
        "(logits / temperature).softmax(-1)",
    ],
    misconceptions=[
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
    cases=[("abcdefghij", 0.2), ("to be or not to be", 0.25), ("short", 0.1)],
    hints=[
        "A slice of a string is a string. Where is the cut?",
        "held has int(share * len(text)) characters, so the cut is so many from the end.",
        "cut = len(text) - int(share * len(text)), then text[:cut] and text[cut:].",
    ],
    misconceptions=[
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
