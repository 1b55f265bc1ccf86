"""What the doctor of ``checkup`` looks for: each function gets the patient, and says in a sentence what is wrong."""

import math

import torch

from .checks import weight_of
from .file_checkup import file_problems
from .find import joined, listed, owners
from .peft_config import PeftConfig
from .peft_view import PeftLayer, is_peft_model, peft_options, saved_by_peft

CUT_OFF = (
    "checkpoint(…, use_reentrant=True) passes none on where a block's input needs none, as behind frozen embeddings; "
    "use_reentrant=False does, and in transformers model.enable_input_require_grads() helps, too"
)


def _few(names):
    """Some names for a report: fewer, where they are as long as transformers' are."""
    names = list(names)
    return listed(names, 5 if sum(map(len, names[:5])) < 120 else 2)


def setting(layer):
    """How a layer is set, where it is not simply on."""
    if not layer.enabled:
        return "switched off"
    if layer.merged is not None:
        return "merged"
    return "" if layer.lora.strength == 1 else f"strength {layer.lora.strength:g}"


def _finite(patient):
    if not patient.X.is_floating_point() or patient.X.isfinite().all():
        if not math.isfinite(patient.loss):
            yield f"the loss is {patient.loss}: the training diverged; start anew at a lower learning rate"
    else:
        yield "X contains NaN or infinity"


def _nested(patient):
    if patient.nested:
        yield f"LoRA inside LoRA, in {_few(patient.nested)}: it was put in more than once; start from a fresh model"


def _frozen(patient):
    meant = {joined(name, own) for name, layer in patient.layers.items() for own in layer.fixed}
    frozen = [name for name, p in patient.adapter.items() if not p.requires_grad and name not in meant]
    if frozen and patient.by_peft and patient.file is not None:
        return  # an adapter that was loaded to be used, as PEFT does it
    if frozen and patient.by_peft and not any(layer.enabled for layer in patient.layers.values()):
        yield "all of LoRA is switched off, and frozen, as PEFT does it: model.enable_adapter_layers()"
    elif frozen and patient.by_peft:
        yield f"{_few(frozen)} can't learn: loaded without is_trainable=True, or frozen after LoRA went in?"
    elif frozen:
        yield f"{_few(frozen)} can't learn: frozen after LoRA went in? Freeze first, then put LoRA in"


def _others_learn(patient):
    inside = [name for name in patient.others if patient.plain(name).rpartition(".")[0] in patient.names]
    if inside:
        yield f"also learns: {_few(inside)}, in layers that LoRA should leave as they were; freeze all of them"
    outside = [name for name in patient.others if name not in inside]
    if outside:
        yield f"also learns: {_few(outside)}; freeze what was pretrained, and name a new head with learns=[…]"
    if is_peft_model(patient.model):
        saved = saved_by_peft(patient.model)
        unsaved = [name for name, p in patient.trainable.items() if id(p) not in saved]
        if unsaved:
            yield f"{_few(unsaved)} will not be in PEFT's file, and its training lost; name it in modules_to_save"


def _put_in_again(patient):
    """What a second ``get_peft_model`` on the same model leaves behind."""
    if is_peft_model(patient.model) and is_peft_model(patient.model.get_base_model()):
        yield "a PEFT model inside a PEFT model: no other model has the names in its file; start from a fresh model"
    options = peft_options(patient.model)
    if options.get("peft_type") != "LORA" or not options.get("target_modules"):
        return
    config = PeftConfig(options)
    unnamed = sorted(name for name in patient.names if not config.adapts(name))
    if unnamed:
        yield (
            f"{_few(unnamed)}: LoRA is in there, and target_modules does not name it, so it will not be loaded: put "
            "in twice, with other targets? Start from a fresh model"
        )


def _arrived(patient):
    """An adapter that is said to have learned something, and adds nothing."""
    empty = [name for name, layer in patient.layers.items() if layer.enabled and not layer.lora.delta().any()]
    if patient.trained and empty:
        yield (
            f"{_few(empty)} adds nothing, although it is trained: was its file loaded, with the right names? "
            "PEFT only warns of names that it does not find"
        )


def _as_in_the_file(patient):
    if patient.file is not None:
        yield from file_problems(patient.file, patient.layers)


def _silent(patient):
    """Layers from which nothing will be learned, although they want to."""
    if patient.trained:
        return
    silent = {}
    for name, layer in patient.layers.items():
        lora = layer.lora
        if not (lora.A.any() or lora.B.any()):
            yield f"A and B of {name} are both zero, so neither gets a gradient and nothing will ever be learned"
        elif lora.B.requires_grad and not patient.gradients.get(id(lora.B), torch.zeros(1)).any():
            silent.setdefault(setting(layer), []).append(name)
    for state, names in silent.items():
        why = state or CUT_OFF * patient.cut_off or "is it used, and not detached or under no_grad?"
        yield f"B of {_few(names)} gets no gradient: {why}"


def _start(patient):
    if patient.trained or patient.nested:
        return
    if peft_options(patient.model).get("init_lora_weights", True) not in (True, "loftq"):
        return  # PiSSA, OLoRA and others start elsewhere, and change W to make up for it
    started = [name for name, layer in patient.layers.items() if _adds_nothing(layer)]
    wrong = [name for name in patient.layers if name not in started]
    if wrong:
        yield (
            f"B of {_few(wrong)} is not zero, so the model does not start as the pretrained one; "
            "if it has been trained already, say trained=True"
        )
    elif patient.difference and math.isfinite(patient.difference) and not patient.learns:
        yield "B is zero, and yet the output differs from the pretrained model's: something else has changed"
    for name, layer in patient.layers.items():
        if name in started and layer.lora.B.any():
            continue  # a start of another kind, which has its own measure
        size = layer.lora.A.square().mean().sqrt().item() * (3 * layer.in_features) ** 0.5
        if layer.lora.A.numel() >= 64 and size and not 0.1 < size < 2:  # a few numbers may differ by chance
            yield f"A of {name} is {size:.2g} times as large as ±1/√in_features: filled with the wrong fan?"


def _adds_nothing(layer):
    """Whether the layer acts with W to the bit. It can do so although B is not zero."""
    if isinstance(layer, PeftLayer):
        return not layer.lora.delta().any()  # its W may be packed
    total = layer.total_weight()
    return torch.equal(total, weight_of(layer.linear).to(total.dtype))


def _scale(patient):
    for name, layer in patient.layers.items():
        lora = layer.lora
        if lora.scale > 8:
            cause = "alpha itself, not alpha/r" if lora.scaling == "alpha" else lora.scaling
            yield f"the scale of {name} is {lora.scale:g}, {cause}: 1 or 2 are usual, and it acts like a learning rate"


def _optimizer(patient):
    if patient.optimizer is None:
        return
    held = {id(p) for group in patient.optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in patient.trainable.items() if id(parameter) not in held]
    if missing:
        yield f"the optimizer does not hold {_few(missing)}: made before LoRA went in? Make it afterwards"


def _precision(patient):
    """Steps that are smaller than the distance between the numbers that A and B can hold."""
    for group in patient.optimizer.param_groups if patient.optimizer else ():
        lr, stuck = group["lr"], {}
        for name, parameter in patient.trainable.items():
            held = any(parameter is other for other in group["params"])
            if "betas" in group and held and id(parameter) in patient.halves:  # a step of Adam's is about lr
                now = parameter.detach()
                stays = (now + lr == now) & (now - lr == now)
                stuck[name] = stays.double().mean().item()
        worst = max(stuck, key=stuck.get, default=None)
        if worst and stuck[worst] > 0.25:
            kind = str(patient.trainable[worst].dtype).removeprefix("torch.")
            yield (
                f"at lr={lr:g} a step is too small for {kind}: {stuck[worst]:.0%} of {worst} would not move; keep A "
                "and B in float32 (dtype=torch.float32 when LoRA goes in) or take a higher rate"
            )


def _tied(patient):
    known = owners(patient.model)
    for name, layer in patient.layers.items():
        sharing = known.get(id(getattr(layer.linear, "weight", None)), [])
        if len(sharing) > 1:
            yield f"{name} shares its weight ({_few(sharing)}): merging would change the others, too; untie it first"


def _changed(patient):
    """Whether everything that was pretrained still is what it was; if not, whether an update was added into it."""
    if patient.pretrained is None or patient.nested:
        return
    if peft_options(patient.model).get("init_lora_weights", True) in ("pissa", "olora", "corda", "mica", "loftq"):
        return
    before = dict(patient.pretrained.named_parameters(remove_duplicate=False))
    for full_name, now in patient.model.named_parameters():
        name = patient.plain(full_name)
        layer_name, _, own = name.rpartition(".")
        layer = patient.layers.get(layer_name)
        known = id(now) in patient.halves | patient.whole or ".lora_" in full_name or "token_adapter" in full_name
        if known or patient.means(name) or (layer is not None and layer.merged is True):
            continue  # PEFT merges in place, and takes it out again
        if name not in before or before[name].shape != now.shape:
            yield f"{name} is not in the pretrained model in this shape; pass a copy of the same model"
        elif not torch.equal(now, before[name]) and layer is not None and own == "weight":
            yield _how_it_changed(layer_name, layer, weight_of(patient.pretrained.get_submodule(layer_name)))
        elif not torch.equal(now, before[name]):
            yield f"{name} has changed"


def _how_it_changed(name, layer, before):
    """One sentence on a weight that is no longer the pretrained one: was the update written into it, and how often?"""
    change = (weight_of(layer.linear) - before).detach()
    delta = layer.lora.delta().detach().T
    times = ((change * delta).sum() / delta.square().sum().clamp(min=1e-30)).item()
    rounding = torch.finfo(change.dtype).eps * before.norm()
    if (change - times * delta).norm() > 0.01 * change.norm() + rounding:
        return f"the frozen weight of {name} is not the pretrained one"
    often = "once" if abs(times - 1) < 0.05 else f"{times:.2g} times"
    still = " and is still added beside it" if layer.enabled else ""
    return f"the update of {name} was written into its weight {often}{still}"


CHECKS = (
    *(_finite, _nested, _put_in_again, _frozen, _others_learn, _silent, _start, _scale, _optimizer, _precision),
    *(_tied, _changed, _arrived, _as_in_the_file),
)
