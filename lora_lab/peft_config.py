"""``adapter_config.json`` by PEFT's rules: which layers an adapter is for, with which settings, and what is refused."""

import json
import re
from collections import Counter

import torch

from .checks import SCALINGS, positive_number, whole_number
from .find import is_called, joined, linear_layers


class AdapterFileError(ValueError):
    """An adapter file that can't be read as what it claims to be, or does not fit the model."""


class PeftConfig:
    """``adapter_config.json``: its options, and what they mean for a layer by PEFT's rules."""

    # What is understood here of PEFT's options.
    HONOURED = frozenset(
        {"peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "rank_pattern", "alpha_pattern"}
    )
    HONOURED |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
    HONOURED |= {"modules_to_save", "bias", "use_dora"}
    # Options that tell of the file's past or of training, and leave what it computes alone. fan_in_fan_out is among
    # them because the kind of layer decides: PEFT, too, corrects a file that contradicts the layer.
    WITHOUT_EFFECT = frozenset({"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode"})
    WITHOUT_EFFECT |= {"megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"}
    # These ways of initialising leave the pretrained weights alone, others (PiSSA, OLoRA, …) change them on loading.
    HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")
    KINDS = {  # noqa: RUF012
        "rank_pattern": (dict, "an object of names and ranks"),
        "alpha_pattern": (dict, "an object of names and alphas"),
        "use_rslora": (bool, "true or false"),
        "use_dora": (bool, "true or false"),
        "modules_to_save": (list, "a list of names"),
        "layers_to_transform": ((int, list), "a number or a list of numbers"),
        "layers_pattern": ((str, list), "a name or a list of names"),
    }

    def __init__(self, options):
        self.options = options

    @classmethod
    def read(cls, path):
        """The configuration in a file, refused if it asks for anything that is not honoured here."""
        try:
            options = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise AdapterFileError(
                f"{path} does not exist; an adapter is two files, a configuration and weights"
            ) from None
        except (ValueError, RecursionError) as error:
            raise AdapterFileError(f"{path} is not JSON: {error}") from None
        if not isinstance(options, dict):
            kind = type(options).__name__
            raise AdapterFileError(f"{path} holds a {kind}, but an adapter's options are a JSON object")
        try:
            cls(options).check()
        except ValueError as error:
            raise AdapterFileError(f"{path}: {error}") from None
        return cls(options)

    @classmethod
    def describing(cls, model, layers):
        """The configuration that makes PEFT compute what these adapted layers compute."""
        loras = {name: layer.lora for name, layer in layers.items()}
        rslora = all(lora.scaling == "alpha/sqrt(r)" for lora in loras.values())
        ranks = {name: lora.rank for name, lora in loras.items()}
        alphas = {name: _tidy(lora.alpha if rslora else _plain_alpha(lora)) for name, lora in loras.items()}
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        dropouts = {lora.dropout for lora in loras.values()}
        if len(dropouts) > 1:
            raise ValueError(f"the layers have dropouts {sorted(dropouts)}, but PEFT's format has one for all of them")
        with_magnitudes = {"magnitude" in layer.adapter() for layer in layers.values()}
        if len(with_magnitudes) > 1:
            raise ValueError("some layers have DoRA's magnitudes and others have none; PEFT's format has all or none")
        return cls(
            {
                "peft_type": "LORA",
                "r": rank,
                "lora_alpha": alpha,
                "use_rslora": rslora,
                "rank_pattern": {_exactly(name): value for name, value in ranks.items() if value != rank},
                "alpha_pattern": {_exactly(name): value for name, value in alphas.items() if value != alpha},
                "target_modules": _targets(list(layers), linear_layers(model)),
                "fan_in_fan_out": any(not isinstance(layer.linear, torch.nn.Linear) for layer in layers.values()),
                "base_model_name_or_path": getattr(getattr(model, "config", None), "name_or_path", None) or None,
                "lora_dropout": dropouts.pop(),
                "inference_mode": True,
            }
            | ({"use_dora": True} if with_magnitudes.pop() else {})
        )

    def check(self):
        """ValueError if an option is not honoured here, is missing or is of the wrong kind."""
        options = self.options
        if options.get("peft_type") != "LORA":
            raise ValueError(f"'peft_type' is {options.get('peft_type')!r}, but only 'LORA' is read here")
        for key, value in options.items():
            if key not in self.HONOURED | self.WITHOUT_EFFECT and not self._is_off(key, value):
                raise ValueError(f"{key!r} is {value!r}, which is not honoured here; load it with PEFT")
        for key in ("r", "lora_alpha", "target_modules"):
            if options.get(key) is None:
                raise ValueError(f"{key!r} is missing; guessing it could change what the adapter computes")
        for key, (kind, said) in self.KINDS.items():
            value = options.get(key)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{key!r} is {value!r}, not {said}")
        for key, kind in (("modules_to_save", str), ("layers_pattern", str), ("layers_to_transform", int)):
            if not all(isinstance(item, kind) for item in self._several(key)):
                raise ValueError(f"{key!r} is {options[key]!r}, not {self.KINDS[key][1]}")
        self._check_numbers()
        self._check_patterns()
        if options.get("bias", "none") not in ("none", "all", "lora_only"):
            raise ValueError(f"'bias' is {options['bias']!r}; it is 'none', 'all' or 'lora_only'")

    def _check_numbers(self):
        ranks = [("r", self.options["r"]), *(self.options.get("rank_pattern") or {}).items()]
        alphas = [("lora_alpha", self.options["lora_alpha"]), *(self.options.get("alpha_pattern") or {}).items()]
        for key, rank in ranks:
            whole_number(key, rank)
        for key, alpha in alphas:
            positive_number(key, alpha, "the scale is a multiple of it")

    def _check_patterns(self):
        patterns = [(key, name) for key in ("rank_pattern", "alpha_pattern") for name in self.options.get(key) or {}]
        patterns += [("layers_pattern", pattern) for pattern in self._several("layers_pattern")]
        modules = ("target_modules", "exclude_modules")  # a list of these holds names
        patterns += [(key, self.options[key]) for key in modules if isinstance(self.options.get(key), str)]
        for key, pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{key!r} has {pattern!r}, which is no regular expression: {error}") from None

    def adapts(self, name):
        """Whether the layer of this name is adapted."""
        if self._means("exclude_modules", name) or self.carries(name):
            return False
        return self._means("target_modules", name) and self._at_its_depth(name)

    def carries(self, name):
        """Whether a module or parameter of this name comes whole, beside the adapter (``modules_to_save``)."""
        parts = name.split(".")
        inside = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return any(is_called(module, short) for module in inside for short in self._several("modules_to_save"))

    def settings(self, name):
        """Rank, alpha and all else of one layer: of the patterns, the first that matches counts."""

        def own(option, patterns):
            for pattern, value in (self.options.get(patterns) or {}).items():
                if re.match(rf"(.*\.)?({pattern})$", name):
                    return value
            return self.options[option]

        return {
            "rank": own("r", "rank_pattern"),
            "alpha": own("lora_alpha", "alpha_pattern"),
            "scaling": "alpha/sqrt(r)" if self.options.get("use_rslora") else "alpha/r",
            "dropout": self.options.get("lora_dropout") or 0.0,
        }

    def beside(self, state, adapted):
        """The names of a plain state that come with an adapter of these layers: carried modules, trained biases."""
        bias = self.options.get("bias", "none")
        named = {name for name in state if self.carries(name)}
        if bias == "all":
            named |= {name for name in state if name.rpartition(".")[2] == "bias"}
        if bias == "lora_only":
            named |= {joined(layer, "bias") for layer in adapted} & set(state)
        return named

    def _is_off(self, key, value):
        if key == "init_lora_weights":
            return value in self.HARMLESS_STARTS
        return value is None or value is False or value in ([], {})

    def _several(self, key):
        """An option that is one thing or a list of them, as a list."""
        value = self.options.get(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    def _means(self, key, name):
        """Whether a list of names, or a regular expression, means this layer."""
        patterns = self.options.get(key) or []
        if isinstance(patterns, str):
            return re.fullmatch(patterns, name) is not None
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(f"{key!r} is {patterns!r}, but it is a list of names or one regular expression")
        return any(is_called(name, pattern) for pattern in patterns)

    def _at_its_depth(self, name):
        """Whether the layer stands in one of the blocks that ``layers_to_transform`` counts, if it counts any.

        A layer that is named in full is meant wherever it stands.
        """
        wanted, targets = self._several("layers_to_transform"), self.options["target_modules"]
        if not wanted or isinstance(targets, str) or name in targets:
            return True
        for pattern in self._several("layers_pattern") or [None]:
            ahead = r".*?\.[^.]*" if pattern is None else rf"(?:.*?\.)?{pattern}"
            if found := re.match(rf"{ahead}\.(\d+)\.", name):
                return int(found[1]) in wanted
        return False


def _plain_alpha(lora):
    """The alpha that gives the same scale under alpha/r."""
    return lora.alpha if lora.scaling == "alpha/r" else SCALINGS[lora.scaling](lora.alpha, lora.rank) * lora.rank


def _tidy(number):
    return int(number) if number == int(number) else number


def _exactly(name):
    """A pattern for this name alone: PEFT takes a bare name for the end of a longer one, too."""
    return f"^{re.escape(name)}"


def _targets(names, layers):
    """The names as a list, or as one regular expression where PEFT would take the list to mean other layers, too."""
    others = set(layers) - set(names)
    ambiguous = any(is_called(other, name) for other in others for name in names)
    return "|".join(map(re.escape, names)) if ambiguous else names
