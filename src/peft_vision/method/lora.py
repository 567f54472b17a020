"""LoRA: low-rank updates of weight matrices (Hu et al., 2021, arXiv:2106.09685).

W' = W + scale * up @ down,    scale = alpha / rank, or alpha / sqrt(rank) when rank-stabilised (arXiv:2312.03732)

`up` is zero at the start, unless `initial` says otherwise: attaching changes nothing. DoRA (Liu et al., 2024,
arXiv:2402.09353) learns the length of each row of the updated matrix separately from its direction, and passes no
gradient through the division by its length:

W'_i = magnitude_i * (W + scale * up @ down)_i / ||(W + scale * up @ down)_i||

A row of zeros has no direction, so it stays a row of zeros, and `up` trains as without DoRA until the row is non-zero.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import ALL, LINEAR, Pointwise, Wrapper, innermost, linear, part
from peft_vision.backbone.quantized import QuantizedLinear
from peft_vision.backbone.stage import Stage
from peft_vision.core.config import ConfigError, HashDefault, component
from peft_vision.method.base import Method
from peft_vision.method.low_rank import Updated

Target = Literal["q", "k", "v", "qkv", "proj", "fc1", "fc2"]
_PAPERS = ("q", "v")  # the choice of the paper, and of lora.yaml
_BY_PATTERN = "matrix"  # the target of a matrix that a pattern names
_NAMED = 5  # paths that an error names
_BACKBONE = 0.02  # standard deviation of timm's linear layers


def _distinct(targets: tuple[str, ...]) -> tuple[str, ...]:
    standard = get_args(Target)
    if unknown := [target for target in targets if target not in standard and not _is_pattern(target)]:
        raise ValueError(
            f"should be among {', '.join(standard)}, or patterns of paths such as *.conv1; {unknown[0]!r} is neither"
        )
    if len(set(targets)) < len(targets) or ("qkv" in targets and set(targets) & set("qkv")):
        raise ValueError("should name each matrix once; qkv is q, k and v with one `down` for the three")
    return targets


@component
class LoRA(Method):
    """A method that adds low-rank updates to weight matrices.

    `targets`: the matrices that are updated; q, k and v are rows of timm's fused projection, each with its own update,
    and qkv is the whole projection with one `down`. Where the backbone has what a target names in several matrices (a
    projection that is not fused, a SwiGLU's fc1), each has an update. `dropout`: probability of dropping the inputs of
    the updates. `initial`: zeros for `up`, or both factors initialised like the linear layers of a fresh backbone, so
    that attaching changes the outputs, as in NOAH's code.

    A target with a dot or an asterisk is a pattern of the paths in timm's model of linear layers and 1x1 convolutions
    of the layers. Where layers have no attention, q and v, the paper's targets, stand for all that they have: fc1 and
    fc2 of a ConvNeXt's MLPs, or every linear layer and 1x1 convolution of a backbone without standard names (a ResNet).
    A matrix that only a pattern names and that has a side shorter than the rank stays as it is.
    """

    targets: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]
    rank: PositiveInt
    alpha: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]
    rank_stabilised: bool
    dora: bool
    initial: Annotated[Literal["zero_up", "backbone"], HashDefault("zero_up")]

    @property
    def scale(self) -> float:
        """Return the factor of the product of `up` and `down`."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def attach(self, encoder: Encoder) -> None:
        """Add rank * (inputs + outputs) parameters for each target of each layer, with DoRA one more for each output.
        Raise ConfigError for a rank above a side of a target, for patterns that match nothing, and for DoRA on a module
        that another part has wrapped."""
        matched = 0
        for index in self.chosen(encoder):
            stage, where = encoder.stages[index], f"layer {index}"
            for path, rows in self._rows(stage, where=where).items():
                self._wrap(encoder, path, rows, where=where)
            for path in self._by_pattern(encoder, stage):
                self._wrap(encoder, path, {_BY_PATTERN: slice(0, _sides(encoder.part(path))[0])}, where=where)
                matched += 1
        if self._patterns(encoder.stages[0]) and not matched:
            paths = [path for index in self.chosen(encoder) for path in encoder.stages[index].matrices()]
            there = ", ".join([*paths[:_NAMED], *["..."] * (len(paths) > _NAMED)]) or "none"
            raise ConfigError(
                f"method.targets: no matrix of {encoder.name} with sides of {self.rank} or more matches "
                f"{', '.join(self._patterns(encoder.stages[0]))}; its matrices are {there}"
            )

    def _patterns(self, stage: Stage) -> list[str]:
        """Return the targets that are patterns; every path where the backbone has no standard names."""
        return [target for target in self._targets(stage) if _is_pattern(target)]

    def _targets(self, stage: Stage) -> tuple[str, ...]:
        """Return the targets, or what the paper's stand for in a stage that has none of them."""
        if self.targets != _PAPERS or any(target in stage.sites for target in _PAPERS):
            return self.targets
        return tuple(stage.sites) or ("*",)

    def _by_pattern(self, encoder: Encoder, stage: Stage) -> list[str]:
        """Return the paths of the matrices that patterns name and standard targets do not, with sides of `rank` or
        more."""
        named = {site.path for target in self._targets(stage) for site in stage.sites.get(target, ())}
        patterns = self._patterns(stage)
        return [
            path
            for path in stage.matrices()
            if path not in named
            and any(fnmatchcase(path, pattern) for pattern in patterns)
            and min(_sides(encoder.part(path))) >= self.rank
        ]

    def _rows(self, stage: Stage, *, where: str) -> dict[str, dict[str, slice]]:
        """Return for each matrix that is updated the rows of each target. Raise ConfigError where the layer has no such
        matrix."""
        standard = [target for target in self._targets(stage) if not _is_pattern(target)]
        if missing := [target for target in standard if target not in stage.sites]:
            there = ", ".join(stage.sites) or "patterns of paths such as *.conv1"
            raise ConfigError(f"method.targets: {where} has no {' or '.join(missing)}; it has {there}")
        found: dict[str, dict[str, slice]] = {}
        for target, sites in stage.sites.items():
            for site in sites if target in standard else ():
                found.setdefault(site.path, {})[target] = site.rows
        return found

    def _wrap(self, encoder: Encoder, name: str, rows: Mapping[str, slice], *, where: str) -> None:
        inner = encoder.part(name)
        inputs = _sides(inner)[1]
        for target, target_rows in rows.items():
            count = target_rows.stop - target_rows.start
            if self.rank > min(count, inputs):
                raise ConfigError(
                    f"method.rank: got {self.rank}, but {target} of {where} is {count} x {inputs}; "
                    f"at most {min(count, inputs)}"
                )
        plain = innermost(inner)
        pointwise = isinstance(plain, nn.Conv2d) and not isinstance(plain, Pointwise)
        if self.dora and pointwise:
            raise ConfigError(f"method.dora: {name} is a convolution; choose linear layers by method.targets, or false")
        if self.dora and type(inner) not in LINEAR:
            raise ConfigError("method.dora: it needs the matrix itself, so let it be the first part that changes it")
        kind = LowRankConvolution if pointwise else LowRankUpdate
        updated = kind(inner, rows, self.rank, scale=self.scale, dropout=self.dropout, dora=self.dora)
        if self.initial == "backbone":
            for factor in (*updated.down.values(), *updated.up.values()):
                nn.init.trunc_normal_(factor, std=_BACKBONE)
        encoder.replace(name, updated)


class LowRankUpdate(Wrapper):
    """A linear layer O x I with an update for each target: `down` (rank, I) and `up` (rows, rank). `rows`: the range of
    the O rows that each target has."""

    def __init__(
        self, inner: nn.Module, rows: Mapping[str, slice], rank: int, *, scale: float, dropout: float, dora: bool
    ) -> None:
        super().__init__(inner)
        self.rows = dict(rows)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.down, self.up, self.magnitude = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for target, rows in self.rows.items():
            self.down[target] = nn.Parameter(torch.empty(rank, _sides(inner)[1]))
            nn.init.kaiming_uniform_(self.down[target], a=math.sqrt(5))
            self.up[target] = nn.Parameter(torch.zeros(rows.stop - rows.start, rank))  # zero: nothing changes at first
            if dora:
                self.magnitude[target] = nn.Parameter(inner.weight[rows].detach().flatten(1).norm(dim=1))

    @property
    def multiplies_inner(self) -> bool:
        return not self.magnitude  # DoRA measures the weight, and subtracts the bias

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Map (..., I) to (..., rows)."""
        if not self._merges(tokens):
            return self.after(tokens, part(self.inner, tokens, rows), rows)
        cut = self._cut(rows)
        updates = [item for target, up_rows, _ in cut for item in (self.down[target], self.up[target][up_rows])]
        weight = self.inner.weight[rows].flatten(1)
        bias = None if self.inner.bias is None else self.inner.bias[rows]
        return Updated.apply(tokens, weight, bias, self.scale, [here for _, _, here in cut], *updates)

    def _merges(self, tokens: Tensor) -> bool:
        """Return whether the product of the updated matrix is computed, in place of one product for each summand."""
        if type(self.inner) not in LINEAR or self.magnitude or (self.training and self.dropout.p > 0):
            return False
        if any(parameter.requires_grad for parameter in (self.inner.weight, self.inner.bias) if parameter is not None):
            return False
        # in bf16 it errs more in the gradients of the inputs, and on q and v is no faster: benchmarks/lora_bf16.py
        return not torch.is_autocast_enabled(tokens.device.type)

    @property
    def batches(self) -> bool:
        return not self.magnitude  # DoRA would need the lengths of a whole matrix for each image

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Add the updates of inputs (..., I) to outputs (..., rows)."""
        plain = outputs
        # a linear layer's output is not shared and its backward pass does not need it, so it may change in place
        own = type(self.inner) in (*LINEAR, QuantizedLinear)
        outputs = plain if own and not self.magnitude else plain.clone()
        dropped = self.dropout(inputs) if self.dropout.p else inputs
        for target, up_rows, here in self._cut(rows):
            down, up = self.down[target], self.up[target]
            up = up if len(up) == up_rows.stop - up_rows.start else up[up_rows]
            update = F.linear(self.scale * F.linear(dropped, down), up)
            if self.magnitude:
                factor = self._factor(target)[up_rows]
                bias = 0 if self.inner.bias is None else self.inner.bias[rows][here]
                update = (factor - 1) * (plain[..., here] - bias) + factor * update
            # a change of a view costs a copy of the whole gradient in the backward pass
            (outputs if update.shape == outputs.shape else outputs[..., here]).add_(update)
        return outputs

    def merged(self) -> nn.Linear:
        """Return a linear layer with the weight W' and the same bias."""
        weight = self.inner.weight.detach().flatten(1).to(torch.float64, copy=True)
        for target, rows in self.rows.items():
            weight[rows] += self.scale * self.up[target].detach().double() @ self.down[target].detach().double()
            if self.magnitude:
                weight[rows] *= _stretch(self.magnitude[target].detach(), weight[rows]).unsqueeze(1)
        return linear(weight, self.inner.bias, like=self.inner)

    def _factor(self, target: str) -> Tensor:
        """Return DoRA's magnitude divided by the length of each row, (rows,)."""
        update = self.scale * self.up[target].detach() @ self.down[target].detach()
        return _stretch(self.magnitude[target], self.inner.weight[self.rows[target]].detach().flatten(1) + update)

    def _cut(self, rows: slice) -> list[tuple[str, slice, slice]]:
        """Return for each target with rows in `rows` its name, those rows of its `up`, and their place within
        `rows`."""
        first, last, _ = rows.indices(self.out_features)
        cut = []
        for target, target_rows in self.rows.items():
            start, stop = max(target_rows.start, first), min(target_rows.stop, last)
            if start < stop:
                cut.append(
                    (
                        target,
                        slice(start - target_rows.start, stop - target_rows.start),
                        slice(start - first, stop - first),
                    )
                )
        return cut


class LowRankConvolution(LowRankUpdate):
    """A 1x1 convolution of I to O channels with an update for each target, all of which have all O rows."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, I, H, W) to (B, O, H', W')."""
        return self.after(images, self.inner(images), ALL)

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Add the updates of inputs (B, I, H, W) to outputs (B, O, H', W'), which are all rows."""
        stride, padding = innermost(self.inner).stride, innermost(self.inner).padding
        dropped = self.dropout(inputs)
        for target in self.rows:
            low = F.conv2d(dropped, self.down[target][..., None, None], stride=stride, padding=padding)
            outputs = outputs + self.scale * F.conv2d(low, self.up[target][..., None, None])
        return outputs

    def merged(self) -> nn.Conv2d:
        """Return a convolution with the weight W' and the same bias."""
        plain = self.inner
        weight = plain.weight.detach().to(torch.float64, copy=True)
        for target in self.rows:
            update = self.up[target].detach().double() @ self.down[target].detach().double()
            weight += self.scale * update[..., None, None]
        plain.weight = nn.Parameter(weight.to(plain.weight), requires_grad=False)
        return plain


def _is_pattern(target: str) -> bool:
    return "*" in target or "." in target


def _sides(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a linear layer or a 1x1 convolution, wrapped or not."""
    plain = innermost(module)
    if isinstance(plain, nn.Conv2d):
        return plain.out_channels, plain.in_channels
    return module.out_features, module.in_features


def _stretch(magnitude: Tensor, weight: Tensor) -> Tensor:
    """Return the factors that give each row of `weight` (rows, I) the length in `magnitude`; 1 for a row of zeros."""
    lengths = weight.norm(dim=1)
    zero = lengths == 0
    return torch.where(zero, 1, magnitude / lengths.masked_fill(zero, 1))
