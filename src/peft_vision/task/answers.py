"""This module shows what a model says of pictures, by what it learned: one class, several classes, or numbers of each
picture; and masks, with a class for each pixel, as files."""

import colorsys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from peft_vision.core.output import one_line, write_csv
from peft_vision.data.splits import LabelKind
from peft_vision.objective.segmentation import IGNORED
from peft_vision.runs.run import place
from peft_vision.runs.saved import Saved

FEW = 12  # at most this many pictures get a row each
_NEXT = 2  # runner-up classes shown for each picture
_CLASSES = 30  # at most this many classes get a row each
_OVERLAY = 0.5  # share of a class's colour in a picture's overlay


@dataclass(frozen=True)
class Answers:
    """The answers for the pictures `names`: `values` (n, C), the probabilities of the `classes`, or numbers in the
    targets' own units. `threshold`: the probability from which one of several classes counts as present."""

    names: Sequence[str]
    classes: Sequence[str]
    values: Tensor
    labels_are: LabelKind
    threshold: float

    @classmethod
    def of(cls, saved: Saved, names: Sequence[str], outputs: Tensor) -> "Answers":
        """Return the answers of a saved run from its model's outputs (n, C), in fp32 on the CPU."""
        criterion, labels_are = saved.model.criterion, saved.objective.labels_are
        threshold = float(getattr(criterion, "threshold", 0.5))
        return cls(names, saved.recipe.classes, criterion.answers(outputs), labels_are, threshold)

    def write(self, path: Path) -> None:
        """Write a row for each picture: its path below the folder; its class and probability, or its classes divided by
        semicolons; and a value of every class or target."""
        rows = (
            [Path(name).as_posix(), *self._summary(number), *(f"{value:.6g}" for value in row)]
            for number, (name, row) in enumerate(zip(self.names, self.values.tolist(), strict=True))
        )
        headings = {"classes": ["class", "probability"], "several": ["classes"], "numbers": []}[self.labels_are]
        # a file name may be invalid in any encoding, so its bytes are kept
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            write_csv(file, chain([["file", *headings, *self.classes]], rows))

    def _summary(self, number: int) -> list[str]:
        if self.labels_are == "classes":
            label = int(self.values[number].argmax())
            return [self.classes[label], f"{self.values[number, label].item():.6g}"]
        return [";".join(self.present(number))] if self.labels_are == "several" else []

    def present(self, number: int) -> list[str]:
        """Return the classes that count as present in a picture, of several."""
        return [self.classes[label] for label in (self.values[number] >= self.threshold).nonzero()[:, 0].tolist()]

    def words(self, number: int) -> tuple[str, str]:
        """Return a picture's caption, and a remark."""
        values = self.values[number]
        if self.labels_are == "classes":
            return self.classes[int(values.argmax())], f"{100 * float(values.max()):.1f} %"
        if self.labels_are == "several":
            least = float((values - self.threshold).abs().min())
            return ", ".join(self.present(number)) or "none", f"{100 * least:.1f} points from the threshold"
        return numbers_in_words(self.classes, values.tolist()), ""

    def ends(self) -> tuple[tuple[str, str], Tensor]:
        """Return the headings of both ends of an order of the pictures, and the number by which they are ordered, (n,):
        the certainty, or the first target."""
        if self.labels_are == "numbers":
            name = self.classes[0]
            return (f"largest {name}", f"smallest {name}"), self.values[:, 0]
        certain = self.values.max(dim=1).values
        if self.labels_are == "several":
            certain = (self.values - self.threshold).abs().min(dim=1).values
        return ("most certain", "least certain"), certain

    def table(self) -> Table:
        """Return the table for a terminal: a row for each of a few pictures, else one for each class or target."""
        if self.labels_are == "numbers":
            return self._numbers_table()
        if self.labels_are == "several":
            return self._several_table()
        return self._each() if len(self.names) <= FEW else self._counts()

    def _each(self) -> Table:
        table = Table("picture", "class", title="labels")
        table.add_column("probability, %", justify="right")
        table.add_column("then")
        tops = self.values.topk(min(1 + _NEXT, len(self.classes)), dim=1)
        for name, shares, labels in zip(self.names, tops.values.tolist(), tops.indices.tolist(), strict=True):
            found = [one_line(self.classes[label]) for label in labels]
            then = ", ".join(f"{label} {100 * share:.1f}" for label, share in zip(found[1:], shares[1:], strict=True))
            table.add_row(one_line(name), found[0], f"{100 * shares[0]:.1f}", then)
        return table

    def _counts(self) -> Table:
        """Return the table of classes, the most frequent first, without classes that no picture was given."""
        confidence, predicted = self.values.max(dim=1)
        counts = torch.bincount(predicted, minlength=len(self.classes))
        sums = torch.zeros(len(self.classes), dtype=torch.double).index_add(0, predicted, confidence.double())
        means = sums / counts.clamp(min=1)
        return self._frequencies(counts, means, "mean probability, %")

    def _several_table(self) -> Table:
        if len(self.names) > FEW:
            present = self.values >= self.threshold
            return self._frequencies(present.sum(dim=0), self.values.double().mean(dim=0), "mean probability, %")
        table = Table("picture", "classes", title=f"labels, from a probability of {100 * self.threshold:.1f} % on")
        for number, name in enumerate(self.names):
            table.add_row(one_line(name), one_line(", ".join(self.present(number))))
        return table

    def _frequencies(self, counts: Tensor, means: Tensor, heading: str) -> Table:
        order = [label for label in counts.argsort(descending=True, stable=True).tolist() if counts[label]]
        table = Table("class", title="labels")
        table.add_column("pictures", justify="right")
        table.add_column(heading, justify="right")
        for label in order[:_CLASSES]:
            table.add_row(one_line(self.classes[label]), f"{int(counts[label]):,}", f"{100 * float(means[label]):.1f}")
        if rest := order[_CLASSES:]:
            table.add_row(f"{len(rest):,} more classes", f"{int(counts[rest].sum()):,}", "")
        return table

    def _numbers_table(self) -> Table:
        if len(self.names) <= FEW:
            table = Table("picture", *map(one_line, self.classes), title="predictions")
            for name, row in zip(self.names, self.values.tolist(), strict=True):
                table.add_row(one_line(name), *(f"{value:.4g}" for value in row))
            return table
        table = Table("target", "smallest", "mean", "largest", title="predictions")
        for name, column in zip(self.classes, self.values.double().T, strict=True):
            table.add_row(
                one_line(name), *(f"{float(value):.4g}" for value in (column.min(), column.mean(), column.max()))
            )
        return table


def numbers_in_words(targets: Sequence[str], values: Iterable[float]) -> str:
    """Return the number of each target, with its name where there are several."""
    said = [f"{value:.4g}" for value in values]
    return said[0] if len(targets) == 1 else ", ".join(map(" ".join, zip(map(one_line, targets), said, strict=True)))


def mask_of(logits: Tensor, sides: tuple[int, int], part: tuple[slice, slice] | None) -> np.ndarray:
    """Return the mask, uint8 (H0, W0), of a picture of this height and width from its logits (C, H, W). `part`: the
    rows and columns that the logits are of, None: all; the other pixels are `IGNORED`."""
    rows, columns = part or (slice(sides[0]), slice(sides[1]))
    height, width = rows.stop - (rows.start or 0), columns.stop - (columns.start or 0)
    resampled = F.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)
    mask = np.full(sides, IGNORED, dtype=np.uint8)
    mask[rows, columns] = resampled[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return mask


def palette(num_classes: int) -> list[int]:
    """Return the colours of a palette picture, 3 x 256 numbers: clear ones for the classes, black for ignored
    pixels."""
    colours: list[int] = []
    for label in range(num_classes):  # the golden ratio puts neighbours far apart
        colour = colorsys.hsv_to_rgb(
            (0.1 + label * 0.618034) % 1, 0.65 + 0.3 * (label % 2), 0.95 - 0.25 * (label // 2 % 2)
        )
        colours += [round(255 * part) for part in colour]
    return [*colours, *[0] * (768 - len(colours))]


def overlaid(mask: np.ndarray, picture: Image.Image, num_classes: int) -> tuple[Image.Image, Image.Image]:
    """Return a mask as a palette picture of classes, and the picture under their colours."""
    classes = Image.fromarray(mask)
    classes.putpalette(palette(num_classes))
    return classes, Image.blend(picture.convert("RGB"), classes.convert("RGB"), _OVERLAY)


def write_mask(mask: np.ndarray, picture: Image.Image, num_classes: int, folder: Path, name: str) -> Image.Image:
    """Write masks/NAME.png, a palette picture of classes, and overlays/NAME.png, the picture under their colours; and
    return the overlay."""
    classes, overlay = overlaid(mask, picture, num_classes)
    for kind, image in {"masks": classes, "overlays": overlay}.items():
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, lambda unfinished, image=image: image.save(unfinished, "PNG"), key="out")
    return overlay


def shares_table(counts: Tensor, classes: Sequence[str]) -> Table:
    """Return the table of the share of each class in all labelled pixels, from their counts (C,)."""
    table = Table("class", title="pixels")
    table.add_column("share, %", justify="right")
    whole = max(1, int(counts.sum()))
    for label in counts.argsort(descending=True, stable=True).tolist()[:_CLASSES]:
        table.add_row(one_line(classes[label]), f"{100 * int(counts[label]) / whole:.1f}")
    return table


def stems(names: Iterable[str]) -> list[str]:
    """Return the name of the mask of each picture: its path without its ending, or with it where that is the name of
    another too."""
    paths = [Path(name) for name in names]
    whole, bare = [path.as_posix() for path in paths], [path.with_suffix("").as_posix() for path in paths]
    counts, taken = Counter(bare), set(whole)
    return [
        stem if counts[stem] == 1 and (stem == path or stem not in taken) else path
        for stem, path in zip(bare, whole, strict=True)
    ]
