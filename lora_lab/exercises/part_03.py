"""The exercises of notebook 03."""

import copy

import torch

from ..layer import LinearWithLoRA
from ..material.data import create_planted_task
from ..training import evaluate, train_model
from .engine import Exercise
from .guesses import Guess
from .kinds import Choice, Estimate, Task, require

where_it_arrives = Guess("where the loss arrives", axis="y")
same_rate = Guess("do they prefer the same rate?", ["yes", "no"])
many_examples = Guess("ahead with 1,024 examples", ["LoRA", "full", "nobody"])


def knowing_nothing(y):
    return ((y - y.mean(dim=0)) ** 2).mean()


def _noise(n, size, shift):
    return (shift + size * torch.randn(n, 3, generator=torch.Generator().manual_seed(n)),)


knowing_nothing = Exercise(
    title="The loss of knowing nothing",
    reference=knowing_nothing,
    cases=[
        (torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 6.0]]),),
        _noise(50, 1.0, 0.5),
        _noise(80, 2.0, -3.0),
        (torch.ones(1, 4),),
    ],
    hints=[
        "If x says nothing about y, what is the best constant to predict for each output?",
        "Each output's mean over the examples. Then take the mean squared error of that prediction.",
        "((y - y.mean(dim=0)) ** 2).mean()",
    ],
    misconceptions=[
        (
            lambda y: (y**2).mean(),
            "That is the loss of always predicting 0. Predicting each output's mean is better, unless the means are 0.",
        ),
        (
            lambda y: ((y - y.mean()) ** 2).mean(),
            "That predicts one number for all outputs. Each output may have a mean of its own: mean(dim=0).",
        ),
        (
            lambda y: ((y - y.mean(dim=1, keepdim=True)) ** 2).mean(),
            "dim=1 averages over the outputs of one example, which needs the answer. Average over the examples: dim=0.",
        ),
        (
            lambda y: y.var(dim=0).mean(),
            "Nearly: torch's var divides by n - 1, the mean squared error by n. Say correction=0, or write out the mean.",
        ),
        (lambda y: y.std(dim=0).mean(), "That is a standard deviation. The loss is a mean of squares."),
        (
            lambda y: y.mean(dim=0),
            "Those are the best constants to predict. Return the loss of predicting them: their mean squared error.",
        ),
        (
            lambda y: y.var(),
            "That is the variance around one mean for all outputs, divided by n - 1. Each output has a mean of its own (dim=0), and the loss divides by n (correction=0).",
        ),
        (
            lambda y: (y - y.mean(dim=0)).square().mean().sqrt(),
            "That is the root of the loss. The mean squared error has no root.",
        ),
        (
            lambda y: (y - y.mean(dim=0)).abs().mean(),
            "That is the mean absolute error. The loss here squares the differences.",
        ),
        (lambda y: (y - y.mean(dim=0)).mean(), "Without the square, differences above and below cancel out to zero."),
        (
            lambda y: ((y - y.mean(dim=0)) ** 2).mean(dim=0),
            "That is one number for each output. The loss is the mean over all of them.",
        ),
        (lambda y: ((y - y.mean(dim=0)) ** 2).sum(), "That is a sum; the loss is a mean."),
        (
            lambda y: ((y - y.mean(dim=0)) ** 2).sum(dim=1).mean(),
            "That adds up the outputs of each example. The mean squared error is a mean over the outputs, too.",
        ),
    ],
    praise="It is the variance of y, and a model that learned nothing sits there.",
)


def train_with_patience(model, X, y, X_val, y_val, lr, patience, max_steps):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses, best = [], None
    for _ in range(max_steps):
        optimizer.zero_grad()
        (model(X) - y).square().mean().backward()
        optimizer.step()
        losses.append(evaluate(model, X_val, y_val))
        if losses[-1] == min(losses):
            best = copy.deepcopy(model.state_dict())
        if len(losses) - losses.index(min(losses)) > patience:
            break
    model.load_state_dict(best)
    return losses


def _tried(train, lr, patience, max_steps):
    """A LoRA on few data, and the losses that an answer returns for it."""
    task = create_planted_task(24, 16, 6, rank=2, noise=0.5)
    random = torch.Generator().manual_seed(0)
    model = LinearWithLoRA(task.pretrained, rank=6)
    with torch.no_grad():  # the same start for every answer, whatever it draws
        model.lora.A.copy_((torch.rand(16, 6, generator=random) - 0.5) / 2)
    losses = train(model, task.X, task.y, task.X_val, task.y_val, lr, patience, max_steps)
    require(losses is not None, "It returns nothing; is the return missing?")
    require(isinstance(losses, (list, tuple)), f"Return a list of losses; this is of type {type(losses).__name__}.")
    for loss in losses:
        number = isinstance(loss, (int, float)) or (isinstance(loss, torch.Tensor) and loss.numel() == 1)
        require(number, f"A loss in the list is of type {type(loss).__name__}. Asked for are numbers.")
    return model, task, [float(loss) for loss in losses]


def _trains_what_learns(train):
    model, task, _ = _tried(train, 0.01, 1000, 30)
    fresh = create_planted_task(24, 16, 6, rank=2, noise=0.5).pretrained
    frozen = torch.equal(model.linear.weight, fresh.weight) and torch.equal(model.linear.bias, fresh.bias)
    require(frozen, "The frozen layer has changed. Give the optimizer what has requires_grad, and switch nothing on.")
    require(
        model.lora.B.any(), "B is still zero: nothing was trained. Is there a step, and is loss.backward() before it?"
    )
    before = evaluate(fresh, task.X, task.y)
    after = evaluate(model, task.X, task.y)
    require(
        after < before, f"The training loss went from {before:.2f} to {after:.2f}. Does each step follow backward()?"
    )


def _measures_after_each_step(train):
    model, task, losses = _tried(train, 0.01, 1000, 30)
    require(
        len(losses) == 30,
        f"With max_steps=30 and no end to patience there are 30 losses, and it returns {len(losses)}.",
    )
    right = _tried(_reference, 0.01, 1000, 30)[2]
    before = evaluate(create_planted_task(24, 16, 6, rank=2, noise=0.5).pretrained, task.X_val, task.y_val)
    require(abs(losses[0] - before) > 1e-5, "The first loss is the one before the first step. Measure after each step.")
    training = evaluate(model, task.X, task.y)
    require(
        abs(losses[-1] - training) > 1e-4 or abs(right[-1] - training) < 1e-4,
        "Those are losses on X and y. What tells when to stop is the loss on X_val and y_val.",
    )
    for step, (loss, other) in enumerate(zip(losses, right, strict=True), start=1):
        require(
            abs(loss - other) < 1e-3,
            f"After step {step} it is {loss:.4f}, and Adam with the mean squared error of all of X is at {other:.4f}. "
            + ("Are the gradients of the step before cleared?" if step > 1 else "Which loss, and which optimizer?"),
        )


def _stops_in_time(train):
    for lr, patience, max_steps in ((0.05, 5, 400), (0.05, 1, 400), (0.15, 4, 400), (1e-4, 3, 40)):
        losses = _tried(train, lr, patience, max_steps)[2]
        right = _tried(_reference, lr, patience, max_steps)[2]
        lowest = losses.index(min(losses)) + 1
        require(
            len(losses) == len(right),
            f"With patience {patience} it took {len(losses)} steps, and its lowest loss was the one of step {lowest}. "
            f"Every loss that is lower than the lowest so far counts, however little; after {patience} in a row that are "
            f"not it ends: after {len(right)} of at most {max_steps} here.",
        )


def _gives_back_the_best(train):
    for patience, max_steps in ((5, 400), (1000, 150)):
        model, task, losses = _tried(train, 0.05, patience, max_steps)
        now, best = evaluate(model, task.X_val, task.y_val), min(losses)
        require(
            abs(now - best) < 1e-4,
            f"The lowest loss was {best:.3f}, and the model that is left behind has {now:.3f}. "
            "Keep a copy of the best numbers, copy.deepcopy(model.state_dict()), since the tensors themselves go on "
            "changing, and load it at the end, however the training ended.",
        )
        require(model.lora.A.requires_grad, "A and B can't learn on: requires_grad is off now.")
    return f"Stopped where the validation loss was {best:.2f}."


_reference = train_with_patience


def _variant(**changes):
    """The training loop with one thing in it done otherwise."""

    def train(model, X, y, X_val, y_val, lr, patience, max_steps):
        do = {
            "parameters": lambda: [p for p in model.parameters() if p.requires_grad],
            "clear": lambda optimizer: optimizer.zero_grad(),
            "measured": lambda: evaluate(model, X_val, y_val),
            "since": lambda losses: len(losses) - losses.index(min(losses)) > patience,
            "keep": lambda: copy.deepcopy(model.state_dict()),
            "load": lambda best: model.load_state_dict(best),
        } | {name: change(model, X, y, patience) for name, change in changes.items()}
        optimizer = torch.optim.Adam(do["parameters"](), lr=lr)
        losses, best = [], None
        for _ in range(max_steps):
            do["clear"](optimizer)
            (model(X) - y).square().mean().backward()
            optimizer.step()
            losses.append(do["measured"]())
            if losses[-1] == min(losses):
                best = do["keep"]()
            if do["since"](losses):
                break
        do["load"](best)
        return losses

    return train


def _all_of_it(model, X, y, patience):
    return lambda: list(model.requires_grad_(True).parameters())


def _never_steps(model, X, y, X_val, y_val, lr, patience, max_steps):
    return [evaluate(model, X_val, y_val) for _ in range(max_steps)]


def _measures_first(model, X, y, X_val, y_val, lr, patience, max_steps):
    return [evaluate(model, X_val, y_val), *_reference(model, X, y, X_val, y_val, lr, patience, max_steps)][:max_steps]


def _returns_the_model(model, X, y, X_val, y_val, lr, patience, max_steps):
    _reference(model, X, y, X_val, y_val, lr, patience, max_steps)
    return model


def _nothing_returned(*arguments):
    _reference(*arguments)


train_with_patience = Task(
    title="A loop that stops in time",
    reference=train_with_patience,
    stages={
        "it trains what learns, and nothing else": _trains_what_learns,
        "it returns the validation loss after each step": _measures_after_each_step,
        "it stops when its patience is at an end": _stops_in_time,
        "it leaves the best model behind": _gives_back_the_best,
    },
    hints=[
        "Begin with the loop of any training: clear the gradients, loss.backward(), a step; max_steps times. The optimizer gets the parameters that require a gradient.",
        "After each step: evaluate(model, X_val, y_val) into a list. How many losses stand behind the lowest? If that is patience, break.",
        "Whenever the newest loss is the lowest: best = copy.deepcopy(model.state_dict()). After the loop: model.load_state_dict(best).",
    ],
    misconceptions=[
        (_variant(parameters=_all_of_it), "The frozen layer has changed."),
        (_never_steps, "B is still zero: nothing was trained."),
        (_nothing_returned, "It returns nothing; is the return missing?"),
        (_returns_the_model, "Return a list of losses; this is of type LinearWithLoRA."),
        (_measures_first, "The first loss is the one before the first step."),
        (
            _variant(measured=lambda model, X, y, patience: lambda: evaluate(model, X, y)),
            "Those are losses on X and y.",
        ),
        (
            _variant(clear=lambda model, X, y, patience: lambda optimizer: None),
            "After step 3 it is",
        ),
        (
            _variant(since=lambda model, X, y, patience: lambda losses: False),
            "With patience 5 it took 400 steps",
        ),
        (
            _variant(
                since=lambda model, X, y, patience: lambda losses: len(losses) - losses.index(min(losses)) >= patience
            ),
            "With patience 5 it took",
        ),
        (
            _variant(since=lambda model, X, y, patience: lambda losses: len(losses) > 1 and losses[-1] > losses[-2]),
            "With patience 5 it took",
        ),
        (
            _variant(
                since=lambda model, X, y, patience: (
                    lambda losses: len(losses) > patience and min(losses[-patience:]) > min(losses[:-patience]) - 1e-3
                )
            ),
            "With patience 4 it took",
        ),
        (
            _variant(
                since=lambda model, X, y, patience: (
                    lambda losses: sum(loss > min(losses[: i + 1]) for i, loss in enumerate(losses)) >= patience
                )
            ),
            "With patience 4 it took",
        ),
        (
            _variant(keep=lambda model, X, y, patience: model.state_dict),
            "The lowest loss was",
        ),
        (
            _variant(load=lambda model, X, y, patience: lambda best: None),
            "The lowest loss was",
        ),
        (
            _variant(
                load=lambda model, X, y, patience: (
                    lambda best: (model.load_state_dict(best), model.requires_grad_(False))
                )
            ),
            "A and B can't learn on: requires_grad is off now.",
        ),
    ],
    praise="That is early stopping, as it is called. The validation data have chosen a step now, so they flatter the result a little.",
)


def four_runs():
    """Four trainings of a LoRA on few data: the validation loss after each of 150 steps, by letter."""
    runs = {}
    for letter, (rank, lr) in {"a": (2, 0.0008), "b": (2, 1.0), "c": (2, 0.02), "d": (10, 0.02)}.items():
        task = create_planted_task(64, 64, 10, rank=2, noise=0.5)
        torch.manual_seed(0)
        model = LinearWithLoRA(task.pretrained, rank)
        runs[letter] = train_model(model, task.X, task.y, 150, lr, val=task.val, progress=False).val
    return runs


learned_noise = Choice(
    title="Read four curves",
    reference=("d", 3),
    choices={letter: f"run {letter}" for letter in "abcd"},
    reasons={
        1: "it falls so slowly that it is not done when the training ends",
        2: "it jumps up before it comes down",
        3: "it falls, turns, and ends higher than it began",
        4: "it ends lowest",
    },
    hints=[
        "Noise that was learned helps on the training data and harms on others. What does that do to a validation loss, as time goes on?",
        "A curve that turns upwards after its lowest point and does not come back.",
    ],
    misconceptions=[
        (
            "a",
            "a falls to its last step: it has not even learned what there is to learn. Its learning rate is too low.",
        ),
        (
            "b",
            "b jumps in its first steps, and then comes down to where c is: its learning rate is too high. Noise is learned late, not first.",
        ),
        ("c", "c turns up by a hairbreadth at most. Another one goes up and up."),
        (("d", 1), "d it is. But d falls fast; what does it do after that?"),
        (
            ("d", 2),
            "d it is. But what jumps in the first steps comes from a learning rate. Look at the rest of its curve.",
        ),
        (("d", 4), "d it is. But it ends highest of all four, not lowest."),
    ],
    praise="It has rank 10 where the change has rank 2, and time. It was best early, and then it learned the noise of its 64 examples.",
)


best_step = Estimate(
    title="Where should d have stopped?",
    reference=26,
    low=15,
    high=45,
    hints=[
        "Go along d's curve from the left: where is it lowest?",
        "Read the step off the axis below, to within ten.",
    ],
    misconceptions=[
        (150, "That is where it did stop, at its worst."),
        (1, "At the first step it has learned nothing yet."),
        (94, "There c is lowest. Look at d."),
        (0.55, "That is about how low its lowest loss is. Asked for is the step at which it is there."),
    ],
    praise="About there. An early stop gives d as good a loss as it can get, and still not c's.",
)
