"""The exercises of notebook 07."""

import copy
import math

import torch
from torch import nn

from ..adapt import replace_linear_with_lora
from ..checkup import doctor
from ..find import lora_layers
from ..layer import LinearWithLoRA
from ..training import accuracy, train_model
from .clinic import PATIENTS
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require
from .ward import visit

unseen = Guess("of the eleven unseen")


def startup_difference(model, pretrained, X):
    with torch.no_grad():
        return (model(X) - pretrained(X)).abs().max().item()


def _two_models(seed, size=1.0, outputs=1.0):
    """An adapted model that does not start where it should, the pretrained one, and inputs."""
    torch.manual_seed(seed)
    pretrained, model = (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).double() for _ in range(2))
    with torch.no_grad():
        pretrained[2].weight *= outputs
        pretrained[2].bias += 2 * outputs
    model.load_state_dict(pretrained.state_dict())
    replace_linear_with_lora(model, rank=2)
    nn.init.normal_(model[2].lora.B, std=size)
    with torch.no_grad():  # what was pretrained has changed, too, so that switching LoRA off does not bring it back
        model[0].linear.bias += size / 2
    return model, pretrained, torch.randn(7, 5).double()


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
    cases=[_two_models(0), _two_models(1), _two_models(2, size=2e-4), _two_models(3, size=1e-6, outputs=1000)],
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
            lambda model, pretrained, X: abs(_largest_of_each(model, pretrained, X)),
            "That compares the largest outputs. Subtract first, then look for the largest difference.",
        ),
        (
            lambda model, pretrained, X: (model(X).max() - pretrained(X).max()).abs(),
            "That compares the largest outputs. Subtract first, then look for the largest difference.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X)).abs().mean(0).max(),
            "A mean over the examples hides the one that is far off. Take the largest over all of it.",
        ),
        (
            lambda model, pretrained, X: (model(X) - pretrained(X))[0].abs().max(),
            "That looks at the first example alone. A return inside the loop ends it.",
        ),
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
    """Its answers for an optimizer made too early, for others with a gap, and for one that has all."""
    results = []
    for kind in ("early", "groups", "turned", "all"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        early = torch.optim.Adam(model.parameters())
        replace_linear_with_lora(model, rank=2)
        first, second = model[0].lora, model[1].lora
        groups = [{"params": [first.A, first.B]}, {"params": [second.A], "lr": 0.1}]
        turned = [second.B, second.A, first.B]
        made = {"early": early, "groups": torch.optim.SGD(groups, lr=1), "turned": torch.optim.SGD(turned, lr=1)}
        result = answer(model, made.get(kind) or torch.optim.Adam(model.parameters()))
        if isinstance(result, str):
            raise TypeError
        results.append(str(sorted(map(_named, result))))
    cases = (
        "an optimizer made before LoRA",
        "one with two groups and a gap",
        "one that holds them from last to first, but for one",
        "one that holds everything",
    )
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


def _used_up(model, optimizer):
    held = (p for group in optimizer.param_groups for p in group["params"])
    return [name for name, p in model.named_parameters() if p.requires_grad and not any(p is q for q in held)]


def _first_missing(model, optimizer):
    return not_held.reference(model, optimizer)[:1]


def _without_gradients(model, optimizer):
    return [name for name, p in model.state_dict().items() if p.requires_grad]


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
        (
            _used_up,
            "A generator can be read through once: the first search uses it up. Make a list or a set of it.",
        ),
        (_first_missing, "That stops at the first one. A return inside the loop ends it: collect all the names."),
        (
            _without_gradients,
            "This list is always empty. If the names come from model.state_dict(): its tensors are detached, and none requires a gradient. named_parameters() has the parameters themselves.",
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


def cure(model):
    for layer in lora_layers(model).values():
        if isinstance(layer.linear, LinearWithLoRA):
            layer.linear = layer.linear.linear
    for layer in lora_layers(model).values():
        layer.linear.requires_grad_(False)
        layer.lora.requires_grad_(True)
        if not (layer.lora.A.any() or layer.lora.B.any()):
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.lora.A, -bound, bound)
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)


def _healed(number):
    """The judge of one patient: what does the doctor say, and does it learn as its healthy twin does?"""

    def judge(cure):
        patient = PATIENTS[number - 1]
        world, (model, _) = patient.world(), patient.admit()
        optimizer = cure(model)
        require(
            isinstance(optimizer, torch.optim.Optimizer),
            f"Return an optimizer for what learns now, as torch.optim.Adam(…, lr=0.01); this is of type {type(optimizer).__name__}.",
        )
        X, y = world.new.X, world.new.y
        found = doctor(model, X[:200], y[:200], world.pretrained, optimizer).problems
        # What it is, and not the way out: that would be a fresh model.
        said = found[0].split(": it was put in")[0].rstrip("?") if found else ""
        require(not found, f"Of patient {number} the doctor still says: {said}.")
        history = train_model(
            model, X, y, 12, batch_size=64, optimizer=lambda *_, **settings: optimizer, progress=False
        )
        right = 100 * accuracy(model, world.new.X_test, world.new.y_test)
        twin = visit(patient, ill=False).measured["new task, % right"]
        require(
            not history.stopped and right > twin - 5,
            f"The doctor finds nothing any more, but patient {number} reads {right:.0f} % after its training and its twin {twin:.0f} %. At which rate does the optimizer go?",
        )

    return judge


def _leaves_the_healthy_alone(cure):
    world = PATIENTS[0].world()
    for epochs, said in ((1, "has learned something has lost it"), (0, "is fresh was changed")):
        torch.manual_seed(0)
        model = copy.deepcopy(world.pretrained)
        replace_linear_with_lora(model, rank=4, targets=["fc1", "fc2"])
        train_model(model, world.new.X, world.new.y, epochs, 0.01, batch_size=64, progress=False)
        before = copy.deepcopy(model.state_dict())
        cure(model)
        after = model.state_dict()
        changed = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
        require(
            not changed,
            f"A model that is healthy and {said}: {', '.join(changed[:2])}. Treat only what is ill.",
        )


_the_cure = cure


def _but(**done):
    """The cure with one remedy left out, or given to everybody."""

    def treat(model):
        for layer in lora_layers(model).values():
            if isinstance(layer.linear, LinearWithLoRA) and done.get("unwrap", True):
                layer.linear = layer.linear.linear
        for layer in lora_layers(model).values():
            if done.get("freeze", True):
                layer.linear.requires_grad_(False)
            if done.get("free", True):
                layer.lora.requires_grad_(True)
            fresh = done.get("fresh", False) and not layer.lora.B.any()
            if fresh or done.get("everybody", False) or (done.get("fill", True) and not layer.lora.A.any()):
                nn.init.uniform_(layer.lora.A, -0.1, 0.1)
        parameters = [p for p in model.parameters() if p.requires_grad] or [torch.zeros(1, requires_grad=True)]
        return torch.optim.Adam(parameters, lr=done.get("lr", 0.01))

    return treat


def _frees_everything(model):
    model.requires_grad_(True)
    return torch.optim.Adam(model.parameters(), lr=0.01)


def _returns_nothing(model):
    _the_cure(model)


def _optimizer_first(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.param_groups[0]["params"] = [p for p in model.parameters() if p.requires_grad]
    _the_cure(model)
    return optimizer


cure = Task(
    title="Cure them",
    reference=cure,
    stages={
        "patient 1": _healed(1),
        "patient 5": _healed(5),
        "patient 4": _healed(4),
        "patient 7": _healed(7),
        "a healthy model stays as it is": _leaves_the_healthy_alone,
    },
    hints=[
        "What was wrong with each of the four, and by what can one see it in the model itself? One function for all: look, and treat what is ill.",
        "lora_layers(model) gives the adapted layers: layer.linear is what was pretrained, layer.lora has A and B. Is layer.linear itself a LinearWithLoRA? Does lora require a gradient? Are A and B both zero?",
        "Unwrap: layer.linear = layer.linear.linear. Freeze: layer.linear.requires_grad_(False). Free: layer.lora.requires_grad_(True). Fill A: nn.init.uniform_ in ±1/√in_features. And the optimizer last of all.",
    ],
    misconceptions=[
        (_returns_nothing, "Return an optimizer for what learns now"),
        (_but(free=False), "Of patient 1 the doctor still says: fc1.A, fc1.B, fc2.A, fc2.B can't learn"),
        (_but(freeze=False), "Of patient 5 the doctor still says: also learns: fc1.linear.bias, fc2.linear.bias"),
        (_but(fill=False), "Of patient 4 the doctor still says: A and B of fc1 are both zero"),
        (_but(unwrap=False), "Of patient 7 the doctor still says: LoRA inside LoRA"),
        (_but(everybody=True), "A model that is healthy and has learned something has lost it: fc1.lora.A"),
        (_but(fresh=True), "A model that is healthy and is fresh was changed: fc1.lora.A, fc2.lora.A."),
        (_but(lr=1e-6), "The doctor finds nothing any more, but patient 1 reads"),
        (_frees_everything, "Of patient 1 the doctor still says: also learns"),
        (_optimizer_first, "Of patient 1 the doctor still says: the optimizer does not hold"),
    ],
    praise="Four illnesses, one practice, and nobody harmed.",
)
