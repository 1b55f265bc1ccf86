"""The exercises of notebook 07."""

import torch
from torch import nn

from ..adapt import replace_linear_with_lora
from .engine import Exercise


def startup_difference(model, pretrained, X):
    with torch.no_grad():
        return (model(X) - pretrained(X)).abs().max().item()


def _two_models(seed):
    """An adapted model whose B is not zero, the pretrained one, and inputs."""
    torch.manual_seed(seed)
    pretrained, model = (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))
    model.load_state_dict(pretrained.state_dict())
    replace_linear_with_lora(model, rank=2)
    nn.init.normal_(model[2].lora.B)
    return model, pretrained, torch.randn(7, 5)


def _plain(number):
    """A number as Python's own; True and False stay what they are."""
    value = torch.as_tensor(number).detach().reshape(()).item()
    return value if isinstance(value, bool) else float(value)


def _largest_of_each(model, pretrained, X):
    with torch.no_grad():
        return model(X).abs().max().item() - pretrained(X).abs().max().item()


startup_difference = Exercise(
    title="Does it start where it should?",
    reference=startup_difference,
    cases=[_two_models(0), _two_models(1)],
    observe=lambda answer, *case: _plain(answer(*case)),
    hints=[
        "Send the same X through both models. What should the two outputs have in common before training?",
        "Every number of one minus the same number of the other. Which single number tells that all of them are zero?",
        "(model(X) - pretrained(X)).abs().max()",
    ],
    misconceptions=[
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).max(),
            "Without abs() a large negative difference goes unseen.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).mean(),
            "In a mean, differences up and down cancel out. Take the largest, without its sign.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).abs().mean(),
            "A mean hides one output that is far off among many that are right. Take the largest.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).abs().sum(),
            "A sum grows with the number of examples, so it can't be compared. Take the largest.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).square().mean(),
            "A mean of squares makes small differences invisible. Take the largest, without squaring.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).norm(),
            "A norm grows with the number of examples, so it can't be compared. Take the largest.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).square().max(),
            "That is the largest square. Small differences become invisible: use abs().",
        ),
        (_largest_of_each, "That compares the largest outputs. Subtract first, then look for the largest difference."),
        (
            lambda model, pretrained, X: not torch.equal(model(X), pretrained(X)),
            "That says whether, and not by how much. A difference of a rounding error is no illness.",
        ),
        (
            lambda model, pretrained, X: torch.equal(model(X), pretrained(X)),
            "That says whether they are the same, and not by how much they differ. Asked for is a number.",
        ),
        (
            lambda model, pretrained, X: max(abs(model(X) - pretrained(X))),
            "Python's max, if and while want one True or False, and a tensor of many numbers has many. Use the tensor's own: .abs().max().",
        ),
    ],
    praise="Zero for a fresh LoRA, to the last bit. It is the cheapest test there is.",
)


def not_held(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]


def _observe_not_held(answer):
    """Its answers for an optimizer made too early, for one with two groups and a gap, and for one that has all."""
    results = []
    for kind in ("early", "groups", "all"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        early = torch.optim.Adam(model.parameters())
        replace_linear_with_lora(model, rank=2)
        first, second = model[0].lora, model[1].lora
        groups = [{"params": [first.A, first.B]}, {"params": [second.A], "lr": 0.1}]
        made = {"early": early, "groups": torch.optim.SGD(groups, lr=1)}
        result = answer(model, made.get(kind) or torch.optim.Adam(model.parameters()))
        if isinstance(result, str):
            raise TypeError
        results.append(str(sorted(map(_named, result))))
    cases = ("an optimizer made before LoRA", "one with two groups and a gap", "one that holds everything")
    return {f"the answer for {case}": result for case, result in zip(cases, results, strict=True)}


def _named(item):
    return item if isinstance(item, str) else f"an object of type {type(item).__name__}"


def _first_group_only(model, optimizer):
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]


def _frozen_too(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in model.named_parameters() if id(p) not in held]


def _each_group_alone(model, optimizer):
    missing = []
    for group in optimizer.param_groups:
        held = {id(p) for p in group["params"]}
        missing += [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    return missing


def _by_value(model, optimizer):
    held = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [name for name, p in wanted if not any(torch.equal(p, other) for other in held)]


def _those_held(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) in held]


def _parameters(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in held]


def _with_in(model, optimizer):
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [name for name, p in model.named_parameters() if p.requires_grad and p not in held]


def _by_number(model, optimizer):
    held = [number for group in optimizer.state_dict()["param_groups"] for number in group["params"]]
    return [name for name, p in model.named_parameters() if p.requires_grad and p not in held]


def _by_state(model, optimizer):
    return [name for name, p in model.named_parameters() if p.requires_grad and p not in optimizer.state]


not_held = Exercise(
    title="What the optimizer does not hold",
    reference=not_held,
    observe=_observe_not_held,
    hints=[
        "An optimizer keeps its parameters in optimizer.param_groups, a list of dictionaries.",
        'Collect them from group["params"] of every group. Tensors are told apart by id(p): == would compare their numbers.',
        'held = {id(p) for group in optimizer.param_groups for p in group["params"]}, and then the names of trainable parameters whose id is not in held.',
    ],
    misconceptions=[
        (
            _first_group_only,
            "That looks into the first group alone. An optimizer may have several, each with a learning rate of its own.",
        ),
        (
            _each_group_alone,
            "Each group is asked alone, so what one of them holds counts as missing from the other. Collect the ids of all groups, then compare once.",
        ),
        (
            _by_value,
            "Two tensors with the same numbers are not the same tensor: every fresh B is zero. Compare id(p), or p is q.",
        ),
        (
            _by_number,
            "state_dict() numbers the parameters 0, 1, 2, … Look into optimizer.param_groups, where they are themselves.",
        ),
        (_frozen_too, "Frozen parameters need no optimizer. Name only those that require a gradient."),
        (_those_held, "Those are the ones that it does hold. Asked for are the others."),
        (_parameters, "Those are the parameters themselves. A report needs their names: named_parameters()."),
        (
            _with_in,
            "p in held compares with ==, which compares the numbers of tensors, not which tensors they are. Compare id(p).",
        ),
        (
            _by_state,
            'That names everything that wants to learn, whatever the optimizer holds. optimizer.state is empty before the first step, and param_groups is a list of dictionaries: the parameters are in group["params"] of each.',
        ),
    ],
    praise="An empty list is health. Ask before the first step, not after the last.",
)
