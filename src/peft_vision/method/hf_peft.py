"""The methods of Hugging Face's `peft` for linear layers, as one method: `peft` builds its layers, and everything else
(training, resuming, saving, merging, combining) is this package's.

`config` is what the tuner's config class takes, with `peft_type` and `target_modules`:

    {peft_type: VERA, r: 256, target_modules: [qkv, proj]}

The backbone's weights never change. Where initial values move a part of them into the factors of a LoRA (PiSSA, Meng et
al., 2024, arXiv:2404.02948; OLoRA, arXiv:2406.01775), that part is kept in further factors, which are saved too:

    W' = W + scale * (up @ down - initial_up @ initial_down)
"""

import copy
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import ALL, Wrapper, innermost, linear
from peft_vision.core.config import ConfigError, component, nearest
from peft_vision.core.output import one_line
from peft_vision.core.trust import TooLarge
from peft_vision.method.base import Method

NAME = "default"  # of the one adapter that `peft` knows of
_WHOLE = ("qkv", "proj", "fc1", "fc2")  # standard names of whole matrices
_NAMED = 6  # matrices that an error names
_PROMPTS = "it learns prompts of a language model; method=vpt_deep learns those of a ViT"
_REFUSED = {
    "ADALORA": "it moves ranks between matrices by a schedule of its own",
    "ADAPTION_PROMPT": _PROMPTS,
    "LN_TUNING": "it trains norms, which method=layer_norm does",
    "POLY": "it needs the task of each image",
    "SHADOW": "it runs a second network beside a language model",
    "TRAINABLE_TOKENS": "it trains tokens of a vocabulary",
    "XLORA": "it mixes adapters that were trained before",
}
_DATA = ("eva", "corda", "loftq", "lora_ga")
_OWNED = {
    "bias": "biases are trained by method=combined 'method.parts=[hf_peft,bitfit]'",
    "exclude_modules": "method.config.target_modules names what is tuned",
    "layers_pattern": "method.layers chooses the layers",
    "layers_to_transform": "method.layers chooses the layers",
    "modules_to_save": "the head is trained and saved in any case",
    "layer_replication": "the layers are the backbone's",
    "target_parameters": "method.config.target_modules names what is tuned",
    "trainable_token_indices": "it is for a vocabulary",
    "inference_mode": "task=predict and peft_vision.load set it",
    "arrow_config": "it mixes adapters that were trained before",
    **dict.fromkeys(("task_type", "auto_mapping", "base_model_name_or_path", "revision"), "an export writes it"),
    **dict.fromkeys(("megatron_config", "use_qalora", "runtime_config"), "it is for other models than timm's"),
    **dict.fromkeys(
        ("eva_config", "corda_config", "loftq_config", "lora_ga_config"), "it needs data or quantised weights"
    ),
}
_PATH_END = re.compile(r"[\w.]+")
_PISSA = re.compile(r"pissa(_niter_\d{1,2})?")
_NOTHING = (None, False, "", "none", [], {})


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Return a config that names a type and a list of targets; raise ValueError otherwise."""
    kind, targets = map(given.get, ("peft_type", "target_modules"))
    if not isinstance(kind, str):
        raise ValueError("should name a peft_type, such as VERA")
    targets = [targets] if isinstance(targets, str) else targets
    if not isinstance(targets, list | tuple) or not targets or not all(isinstance(name, str) for name in targets):
        raise ValueError("should name matrices in target_modules, such as [qkv,proj], or all-linear")
    return {**given, "peft_type": kind.upper(), "target_modules": list(targets)}


@component
class HFPeft(Method):
    """A method of `peft`. `config`: as its config class takes it, with the type in `peft_type`. `target_modules` are
    ends of paths in timm's model such as attn.qkv, the standard names qkv, proj, fc1 and fc2, or all-linear: linear
    layers of the chosen layers."""

    config: Annotated[dict[str, Any], AfterValidator(_plain)]

    def check(self, where: str = "method") -> None:
        """Raise ConfigError if `peft` is not installed, does not know the type or one of its values, if the type is not
        one that could work here, or if `peft` would compute with another value on this machine."""
        made = self.settings(["blocks.0.attn.qkv"], where)
        factor = getattr(made, "boft_n_butterfly_factor", 1)
        if factor != 1 and not _has_butterflies():
            raise ConfigError(
                f"{where}.config.boft_n_butterfly_factor: got {one_line(factor)}, and peft computes 1 without its CUDA "
                "extension, which it cannot build here; set 1"
            )

    def settings(self, targets: Sequence[str], where: str = "method") -> Any:
        """Return the config of `peft` for matrices at these paths; raise ConfigError as `check` does."""
        if find_spec("peft") is None:
            raise ConfigError(f"{where}: it needs Hugging Face's peft: pip install 'peft-vision[hf_peft]'")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which misses its kernels
        from peft import PromptLearningConfig  # here, because it takes seconds that --help must not
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

        key, kind = f"{where}.config", self.config["peft_type"]
        configs = {str(name.value): made for name, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        prompts = [name for name, made in configs.items() if issubclass(made, PromptLearningConfig)]
        reasons = {**dict.fromkeys(prompts, _PROMPTS), **_REFUSED}
        if kind in reasons:
            raise ConfigError(f"{key}.peft_type: {kind} cannot be used: {reasons[kind]}")
        tuners = sorted({str(name.value) for name in PEFT_TYPE_TO_TUNER_MAPPING} - reasons.keys())
        if kind not in tuners:
            raise ConfigError(
                f"{key}.peft_type: peft has no {one_line(kind)}{nearest(kind, tuners)}; it has {', '.join(tuners)}"
            )
        made = configs[kind]
        given = {name: value for name, value in self.config.items() if name not in ("peft_type", "target_modules")}
        _check_keys(given, made, key)
        if (inner := given.get("feedforward_modules")) is not None:  # of IA3: by the same names
            given["feedforward_modules"] = [path for path in targets if _is_named(path, inner)]
        initial = str(given.get("init_lora_weights")).lower()
        if initial in _DATA or (initial.startswith("pissa") and not _PISSA.fullmatch(initial)):
            raise ConfigError(
                f"{key}.init_lora_weights: {one_line(initial)} needs data, quantised weights or no end of time"
            )
        try:
            with warnings.catch_warnings(action="ignore"):
                return made(**{**given, "target_modules": list(targets)})
        except (TypeError, ValueError, ImportError) as error:
            raise ConfigError(f"{key}: {kind} of peft refuses it: {one_line(error)}") from error

    def attach(self, encoder: Encoder) -> None:
        """Put the tuner's layers around the chosen matrices. Raise ConfigError where it refuses them, and where another
        part has wrapped them already."""
        inners = {path: encoder.part(path) for path in self._paths(encoder)}
        for path, inner in inners.items():
            if isinstance(innermost(inner), nn.Conv2d):
                raise ConfigError(f"method.config.target_modules: {path} is a convolution, and linear layers are tuned")
            if type(inner) is not nn.Linear:
                raise ConfigError(
                    f"method.config.target_modules: {path} is a {type(inner).__name__}, and peft needs a plain linear "
                    "layer; let hf_peft be the first part that changes it"
                )
        layers = _injected(inners, self.settings(list(inners)))
        for path, inner in inners.items():
            encoder.replace(path, TunedByPeft(inner, *layers[path]))

    def _paths(self, encoder: Encoder) -> list[str]:
        """Return the paths of the matrices that are tuned, in the order of computation."""
        names = self.config["target_modules"]
        found: list[str] = []
        for index in self.chosen(encoder):
            stage = encoder.stages[index]
            standard = {path for name in names if name in _WHOLE for path in stage.matrices(name)}
            found += [
                path
                for path in stage.matrices()
                if names == ["all-linear"]
                or path in standard
                or _is_named(path, [name for name in names if name not in _WHOLE])
            ]
        if not found:
            paths = [path for index in self.chosen(encoder) for path in encoder.stages[index].matrices()]
            there = ", ".join([*paths[:_NAMED], *["..."] * (len(paths) > _NAMED)]) or "none"
            raise ConfigError(
                f"method.config.target_modules: no matrix of {encoder.name} is named {', '.join(names)}; its matrices "
                f"are {there}"
            )
        return found


def _has_butterflies() -> bool:
    """Return whether `peft` can build its CUDA extension, without which BOFT has one factor, whatever its config."""
    from peft.tuners.boft.layer import get_fbd_cuda

    with warnings.catch_warnings(action="ignore"):
        return bool(get_fbd_cuda())


def _check_keys(given: Mapping[str, Any], made: type, key: str) -> None:
    """Raise ConfigError for a key that the config class of `peft` does not have, or that is decided elsewhere."""
    known = [field.name for field in fields(made) if field.init]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{key}: {made.__name__} of peft has no {one_line(name)}{nearest(str(name), known)}")
        if name in _OWNED and value not in _NOTHING:
            raise ConfigError(f"{key}.{name}: it does not go here: {_OWNED[name]}")
        # a file that somebody wrote may hold what takes for ever: patterns of regular expressions, iterations
        if name.endswith("_pattern") and not all(_PATH_END.fullmatch(str(part)) for part in value or ()):
            raise ConfigError(
                f"{key}.{name}: got {one_line(value)}, should have ends of paths such as attn.qkv as keys"
            )


def _is_named(path: str, names: str | Sequence[str]) -> bool:
    """Return whether a path ends with one of the names."""
    return any(f".{path}".endswith(f".{name}") for name in ([names] if isinstance(names, str) else names))


Factors = tuple[Tensor, Tensor, float]


def _injected(inners: Mapping[str, nn.Linear], config: Any) -> dict[str, tuple[nn.Module, Factors | None]]:
    """Return the layer of `peft` around each matrix, and the factors of what its initial values took out of the weight,
    if they did; the weight itself is as before. Raise ConfigError where the tuner refuses, or would train what is in
    none of these layers."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind = str(config.peft_type.value)
    trains = {parameter: parameter.requires_grad for inner in inners.values() for parameter in inner.parameters()}
    before = {parameter: parameter.detach().clone() for parameter in trains}
    tree = _tree(inners)
    try:
        with warnings.catch_warnings(action="ignore"):
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](tree, config, NAME)
    except TooLarge:
        raise
    except Exception as error:  # tuners raise what they like for sizes that they cannot work with
        raise ConfigError(f"method.config: {kind} of peft refuses it: {one_line(error)}") from error
    layers = {path: tree.get_submodule(path) for path in inners}
    plain = [path for path, layer in layers.items() if not isinstance(layer, BaseTunerLayer)]
    reached = {parameter for layer in layers.values() for parameter in layer.parameters()}
    outside = [name for name, p in tuner.named_parameters() if p.requires_grad and p not in reached]
    if plain or outside:
        raise ConfigError(
            f"method.config.peft_type: {kind} cannot be used: it does not tune {(plain + outside)[0]} alone"
        )
    found: dict[str, tuple[nn.Module, Factors | None]] = {}
    for path, layer in layers.items():
        moved = [p for p in inners[path].parameters() if not p.is_meta and not torch.equal(p, before[p])]
        found[path] = (layer, _taken_out(layer, kind) if moved else None)
    for parameter, value in before.items():
        parameter.data = value
        parameter.requires_grad_(trains[parameter])
    return found


def _taken_out(layer: nn.Module, kind: str) -> Factors:
    """Return down, up and scale of what a LoRA's initial values took out of the weight."""
    if kind != "LORA" or layer.lora_magnitude_vector:
        raise ConfigError(f"method.config.peft_type: {kind} cannot be used: it begins by changing the frozen weights")
    down, up = (factor[NAME].weight.detach().clone() for factor in (layer.lora_A, layer.lora_B))
    return down, up, float(layer.scaling[NAME])


def _tree(modules: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module that holds nothing but these modules, at their paths."""
    root = nn.Module()
    for path, module in modules.items():
        parent = root
        *outer, last = path.split(".")
        for name in outer:
            if name not in dict(parent.named_children()):
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(last, module)
    return root


class TunedByPeft(Wrapper):
    """A linear layer within a layer of `peft`. `layer` computes with `inner`, which is a module of this wrapper alone.
    `initial_down` (rank, I), `initial_up` (O, rank): of what the layer's initial values took out of the weight."""

    def __init__(self, inner: nn.Linear, layer: nn.Module, taken_out: Factors | None) -> None:
        super().__init__(inner)
        del layer._modules["base_layer"]
        layer.__dict__["base_layer"] = inner  # found there, and not named and saved a second time
        self.layer = layer
        down, up, self.scale = taken_out or (None, None, 0.0)
        parameter = partial(nn.Parameter, requires_grad=False)
        self.initial_down = None if down is None else parameter(down)
        self.initial_up = None if up is None else parameter(up)

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Map (..., I) to (..., rows)."""
        outputs = self.layer(tokens)
        if self.initial_up is not None:
            outputs = outputs - self.scale * F.linear(F.linear(tokens, self.initial_down), self.initial_up)
        return outputs if rows == ALL else outputs[..., rows]

    def merged(self) -> nn.Linear:
        """Return a plain linear layer, merged by `peft`. Raise ValueError where its layer cannot be merged."""
        plain = copy.deepcopy(self.inner).double()
        layer = copy.deepcopy(self.layer, {id(self.layer.base_layer): plain}).double().eval()
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():
                layer.merge()
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"peft cannot merge a {type(self.layer).__module__}: {one_line(error)}") from error
        weight = plain.weight.detach()
        if self.initial_up is not None:
            weight = weight - self.scale * self.initial_up.double() @ self.initial_down.double()
        return linear(weight, plain.bias, like=self.inner)
