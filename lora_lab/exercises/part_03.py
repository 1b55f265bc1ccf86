"""The exercises of notebook 03."""

import torch

from ..layer import LinearWithLoRA, LoRALayer
from .engine import Exercise


def knowing_nothing(y):
    return ((y - y.mean(dim=0)) ** 2).mean()


def _noise(n, size, shift):
    return (shift + size * torch.randn(n, 3, generator=torch.Generator().manual_seed(n)),)


knowing_nothing = Exercise(
    title="The loss of knowing nothing",
    reference=knowing_nothing,
    cases=[_noise(50, 1.0, 0.5), _noise(80, 2.0, -3.0)],
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


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _first_only(model):
    return [next(parameter for parameter in model.parameters() if parameter.requires_grad)]


def _observe_trainable(answer):
    model = torch.nn.Sequential(LinearWithLoRA(torch.nn.Linear(6, 5), 2), LinearWithLoRA(torch.nn.Linear(5, 4), 2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    result = list(answer(model))
    while any(isinstance(item, (list, tuple, dict)) or hasattr(item, "__next__") for item in result):
        result = [part for item in result for part in _parts(item)]
    return sorted(names.get(id(item), f"an object of type {type(item).__name__}") for item in result)


def _parts(item):
    """What is in a list or generator; of an optimizer's parameter group, its parameters."""
    if isinstance(item, dict):
        return item["params"]
    return item if isinstance(item, (list, tuple)) or hasattr(item, "__next__") else [item]


trainable = Exercise(
    title="What the optimizer gets",
    reference=trainable,
    observe=_observe_trainable,
    hints=[
        "model.parameters() runs over all of them, frozen ones too. Keep some.",
        "Which ones may change says each parameter's requires_grad.",
        "[parameter for parameter in model.parameters() if parameter.requires_grad]",
    ],
    misconceptions=[
        (
            lambda model: model.parameters(),
            "That hands over the frozen parameters, too. It trains the same, since they get no gradient, but the optimizer should hold only what learns.",
        ),
        (
            lambda model: [p for p in model.parameters() if not p.requires_grad],
            "That is the other half: the frozen parameters.",
        ),
        (
            lambda model: [p for n, p in model.named_parameters() if n.endswith("A")],
            "A alone: B would stay zero for ever, and the adapter with it.",
        ),
        (
            lambda model: [p for n, p in model.named_parameters() if n.endswith("B")],
            "B alone does learn something, in a random subspace that A fixes for good. LoRA trains both.",
        ),
        (
            lambda model: [n for n, p in model.named_parameters() if p.requires_grad],
            "Those are names. An optimizer takes the parameters themselves.",
        ),
        (
            lambda model: [p.data for p in model.parameters() if p.requires_grad],
            "p.data is another tensor, without a gradient. An optimizer takes the parameters themselves.",
        ),
        (
            lambda model: [m for m in model.modules() if isinstance(m, LoRALayer)],
            "Those are modules. An optimizer takes their parameters, the A and the B of each.",
        ),
        (
            lambda model: [p.requires_grad for p in model.parameters()],
            "Those are True and False, one for each parameter. The condition goes behind: [p for p in … if p.requires_grad].",
        ),
        (_first_only, "Only the first one comes back. A return inside the loop ends it."),
        (
            lambda model: [p for p in model.parameters() if p.grad is not None],
            "Before the first backward pass no parameter has a gradient, so this list is empty. Ask requires_grad.",
        ),
    ],
    praise="Two tensors for each adapted layer, and nothing else.",
)
