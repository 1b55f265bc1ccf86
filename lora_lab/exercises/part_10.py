"""The exercises of notebook 10."""

import torch
from torch.nn import functional as F

from ..adapt import replace_linear_with_lora, set_strength
from ..adapter_file import load_adapter
from ..material.forgetting import FORGETTING
from ..material.models import TinyGPT, shipped_adapter, windows
from ..material.texts import held_out
from ..training import evaluate
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require, require_lora

one_better = Guess("is one of them better?", ["yes", "no"])
best_predictor = Guess("goes better with the loss on prose", ["distance", "KL on names"])
with_old_text = Guess("rank 16 on prose, with a tenth of old text")


def not_beaten(points):
    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] <= other[1]

    return [point for point in points if not any(beats(other, point) for other in points)]


def _lower(points, beats):
    """The points that no other one beats, by another idea of what that means."""
    return [point for point in points if not any(beats(other, point) for other in points if other != point)]


not_beaten = Exercise(
    title="Who is not beaten?",
    reference=not_beaten,
    cases=[
        ([(1.5, 1.3), (1.2, 1.6), (1.4, 1.7), (1.1, 3.0), (1.6, 1.3)],),
        (
            [(2.0, 1.0), *map(tuple, [[1.0, 2.0], [1.0, 2.0]]), (1.0, 2.5), (1.8, 1.9), (1.3, 1.5)],
        ),  # equal, not the same object
        ([(1.4, 2.2), (1.3, 2.1)],),
        ([(1.2, 1.2)],),
        ([],),
    ],
    hints=[
        "Take one point. Which other point would make it pointless to choose this one? Say it with both losses.",
        "A point is beaten if some other one is at least as low in both losses, and not the same in both.",
        "[p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]",
    ],
    misconceptions=[
        (
            lambda points: _lower(points, lambda q, p: q[0] < p[0] and q[1] < p[1]),
            "A point that is level on one loss and worse on the other is beaten, too: compare with <=, and leave out equal points.",
        ),
        (
            lambda points: _lower(points, lambda q, p: q[0] < p[0] or q[1] < p[1]),
            "That drops a point as soon as another is better at one thing. It is beaten if another is at least as good at both: and.",
        ),
        (
            lambda points: [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] for q in points)],
            "Each point is at least as good as itself, so that leaves nobody. Compare with points that differ.",
        ),
        (
            lambda points: _lower(points, lambda q, p: q[0] >= p[0] and q[1] >= p[1]),
            "Those are the ones that no other is worse than. These are losses: lower is better.",
        ),
        (
            lambda points: [p for p in points if p not in _lower(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1])],
            "Those are the beaten ones. Asked for are the others.",
        ),
        (
            lambda points: [p for p in points if not any(q is not p and q[0] <= p[0] and q[1] <= p[1] for q in points)],
            "Two equal points beat each other there, and both are gone: leave out equal points, q != p, and not only p itself.",
        ),
        (
            lambda points: _lower(points, lambda q, p: q < p),
            "Tuples are compared by their first number. A point is beaten if another is at least as low in both.",
        ),
        (
            lambda points: [
                p for i, p in enumerate(points) if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points[:i])
            ],
            "Each point is compared with those before it alone. One that comes later may beat it, too.",
        ),
        (
            lambda points: [
                p for i, p in enumerate(points) if p in not_beaten.reference(points) and p not in points[:i]
            ],
            "An equal point does not beat: one that stands there twice stays twice.",
        ),
        (
            lambda points: [min(points, key=sum)] if points else [],
            "The lowest sum is one way to choose, and it says that a nat here is worth a nat there. Keep every point that is beaten by nobody.",
        ),
        (
            lambda points: [p for p in points if sum(p) == min(map(sum, points))],
            "The lowest sum is one way to choose, and it says that a nat here is worth a nat there. Keep every point that is beaten by nobody.",
        ),
        (
            lambda points: [min(points)] if points else [],
            "That is the one that learned most. Those that learned less and forgot less are not beaten by it.",
        ),
        (
            lambda points: [min(points, key=lambda p: p[1])] if points else [],
            "That is the one that forgot least. Those that learned more are not beaten by it.",
        ),
        (
            lambda points: [min(points), min(points, key=lambda p: p[1])] if points else [],
            "Those are the two ends. Between them, too, there are points that nobody beats.",
        ),
        (
            lambda points: sorted(set(_lower(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1]))),
            "Keep the points as they come: in their order, and one that stands there twice, twice.",
        ),
        (
            lambda points: sorted(_lower(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1])),
            "The right points in another order. Keep the order in which they come.",
        ),
        (
            lambda points: [
                i for i, p in enumerate(points) if p in _lower(points, lambda q, r: q[0] <= r[0] and q[1] <= r[1])
            ],
            "Those are their places in the list. Return the points themselves.",
        ),
    ],
    praise="Such points are called Pareto-optimal. To choose among them is a matter of what you need, and not of measuring.",
)


def divergence(now, before):
    return (now.exp() * (now - before)).sum(-1).mean()


def _answers(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=random)).log_softmax(-1)


divergence = Exercise(
    title="How differently does it answer?",
    reference=divergence,
    cases=[
        (torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()),
        (_answers(2, 3, 5), _answers(2, 3, 5, seed=1)),
        (_answers(4, 7, seed=2), _answers(4, 7, seed=3)),
        (_answers(1, 2, 4, seed=4), _answers(1, 2, 4, seed=4)),
    ],
    observe=lambda answer, *case: float(answer(*case)),
    hints=[
        "At one place: for each character, how much likelier has it become, now − before? The mean of that, each character weighted by its probability now.",
        "now holds logarithms, so the probabilities are now.exp(). Sum over the characters, the last dimension; then the mean over all places.",
        "(now.exp() * (now - before)).sum(-1).mean()",
    ],
    misconceptions=[
        (
            lambda now, before: (before.exp() * (before - now)).sum(-1).mean(),
            "That is KL(before ‖ now): a surprise weighted by the old probabilities. Weigh by the new ones.",
        ),
        (
            lambda now, before: F.kl_div(before, now, log_target=True, reduction="batchmean"),
            "batchmean divides by the first dimension alone. Take the mean over all places, whatever their dimensions.",
        ),
        (
            lambda now, before: (now.exp() * (now - before)).sum(0).mean(),
            "That sums over places. The characters are in the last dimension: sum(-1), and then the mean.",
        ),
        (
            lambda now, before: (now.exp() * (now - before)).sum(1).mean(),
            "dim=1 is the last one only where there are two. The characters are in the last dimension: sum(-1).",
        ),
        (
            lambda now, before: (now.exp() * (now - before)).clamp(min=0).sum(-1).mean(),
            "Single terms may be negative, and they have to count: only their sum is never below zero.",
        ),
        (
            lambda now, before: (now * (now / before).log()).sum(-1).mean(),
            "now and before are logarithms already: p is now.exp(), and log(p / q) is now − before.",
        ),
        (
            lambda now, before: F.kl_div(now, before, log_target=True, reduction="none").mean(),
            "F.kl_div(a, b) is KL(b ‖ a), and its mean goes over characters, too. Write the formula out.",
        ),
        (
            lambda now, before: (now.exp() * (now - before)).mean(),
            "The mean goes over characters as well, as that of F.kl_div does. Sum over the characters, sum(-1), and take the mean over places.",
        ),
        (
            lambda now, before: (now.exp() * (now - before)).sum(),
            "That grows with the length of the text. Take the mean over places.",
        ),
        (
            lambda now, before: (now * (now - before)).sum(-1).mean(),
            "The weights are logarithms there. Probabilities are now.exp().",
        ),
        (
            lambda now, before: (now - before).sum(-1).mean(),
            "All characters count alike there, the impossible ones, too. Weigh each by its probability now.",
        ),
        (
            lambda now, before: (now - before).mean(),
            "All characters count alike there, the impossible ones, too. Weigh each by its probability now, and sum over them.",
        ),
        (
            lambda now, before: (now.exp() - before.exp()).abs().sum(-1).mean(),
            "That is the distance of the probabilities, a measure of its own. KL takes the difference of their logarithms, weighted.",
        ),
        (
            lambda now, before: (now.exp() * (before - now)).sum(-1).mean(),
            "The sign is turned: it is now − before. KL is never below zero.",
        ),
        (
            lambda now, before: (before.exp() * (now - before)).sum(-1).mean(),
            "Weighted by the old probabilities that is minus KL(before ‖ now). Weigh by the new ones.",
        ),
        (
            lambda now, before: (now.exp() * (now - before).abs()).sum(-1).mean(),
            "No abs(): what has become less likely counts negative. The sum is never below zero all the same.",
        ),
        (
            lambda now, before: (now.exp() * (now.exp() / before.exp())).sum(-1).mean(),
            "The logarithm of the ratio is missing: log(p / q) is now − before.",
        ),
        (
            lambda now, before: -(now.exp() * now).sum(-1).mean(),
            "That is the entropy of the new answers; the old ones play no part in it.",
        ),
        (
            lambda now, before: -(now.exp() * before).sum(-1).mean(),
            "That is the cross-entropy. Take the entropy away: it is now − before, not before alone.",
        ),
    ],
    praise="It is zero where nothing has changed, and needs no right answers: it can be measured on any text.",
)


def both_texts():
    model = TinyGPT.pretrained()
    load_adapter(model, FORGETTING / "r4-0.003")  # trained by lora_lab.material.forgetting, in 300 steps
    set_strength(model, 0.75)
    return model


def _has_room(model):
    return require_lora(model, TinyGPT, at_most=60_000)


def _reads_both(model):
    # Pieces that nothing else in the notebook is measured on.
    names, prose = (
        evaluate(model, *(half[start::every] for half in windows(held_out(kind), 128)))
        for kind, start, every in (("names", 3, 6), ("prose", 1, 2))
    )
    found = f"Names {names:.2f}, prose {prose:.2f}."
    require(
        names <= 1.35 or prose <= 1.55,
        f"It has learned too little and forgotten too much: another strength mends only one of them. Try another rate. {found}",
    )
    require(names <= 1.35, f"It has not learned enough: the names are to be at 1.35 or less. {found}")
    require(prose <= 1.55, f"It has forgotten too much: the prose is to be at 1.55 or less. {found}")
    return found


def _shipped(rank, rate, strength=1.0):
    def answer():
        model = TinyGPT.pretrained()
        load_adapter(model, FORGETTING / f"r{rank}-{rate}")
        set_strength(model, strength)
        return model

    return answer


def _untrained():
    model = TinyGPT.pretrained()
    replace_linear_with_lora(model, 4)
    return model


def _writer():
    model = TinyGPT.pretrained()
    load_adapter(model, shipped_adapter("tales"))
    return model


def _something_more():
    model = _untrained()
    model.more = torch.nn.Linear(4, 4)
    return model


both_texts = Task(
    title="Both texts",
    reference=both_texts,
    run=True,
    stages={
        "a TinyGPT with a LoRA of at most 60,000 numbers": _has_room,
        "names at 1.35 or less, prose at 1.55 or less": _reads_both,
    },
    hints=[
        "Where on the plane above lies the goal, and which ranks with at most 60,000 numbers get near it? The slider shows it.",
        "Rank 4 everywhere has 55,296 numbers. As shipped it learns too little at one rate and forgets too much at the others. What costs no training?",
        'load_adapter(model, FORGETTING / "r4-0.003"), then set_strength(model, 0.75). Or train it yourself, with a tenth of old text mixed in.',
    ],
    misconceptions=[
        (_shipped(4, 0.003), "It has forgotten too much: the prose is to be at 1.55 or less."),
        (_shipped(1, 0.001), "It has not learned enough: the names are to be at 1.35 or less."),
        (
            _shipped(4, 0.001),
            "It has learned too little and forgotten too much: another strength mends only one of them. Try another rate.",
        ),
        (
            _shipped(16, 0.003, 0.5),
            "A and B hold 221,184 numbers, more than 60,000: fewer layers, or a lower rank.",
        ),
        (_untrained, "It has not learned enough: the names are to be at 1.35 or less."),
        (_writer, "A and B hold 110,592 numbers, more than 60,000"),
        (TinyGPT.pretrained, "There is no LoRA in it: put it in with replace_linear_with_lora, and leave it there."),
        (lambda: _untrained().state_dict(), "Return the model itself, a TinyGPT. This is of type OrderedDict."),
        (_something_more, "Something besides A and B was added to the model."),
    ],
    praise="Both texts with one adapter.",
)
