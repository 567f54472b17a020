"""This module divides a batch whose images belong to different adapters into spans that are computed alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSpan:
    """Neighbouring images of one kind. `start`, `stop`: the range of images in a batch of `batch`; `members` (n,): the
    place of each one's adapter among those of this kind; `only`: that place where it is the same for all, else None;
    `even`: the places in their order where equally many images have each, else None."""

    kind: int
    start: int
    stop: int
    batch: int
    members: Tensor
    only: int | None
    even: tuple[int, ...] | None

    def __len__(self) -> int:
        return self.stop - self.start

    def of(self, rows: Tensor) -> Tensor:
        """Return the rows of these images; a batch may have several rows for each image, such as those of windows."""
        each = len(rows) // self.batch
        return rows[self.start * each : self.stop * each]


class Route:
    """The adapters of the images that are in a mixed pass. `adapters`: the number of each image's adapter, ascending,
    so that images of one adapter are neighbours."""

    def __init__(self) -> None:
        self.adapters: tuple[int, ...] = ()
        self._device = torch.device("cpu")
        self._spans: dict[tuple[int, ...], tuple[ImageSpan, ...]] = {}

    def begin(self, adapters: Sequence[int], device: torch.device) -> None:
        """Take the adapters of the next pass, whose images are on `device`."""
        self.adapters = tuple(adapters)
        self._device = device
        self._spans = {}

    def spans(self, kinds: tuple[int, ...]) -> tuple[ImageSpan, ...]:
        """Return the spans of the batch for a place where adapter `a` is of kind `kinds[a]`."""
        if kinds not in self._spans:
            self._spans[kinds] = tuple(self._divided(kinds))
        return self._spans[kinds]

    def _divided(self, kinds: tuple[int, ...]) -> list[ImageSpan]:
        place = [kinds[:number].count(kind) for number, kind in enumerate(kinds)]
        of_images = [kinds[number] for number in self.adapters]
        starts = [n for n, kind in enumerate(of_images) if n == 0 or kind != of_images[n - 1]]
        spans = []
        for start, stop in zip(starts, [*starts[1:], len(of_images)], strict=True):
            members = [place[number] for number in self.adapters[start:stop]]
            counts = Counter(members)  # in the order of the images
            spans.append(
                ImageSpan(
                    kind=of_images[start],
                    start=start,
                    stop=stop,
                    batch=len(of_images),
                    members=torch.tensor(members, device=self._device),
                    only=members[0] if len(counts) == 1 else None,
                    even=tuple(counts) if len(set(counts.values())) == 1 else None,
                )
            )
        return spans
