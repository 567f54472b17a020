"""This module reads adapter_config.json of Hugging Face's `peft` for LoRAs that compute here exactly what they compute
there.

Every key is handled as in `peft` (version 0.21) or refused: in a pattern the first key that, as a regular expression,
matches the end of a module's name applies; tensors of a module that the config does not target are refused, as `peft`
would not load them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft_vision.core.output import one_line
from peft_vision.core.records import Unreadable, read_json

_SUPPORTED = {  # keys that may be set, with the values that are accepted
    "bias": ("none",),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (["head"],),
    "use_rslora": (False, True, None),
    "use_dora": (False, True, None),
    # these leave the backbone's weights unchanged; pissa, olora, corda, loftq and lora_ga change them to fit what the
    # LoRA begins with, and a file does not hold the changed weights
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
}
_READ = (
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
)
_MEANS_NOTHING = (  # for what the tensors compute
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
)
_NOTHING = (None, False, {}, [], "")
_LONGEST = 200  # characters of a pattern
_QUANTIFIED = r"(?<!\\)[*+?{]"
_COSTLY = re.compile(r"\)[*+?{]|\\\d|\(\?(?!:)")  # a repeated group, a backreference, a lookaround


class Settings:
    """The settings of one LoRA, read from an adapter_config.json."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raise Unreadable where the LoRA cannot be rebuilt exactly."""
        said = read_json(path)
        if not isinstance(said, dict):
            raise Unreadable(path, "it holds no JSON object")
        self._said: Mapping[str, Any] = said
        self._path = path
        self._check()

    @property
    def dropout(self) -> float:
        return self._said.get("lora_dropout") or 0.0

    @property
    def dora(self) -> bool:
        return bool(self._said.get("use_dora"))

    def scale(self, module: str, *, rank: int) -> float:
        """Return the factor of the update of `module`, which has this rank. Raise Unreadable where `peft` would not
        load it, or would give it another rank."""
        if not self._targets(module):
            raise Unreadable(self._path, f"it does not target {module}, of which there are tensors")
        config_rank = self._first("rank_pattern", module, self._said.get("r", 8))
        if config_rank != rank:
            raise Unreadable(self._path, f"{module} has rank {config_rank}, its tensors {rank}")
        alpha = self._first("alpha_pattern", module, self._said["lora_alpha"])
        return alpha / (math.sqrt(rank) if self._said.get("use_rslora") else rank)

    def _first(self, key: str, module: str, otherwise: Any) -> Any:
        """Return the value of the first key of the pattern `key` that fits `module`, or `otherwise` where none does."""
        patterns = self._said.get(key) or {}
        return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), otherwise)

    def _targets(self, module: str) -> bool:
        """Return whether the config targets `module`, by the rules of `peft`."""
        if _named(self._said.get("exclude_modules"), module):
            return False
        targets = self._said.get("target_modules")
        if isinstance(targets, str) and targets.lower() == "all-linear":
            return True
        if not _named(targets, module):
            return False
        layers = self._said.get("layers_to_transform")
        if isinstance(targets, str) or module in targets or layers in (None, []):
            return True
        patterns = _listed(self._said.get("layers_pattern"))
        # without a pattern `peft` requires a name before that of the blocks, so it finds no layer in a timm model
        every = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in patterns] or [
            r".*?\.[^.]*\.(?P<index>\d+)\."
        ]
        found = (re.match(pattern, module) for pattern in every)
        index = next((int(match["index"]) for match in found if match), None)
        return index in (layers if isinstance(layers, list) else [layers])

    def _check(self) -> None:
        said = self._said
        if said.get("peft_type") != "LORA":
            self._refuse(f"peft_type {one_line(said.get('peft_type'))}, where only LORA can be read")
        for key, value in said.items():
            supported = key in _SUPPORTED and any(value is allowed or value == allowed for allowed in _SUPPORTED[key])
            if not (
                key in _READ or key in _MEANS_NOTHING or supported or (value in _NOTHING and key not in _SUPPORTED)
            ):
                self._refuse(f"{one_line(key)}={one_line(repr(value))} is not supported")
        if "modules_to_save" not in said:
            self._refuse("no modules_to_save, so that `peft` loads no classifier")
        if not _is_number(said.get("lora_alpha")):
            self._refuse("no lora_alpha")
        if not _is_number(said.get("lora_dropout") or 0.0) or not 0 <= self.dropout < 1:
            self._refuse(f"lora_dropout={one_line(repr(said['lora_dropout']))} is no share below 1")
        for key in ("rank_pattern", "alpha_pattern"):
            patterns = said.get(key) or {}
            if not isinstance(patterns, dict) or not all(map(_is_harmless, patterns)):
                self._refuse(f"{key}={one_line(repr(patterns))} is not supported; names of modules are")
            if not all(map(_is_number, patterns.values())):
                self._refuse(f"{key}={one_line(repr(patterns))} should hold numbers")
        for key in ("target_modules", "exclude_modules", "layers_pattern"):
            value = said.get(key)
            if not (value is None or _are_texts(_listed(value))):
                self._refuse(f"{key}={one_line(repr(value))} is not supported")
            if not all(map(_is_harmless, _listed(value) if key == "layers_pattern" or isinstance(value, str) else ())):
                self._refuse(f"{key}={one_line(repr(value))} is not supported; simple patterns are")
        if said.get("target_modules") is None:
            self._refuse("no target_modules")
        layers = said.get("layers_to_transform")
        if not (
            layers is None or all(type(index) is int for index in (layers if isinstance(layers, list) else [layers]))
        ):
            self._refuse(f"layers_to_transform={one_line(repr(layers))} should be indices")

    def _refuse(self, reason: str) -> None:
        raise Unreadable(self._path, reason)


def _listed(value: Any) -> Any:
    """Return a single text as a list of one, a list as it is, and an empty list for nothing."""
    return [value] if isinstance(value, str) else value or []


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _named(names: str | Iterable[str] | None, module: str) -> bool:
    """Return whether `module` is one of `names`, or ends with one; a string is a regular expression for the whole
    name."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names or ())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_harmless(pattern: str) -> bool:
    """Return whether `pattern` is valid and can be matched in negligible time, whoever wrote it."""
    if len(pattern) > _LONGEST or _COSTLY.search(pattern) or len(re.findall(_QUANTIFIED, pattern)) > 4:
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
