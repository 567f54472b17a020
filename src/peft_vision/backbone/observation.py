"""This module holds the observations that a frozen encoder makes of its images; no gradient flows into them.

features        (B, D)       the pooled output of the final norm
contexts        L (B, N, D)  the input of each layer that is read, after its first norm, from which keys and values are
                             projected
intermediates   (B, W)       averages over the tokens of the layers' intermediate values (Head2Toe)
tokens          (B, N, D)    the input of the first layer that a method changes, where the layers before it stay frozen
grid            (B, D, h, w) the final norm's output at each place of the image: no class, register or added tokens
grids           (B, G)       such maps (D, h, w) of up to four layers, flat and one after the other
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

Kind = Literal["features", "contexts", "intermediates", "tokens", "grid", "grids"]
GRIDS: frozenset[Kind] = frozenset({"grid", "grids"})


@dataclass(frozen=True)
class Observation:
    """The observations of B images; kinds that are not read are None."""

    features: Tensor | None = None
    contexts: tuple[Tensor | None, ...] | None = None
    intermediates: Tensor | None = None
    tokens: Tensor | None = None
    grid: Tensor | None = None
    grids: Tensor | None = None

    def pack(self, kind: Kind) -> Tensor:
        """Return one kind as one tensor (B, ...); contexts are (B, L, N, D)."""
        tensor = getattr(self, kind)
        return torch.stack(tensor, dim=1) if kind == "contexts" else tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        """Return the observations on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the observations in page-locked memory of the CPU."""
        return self.each(Tensor.pin_memory)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Note that `stream` reads the observations, as Tensor.record_stream does."""
        for tensor in self.tensors():
            tensor.record_stream(stream)

    def tensors(self) -> list[Tensor]:
        """Return all observations in a fixed order."""
        found: list[Tensor] = []
        self.each(lambda tensor: found.append(tensor) or tensor)
        return found

    def tensor_split(self, parts: int) -> "tuple[Observation, ...]":
        """Return the observations of `parts` parts of the images, as Tensor.tensor_split divides them."""

        def part(number: int) -> Observation:
            return self.each(lambda tensor: tensor.tensor_split(parts)[number])

        return tuple(part(number) for number in range(parts))

    @property
    def nbytes(self) -> int:
        """Return the size of all observations in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def rounded(self, dtype: torch.dtype, *, grid: torch.dtype) -> Self:
        """Return the observations as if they had been stored in `dtype`, and grids in the type `grid`: features and
        intermediates are in fp32 again, the others stay in that type."""
        maps = {kind: None if (found := getattr(self, kind)) is None else found.to(grid) for kind in GRIDS}
        others = replace(self, **dict.fromkeys(GRIDS))
        return replace(others.each(lambda tensor: tensor.to(dtype)).readable(), **maps)

    def readable(self) -> Self:
        """Return the observations with features and intermediates in fp32; the others keep their type."""
        return replace(
            self,
            features=None if self.features is None else self.features.float(),
            intermediates=None if self.intermediates is None else self.intermediates.float(),
        )

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return what `function` makes of each observation."""
        return replace(
            self,
            features=None if self.features is None else function(self.features),
            contexts=None if self.contexts is None else tuple(map(function, self.contexts)),
            intermediates=None if self.intermediates is None else function(self.intermediates),
            tokens=None if self.tokens is None else function(self.tokens),
            grid=None if self.grid is None else function(self.grid),
            grids=None if self.grids is None else function(self.grids),
        )
