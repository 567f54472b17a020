"""What somebody who has only read docs/extending.md writes: it is put on the path, and changed, by tests."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional as F

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.linear import Wrapper, part
from peft_vision.config import component
from peft_vision.head.base import Head
from peft_vision.method.base import Method


@component
class Vera(Method):
    """Scales of frozen random projections that all layers share (as in Kopiczko et al., 2024, arXiv:2310.11454)."""

    rank: PositiveInt

    def attach(self, encoder: Encoder) -> None:
        width = encoder.vit.embed_dim
        shared = nn.ParameterDict({"down": torch.randn(self.rank, width), "up": torch.randn(3 * width, self.rank)})
        encoder.vera = shared.requires_grad_(False)
        for index in self.chosen(encoder):
            place = f"blocks.{index}.attn.qkv"
            encoder.replace(place, Scaled(encoder.part(place), shared))


class Scaled(Wrapper):
    def __init__(self, inner: nn.Module, shared: nn.ParameterDict) -> None:
        super().__init__(inner)
        self._shared = [shared]  # in a list: its parameters belong to the encoder
        self.d = nn.Parameter(torch.full((len(shared["down"]),), 0.1))
        self.b = nn.Parameter(torch.zeros(len(shared["up"])))

    def part(self, tokens: torch.Tensor, rows: slice) -> torch.Tensor:
        down, up = self._shared[0]["down"], self._shared[0]["up"]
        return part(self.inner, tokens, rows) + ((tokens @ down.T * self.d) @ up[rows].T) * self.b[rows]

    def merged(self) -> nn.Linear:
        raise NotImplementedError


@component
class Gate(Method):
    """A learned gate around the whole MLP."""

    start: PositiveFloat

    def attach(self, encoder: Encoder) -> None:
        for index in self.chosen(encoder):
            encoder.layers[index].mlp = Gated(encoder.layers[index].mlp, self.start)


class Gated(nn.Module):
    def __init__(self, mlp: nn.Module, start: float) -> None:
        super().__init__()
        self.mlp = mlp
        self.gate = nn.Parameter(torch.tensor(start))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.gate * self.mlp(tokens)


@component
class Misplaced(Method):
    """A slip: a layer has no place of this name."""

    def attach(self, encoder: Encoder) -> None:
        for index in self.chosen(encoder):
            encoder.layers[index].behnid = nn.Linear(encoder.vit.embed_dim, encoder.vit.embed_dim)


@component
class Cosine(Head):
    """Logits are cosines, times a learned scale."""

    def build(self, width: int, num_classes: int) -> nn.Module:
        return CosineLayer(width, num_classes)


class CosineLayer(nn.Module):
    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weight = F.normalize(self.linear.weight, dim=1)
        return self.scale * F.linear(F.normalize(features, dim=1), weight, self.linear.bias)
