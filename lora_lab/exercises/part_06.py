"""The exercises of notebook 06."""

import copy
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..adapt import load_lora_state, lora_state, replace_linear_with_lora
from ..adapter_file import AdapterFileError, load_adapter
from ..find import lora_layers
from .engine import Exercise
from .guesses import Guess
from .kinds import Task, require

outputs_off = Guess("outputs off, in percent")
made_smaller = Guess("of the four are made smaller")


def merged(W, A, B, scale):
    return W + scale * (A @ B).T


def _layer(m, n, rank, scale):
    random = torch.Generator().manual_seed(m)
    W, A, B = (torch.randn(*shape, generator=random) for shape in ((n, m), (m, rank), (rank, n)))
    return W, A, B, scale


merged = Exercise(
    title="Merge by hand",
    reference=merged,
    cases=[
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0]]), 0.5),
        _layer(6, 4, 2, 2.0),
        _layer(5, 5, 3, 0.5),
    ],
    hints=[
        "Merging adds the update to the weight. Do the two have the same shape?",
        "A @ B is (in, out), and torch keeps W as (out, in).",
        "W + scale * (A @ B).T",
    ],
    misconceptions=[
        (
            lambda W, A, B, s: W + s * (A @ B),
            "A @ B is (in, out) and W is (out, in): transpose it, once. Where the layer is square nothing complains, and the result is wrong.",
        ),
        (
            lambda W, A, B, s: W + s * (A @ B).reshape(W.shape),
            "reshape pours the numbers row by row into the new shape and mixes inputs with outputs. To turn a matrix, use .T.",
        ),
        (
            lambda W, A, B, s: W + (s * (A @ B) if W.shape == (A @ B).shape else s * (A @ B).T),
            "It is transposed always, not only where the shapes ask for it: in a square layer the shapes say nothing.",
        ),
        (
            lambda W, A, B, s: W + s * s * (A @ B).T,
            "The scale counts twice: once on A, say, and once on the product.",
        ),
        (lambda W, A, B, s: W + (A @ B).T, "The scale is missing: the update is s · A B."),
        (lambda W, A, B, s: s * (A @ B).T, "That is the update alone. Add it to W."),
        (lambda W, A, B, s: W - s * (A @ B).T, "Subtracting takes an update out again. Merging adds it."),
        (
            lambda W, A, B, s: s * W + (A @ B).T,
            "The scale is on W there. It belongs to the update, and W stays as it is.",
        ),
        (lambda W, A, B, s: s * (W + (A @ B).T), "The scale belongs to the update alone; W stays as it is."),
        (
            lambda W, A, B, s: W.T + s * (A @ B),
            "The numbers are right and lie in (in, out). torch wants the merged weight as (out, in), like W.",
        ),
        (
            lambda W, A, B, s: W + s / A.shape[1] * (A @ B).T,
            "The scale is alpha/rank already. Don't divide by the rank again.",
        ),
        (
            lambda W, A, B, s: W @ (s * (A @ B).T),
            "The update is added to the weight, not multiplied with it.",
        ),
    ],
    praise="Added once, it costs nothing ever after. (B.T @ A.T is the same thing.)",
)


def add_adapters(A1, B1, A2, B2):
    return torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0)


def _two(m, n, first, second):
    random = torch.Generator().manual_seed(n)
    shapes = ((m, first), (first, n), (m, second), (second, n))
    return tuple(torch.randn(*shape, generator=random) for shape in shapes)


def _observe_sum(answer, A1, B1, A2, B2):
    A, B = (torch.as_tensor(half) for half in answer(A1, B1, A2, B2))
    product = A @ B
    return {"the shape of A @ B": str(tuple(product.shape)), "A @ B": _judge(product, A1, B1, A2, B2)}


def _judge(product, A1, B1, A2, B2):
    """What a product is, in words: the sum of the two updates, or one of its usual substitutes."""
    first, second = A1 @ B1, A2 @ B2
    known = {
        "A1 @ B1 + A2 @ B2": first + second,
        "half of A1 @ B1 + A2 @ B2": (first + second) / 2,
        "A1 @ B1 alone": first,
        "A2 @ B2 alone": second,
        "A1 @ B1 - A2 @ B2": first - second,
    }
    if len(first) and (first + second).dim() == 2:
        U, S, Vh = torch.linalg.svd(first + second, full_matrices=False)
        rank = max(A1.shape[1], A2.shape[1])
        known["A1 @ B1 + A2 @ B2, cut to the larger of the two ranks"] = U[:, :rank] * S[:rank] @ Vh[:rank]
    if A1.shape == A2.shape:
        known["(A1 + A2) @ (B1 + B2)"] = (A1 + A2) @ (B1 + B2)
        known["(A1 + A2) @ (B1 + B2), a quarter of it"] = (A1 + A2) @ (B1 + B2) / 4
        known["A1 @ B2 + A2 @ B1"] = A1 @ B2 + A2 @ B1
    for name, value in known.items():
        if product.shape == value.shape and torch.allclose(product, value, atol=1e-4):
            return name
    return "something else"


add_adapters = Exercise(
    title="Add two adapters",
    reference=add_adapters,
    cases=[_two(6, 5, 2, 2), _two(7, 4, 2, 3)],
    observe=_observe_sum,
    hints=[
        "The sum of a rank-2 and a rank-3 update has rank 5. How wide must the new A be?",
        "Put A1 and A2 beside each other. Which columns of A meet which rows of B in A @ B?",
        "torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0)",
    ],
    misconceptions=[
        (
            lambda A1, B1, A2, B2: (A1 + A2, B1 + B2),
            "(A1 + A2) @ (B1 + B2) holds A1 @ B2 and A2 @ B1 as well, which mean nothing. And it fails where the ranks differ.",
        ),
        (
            lambda A1, B1, A2, B2: ((A1 + A2) / 2, (B1 + B2) / 2),
            "Averaging A and B is not averaging the updates: the product mixes A1 with B2 and A2 with B1. And it fails where the ranks differ.",
        ),
        (lambda A1, B1, A2, B2: (A1, B1), "That is the first adapter alone."),
        (lambda A1, B1, A2, B2: (A2, B2), "That is the second adapter alone."),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=1), torch.cat([B2, B1], dim=0)),
            "The order differs: with A1 beside A2, the rows of B1 must stand above those of B2.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=1), torch.cat([B1, B2], dim=0) / 2),
            "That is the average of the two updates: half of each. Asked for is their sum.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2]), torch.cat([B1, B2])),
            "Without dim, torch.cat puts rows below rows. That is right for B; A grows by columns, dim=1.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.stack([A1, A2]), torch.stack([B1, B2])),
            "stack makes a new axis, so A @ B is two updates and nothing adds them. cat joins along an axis that is there.",
        ),
        (
            lambda A1, B1, A2, B2: (torch.cat([A1, A2], dim=0), torch.cat([B1, B2], dim=1)),
            "The wrong sides: A grows by columns, dim=1, and B by rows, dim=0. In A @ B columns of A meet rows of B.",
        ),
    ],
    praise="Ranks add up, and the sum is exact.",
)


def write_adapter(model, folder):
    tensors, layers = {}, lora_layers(model)
    for name, layer in layers.items():
        for half in "AB":
            matrix = getattr(layer.lora, half).detach().T.contiguous()
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = matrix
    lora = next(iter(layers.values())).lora
    config = {"peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(layers)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


def read_adapter(model, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    live = {}
    for name, layer in lora_layers(model).items():
        for half in "AB":
            live[f"base_model.model.{name}.lora_{half}.weight"] = getattr(layer.lora, half)
    for key, parameter in live.items():
        if key not in tensors or tensors[key].T.shape != parameter.shape:
            raise ValueError(f"{key} is missing in {folder}, or has another shape")
    for key, parameter in live.items():
        parameter.data.copy_(tensors[key].T)


def _net(rank=2, seed=0, targets=("fc1", "inner.fc2")):
    """A small model with a LoRA in it that has learned something, and a layer whose name ends as another's."""
    random = torch.Generator().manual_seed(seed)
    model = nn.ModuleDict(
        {"fc1": nn.Linear(6, 5), "inner": nn.ModuleDict({"fc2": nn.Linear(5, 5)}), "fc2": nn.Linear(5, 3)}
    )
    base = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=base))
    replace_linear_with_lora(model, rank, alpha=2 * rank, targets=list(targets))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for half in (layer.lora.A, layer.lora.B):
                half.copy_(torch.randn(half.shape, generator=random))
    return model


def _outputs(model):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    return model["fc2"](torch.relu(model["inner"]["fc2"](torch.relu(model["fc1"](x)))))


def _written(write, model, folder):
    write(model, folder)
    present = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        require(name in present, f"There is no {name} in the folder; there is {', '.join(present) or 'nothing'}.")
    return folder


def _tensors(write, read):
    with tempfile.TemporaryDirectory() as place:
        model = _net()
        before = lora_state(model)
        tensors = load_file(_written(write, model, Path(place) / "a" / "new") / "adapter_model.safetensors")
    changed = any(not torch.equal(value, before[key]) for key, value in lora_state(model).items())
    require(not changed, "Writing has changed the model's own A or B.")
    wanted = {}
    for name, layer in lora_layers(model).items():
        for half in "AB":
            wanted[f"base_model.model.{name}.lora_{half}.weight"] = getattr(layer.lora, half).T
    missing, more = [key for key in wanted if key not in tensors], [key for key in tensors if key not in wanted]
    require(
        not missing and not more,
        f"The file lacks {missing[:1] or 'nothing'} and has {more[:1] or 'nothing'} that does not belong there.",
    )
    for key, matrix in wanted.items():
        shape = tuple(tensors[key].shape)
        require(
            shape == tuple(matrix.shape), f"{key} is {shape}, and PEFT has it as {tuple(matrix.shape)}: turn it, .T."
        )
        require(
            torch.equal(tensors[key], matrix),
            f"{key} has the right shape and not the right numbers. .T turns a matrix, reshape mixes it.",
        )


def _config(write, read):
    for rank, targets in ((2, ("fc1", "inner.fc2")), (3, ("fc1",))):
        model = _net(rank, targets=targets)
        with tempfile.TemporaryDirectory() as place:
            text = (_written(write, model, Path(place)) / "adapter_config.json").read_text()
        try:
            config = json.loads(text)
        except ValueError:
            require(False, f"adapter_config.json is not JSON: {text[:40]!r}. json.dumps writes it.")
        require(isinstance(config, dict), "adapter_config.json is to hold one dictionary.")
        for key, value in (("peft_type", "LORA"), ("r", rank), ("lora_alpha", 2 * rank)):
            require(
                config.get(key) == value,
                f"In the configuration {key!r} is to be {value!r}, and it is {config.get(key)!r}.",
            )
        require(
            "target_modules" in config,
            "The configuration does not say target_modules: which layers the adapter is for.",
        )


def _others_can_read(write, read):
    for rank, targets in ((2, ("fc1", "inner.fc2")), (3, ("fc1",))):
        model = _net(rank, targets=targets)
        plain = _net(rank, targets=targets)
        for name, layer in lora_layers(plain).items():
            plain.set_submodule(name, layer.linear)
        with tempfile.TemporaryDirectory() as place:
            folder = _written(write, model, Path(place))
            try:
                load_adapter(plain, folder)
            except AdapterFileError as error:
                require(False, f"A strict reader refuses it: {str(error).replace(str(folder), 'the folder')}")
        off = (_outputs(plain) - _outputs(model)).abs().max().item()
        require(off < 1e-5, f"Read by load_adapter, the model's outputs are off by {off:.2g}.")


def _reads_back(write, read):
    for rank, targets in ((2, ("fc1", "inner.fc2")), (3, ("fc1",))):
        model, other = _net(rank, targets=targets), _net(rank, seed=5, targets=targets)
        with tempfile.TemporaryDirectory() as place:
            read(other, _written(_right_write, model, Path(place)))
        off = (_outputs(other) - _outputs(model)).abs().max().item()
        require(
            off < 1e-5, f"After read_adapter the outputs are off by {off:.2g} from those of the model that was written."
        )
        learning = all(layer.lora.A.requires_grad for layer in lora_layers(other).values())
        require(learning, "What was read can't learn on: A no longer requires a gradient.")


def _refuses(write, read):
    both = ("fc1", "inner.fc2")
    for said, (rank, targets) in {
        "of rank 3": (3, both),
        "for fc1 alone": (2, ("fc1",)),
        "of rank 1": (1, both),
    }.items():
        model, other = _net(rank, targets=targets), _net(seed=5)
        before = lora_state(other)
        with tempfile.TemporaryDirectory() as place:
            folder = _written(_right_write, model, Path(place))
            try:
                read(other, folder)
            except Exception:
                after = lora_state(other)
            else:
                require(
                    False,
                    f"A file {said} was read into a model of rank 2 with LoRA in two layers, without a word. Raise an error.",
                )
        changed = [
            key
            for key, value in after.items()
            if value.shape != before[key].shape or not torch.equal(value, before[key])
        ]
        require(
            not changed,
            f"A file {said} is refused, but {', '.join(changed[:1])} has changed already. Look at everything first, then copy.",
        )


_right_write = write_adapter


def _rewritten(change, config=None):
    """A writer that changes the tensors by name, or the configuration, of a right file."""

    def write(model, folder):
        _right_write(model, folder)
        file = folder / "adapter_model.safetensors"
        tensors = dict(change(key, value) for key, value in load_file(file).items())
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        options = json.loads((folder / "adapter_config.json").read_text()) | (config or {})
        (folder / "adapter_config.json").write_text(json.dumps(options))

    return write


def _same(key, value):
    return key, value


def _one_file(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(lora_state(model), folder / "adapter.pt")


def _python_text(model, folder):
    _right_write(model, folder)
    file = folder / "adapter_config.json"
    file.write_text(str(json.loads(file.read_text())))


def _reads_by_reshape(model, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, layer in lora_layers(model).items():
        for half in "AB":
            own = getattr(layer.lora, half)
            own.data = tensors[f"base_model.model.{name}.lora_{half}.weight"].reshape(own.shape)


def _reads_as_it_goes(model, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, layer in lora_layers(model).items():
        for half in "AB":
            getattr(layer.lora, half).data.copy_(tensors[f"base_model.model.{name}.lora_{half}.weight"].T)


def _leaves_it_to_copy(model, folder):
    before = lora_state(model)
    try:
        _reads_as_it_goes(model, folder)
    except Exception as error:
        load_lora_state(model, before)
        raise ValueError("does not fit") from error


def _reads_what_is_there(model, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, layer in lora_layers(model).items():
        for half in "AB":
            key = f"base_model.model.{name}.lora_{half}.weight"
            if key in tensors:
                getattr(layer.lora, half).data = tensors[key].T


def _reads_nothing(model, folder):
    load_lora_state(copy.deepcopy(model), lora_state(model))


write_and_read = Task(
    title="The adapter file",
    reference=(write_adapter, read_adapter),
    stages={
        "a file of tensors, named and turned as PEFT has them": _tensors,
        "a configuration that says what they are": _config,
        "a strict reader accepts it, with the same outputs": _others_can_read,
        "read back, the same outputs": _reads_back,
        "a file that does not fit is refused, and nothing has changed": _refuses,
    },
    hints=[
        "lora_layers(model) gives the adapted layers by name. The cells above show the two files of a folder: names, shapes, and what the configuration holds.",
        'The key is f"base_model.model.{name}.lora_{half}.weight", the matrix is layer.lora.A.detach().T.contiguous(), and so for B. save_file writes, load_file reads.',
        "In read_adapter: first go through all keys and compare shapes, and raise ValueError where one does not fit; then copy in a second loop: layer.lora.A.data.copy_(tensors[key].T).",
    ],
    misconceptions=[
        ((_one_file, read_adapter), "There is no adapter_model.safetensors in the folder; there is adapter.pt."),
        (
            (_rewritten(lambda key, value: (key.removeprefix("base_model.model."), value)), read_adapter),
            "The file lacks ['base_model.model.fc1.lora_A.weight'] and has ['fc1.lora_A.weight'] that does not belong there.",
        ),
        (
            (_rewritten(lambda key, value: (key, value.T)), read_adapter),
            "base_model.model.fc1.lora_A.weight is (6, 2), and PEFT has it as (2, 6): turn it, .T.",
        ),
        (
            (_rewritten(lambda key, value: (key, value.T.reshape(value.shape))), read_adapter),
            "base_model.model.fc1.lora_A.weight has the right shape and not the right numbers.",
        ),
        (
            (_rewritten(_same, {"lora_alpha": 1}), read_adapter),
            "In the configuration 'lora_alpha' is to be 4, and it is 1.",
        ),
        ((_rewritten(_same, {"r": 2}), read_adapter), "In the configuration 'r' is to be 3, and it is 2."),
        ((_python_text, read_adapter), "adapter_config.json is not JSON"),
        ((_rewritten(_same, {"target_modules": ["fc1", "fc2"]}), read_adapter), "A strict reader refuses it: "),
        (
            (_rewritten(_same, {"target_modules": ["fc1", "inner.fc2", "fc2"]}), read_adapter),
            "A strict reader refuses it: the folder: configuration and weights disagree on 'fc2'",
        ),
        ((write_adapter, _leaves_it_to_copy), "A file of rank 1 was read into a model of rank 2"),
        ((write_adapter, _reads_nothing), "After read_adapter the outputs are off by"),
        ((write_adapter, _reads_by_reshape), "After read_adapter the outputs are off by"),
        ((write_adapter, _reads_as_it_goes), "A file for fc1 alone is refused, but fc1.A has changed already."),
        ((write_adapter, _reads_what_is_there), "A file of rank 3 was read into a model of rank 2"),
    ],
    praise="PEFT reads this folder, and so does whoever you send it to.",
)
