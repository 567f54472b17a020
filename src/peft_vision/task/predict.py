"""This module labels pictures with a saved adapter: on the terminal, in a CSV of probabilities, on a contact sheet."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from rich.table import Table
from torch import Tensor

from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import world
from peft_vision.core.output import Console, one_line, say, shown, write_csv
from peft_vision.core.progress import Progress
from peft_vision.data.base import Data
from peft_vision.data.decode import Geometry
from peft_vision.data.fill import left_out, verify
from peft_vision.data.folders import image_files
from peft_vision.data.images import Images, Undecoded, usable
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.runs.run import place
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.base import Task
from peft_vision.task.contact_sheet import Tile, contact_sheet, fitted, open_font
from peft_vision.training.trainer import Trainer

_KEY = "images"


@dataclass(frozen=True)
class Given:
    """The pictures that a command names. `files`: named relative to the folder that holds them all. `place`: that
    folder, or the only file; `name`: the folder name of their predictions."""

    files: Files
    place: Path
    name: str


def given_pictures(images: Any) -> Given:
    """Return the pictures that the value of `images` names, each once, sorted. ConfigError where it names none."""
    texts = [str(text) for text in (images if isinstance(images, list) else [images])]
    if not texts:
        raise ConfigError("images: an empty list; name a picture, a folder, or a pattern such as photos/*.jpg")
    named = [path for text in texts for path in _named(text)]
    if len(named) == 1 and named[0].is_dir():
        root, name = named[0], named[0].resolve().name
    elif len(named) == 1:
        root, name = named[0].parent, named[0].stem
    else:
        root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in named]))
        name = "selection"
    paths = sorted(set(_below(named, root)))
    place = named[0] if len(named) == 1 else root
    if not paths:
        raise ConfigError(
            f"images: no picture in {shown(place)}; pictures are files with an ending such as .jpg, .png or .webp"
        )
    return Given(Files(root, paths), place, name)


def _named(text: str) -> list[Path]:
    """Return the absolute paths that a file, folder or pattern names. ConfigError where there are none."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(text):
        raise ConfigError(f"images: no {'file' if path.suffix else 'folder'} {path}")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise ConfigError(f"images: nothing matches {shown(path)}")
    return found


def _below(named: Iterable[Path], root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the pictures in each named folder and of each named file."""
    for path in named:
        if path.is_dir():
            yield from image_files(path, root, key=_KEY)
        else:
            yield os.path.relpath(path, root)


FEW = 12  # at most this many pictures get a row each
_NEXT = 2  # runner-up classes shown for each picture
_CLASSES = 30  # at most this many classes get a row each


def labels_table(names: Sequence[str], classes: Sequence[str], probabilities: Tensor) -> Table:
    """Return the table of labels of the pictures `names`, whose `probabilities` are (n, num_classes)."""
    return _each(names, classes, probabilities) if len(names) <= FEW else _counts(classes, probabilities)


def _each(names: Sequence[str], classes: Sequence[str], probabilities: Tensor) -> Table:
    table = Table("picture", "class", title="labels")
    table.add_column("probability, %", justify="right")
    table.add_column("then")
    tops = probabilities.topk(min(1 + _NEXT, len(classes)), dim=1)
    for name, shares, labels in zip(names, tops.values.tolist(), tops.indices.tolist(), strict=True):
        found = [one_line(classes[label]) for label in labels]
        then = ", ".join(f"{label} {100 * share:.1f}" for label, share in zip(found[1:], shares[1:], strict=True))
        table.add_row(one_line(name), found[0], f"{100 * shares[0]:.1f}", then)
    return table


def _counts(classes: Sequence[str], probabilities: Tensor) -> Table:
    """Return the table of classes, the most frequent first, without classes that no picture was given."""
    confidence, predicted = probabilities.max(dim=1)
    counts = torch.bincount(predicted, minlength=len(classes))
    sums = torch.zeros(len(classes), dtype=torch.double).index_add(0, predicted, confidence.double())
    order = [label for label in counts.argsort(descending=True, stable=True).tolist() if counts[label]]
    table = Table("class", title="labels")
    table.add_column("pictures", justify="right")
    table.add_column("mean probability, %", justify="right")
    for label in order[:_CLASSES]:
        count = int(counts[label])
        table.add_row(one_line(classes[label]), f"{count:,}", f"{100 * float(sums[label]) / count:.1f}")
    if rest := order[_CLASSES:]:
        table.add_row(f"{len(rest):,} more classes", f"{int(counts[rest].sum()):,}", "")
    return table


_log = logging.getLogger("peft_vision")


@component
class Predict(Task):
    """A task that labels pictures with a saved adapter. `resize`: as in data; None: the run's own. `sheet_images`:
    pictures on the contact sheet, half the most certain, half the least. `font`: for the sheet, a file or a name that
    the system knows; None: Pillow's own."""

    resize: Literal["squash", "crop"] | None
    sheet_images: PositiveInt
    font: str | None

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Label the pictures, which are read once to leave out the unreadable, then again a batch at a time."""
        data: Data = build(config["data"], Data, "data")  # used for its number of workers
        given = given_pictures(config["images"])
        files = given.files
        with world(config["device"]) as here:
            if here.size > 1:
                raise ConfigError("task=predict works in one process; start it without torchrun")
            saved = open_saved(str(config["run"]), checkpoint=config["checkpoint"], device=here.device)
            trainer = saved.trainer(config["trainer"])
            geometry = self._geometry(saved)
            self._check_font([*saved.recipe.classes, *map(one_line, files.paths)])
            out = saved.output(config["out"], f"predictions/{given.name}")
            pictures = _readable(files, given.place, geometry, threads=max(1, usable(data.workers)))
            images = Images(pictures.labels, Undecoded(files, pictures.indices, geometry), "none")
            probabilities = _probabilities(saved, images, trainer, workers=data.workers, device=here.device)
        classes, names = saved.recipe.classes, [files.paths[index] for index in pictures.indices.tolist()]
        place(out / "predictions.csv", lambda path: _write_csv(path, names, classes, probabilities), key="out")
        sheet = contact_sheet(self._sections(pictures, classes, probabilities), font_name=self.font)
        place(out / "contact_sheet.png", lambda path: sheet.save(path, "PNG"), key="out")
        Console().print(labels_table(names, classes, probabilities))
        say(f"labelled  {len(pictures):,} {'picture' if len(pictures) == 1 else 'pictures'} of {given.place}")
        say(f"saved     {out}/predictions.csv and contact_sheet.png")

    def _geometry(self, saved: Saved) -> Geometry:
        resize = self.resize or saved.says("data", "resize")
        if resize not in ("squash", "crop"):
            raise ConfigError(
                f"task.resize: {saved.folder}/config.yaml does not say how images were resized; "
                "set task.resize=squash or task.resize=crop"
            )
        preprocessing = saved.recipe.preprocessing
        return Geometry(
            size=preprocessing.size,
            resize=resize,
            crop=preprocessing.crop,
            interpolation=preprocessing.interpolation,
            channels=preprocessing.channels,
            full_scale=saved.says("data", "full_scale"),
        )

    def _check_font(self, names: Sequence[str]) -> None:
        """Raise ConfigError if the font cannot be opened; warn if Pillow's own font cannot show one of the `names`."""
        try:
            open_font(self.font)
        except OSError as error:
            raise ConfigError(f"task.font: cannot open {self.font!r} ({error}); it should be a font file") from error
        strange = [name for name in names if not name.isascii()]
        if self.font is None and strange:
            shown = f"{strange[0]!r} and others" if strange[1:] else repr(strange[0])
            _log.warning("the sheet's font has ASCII letters only, and %s needs more; set task.font=FILE.ttf", shown)

    def _sections(self, pictures: Labelled, classes: tuple[str, ...], probabilities: Tensor) -> dict[str, list[Tile]]:
        """Return tiles of the most and the least certain pictures, none twice; a single one is most certain."""
        confidence, predicted = probabilities.max(dim=1)
        order = confidence.argsort(descending=True, stable=True).tolist()
        shown = min(self.sheet_images, len(order))
        ends = {"most certain": order[: (shown + 1) // 2], "least certain": order[::-1][: shown // 2]}
        return {
            heading: [
                Tile(
                    picture=fitted(pictures.pictures.read(int(pictures.indices[position]))),
                    name=classes[predicted[position]],
                    remark=f"{100 * confidence[position]:.1f} %",
                    file=one_line(pictures.pictures.paths[int(pictures.indices[position])]),
                )
                for position in positions
            ]
            for heading, positions in ends.items()
            if positions
        }


def _readable(files: Files, place: Path, geometry: Geometry, *, threads: int) -> Labelled:
    """Return the readable pictures (their labels mean nothing) and warn of the others. ConfigError if there are
    none."""
    pictures = labelled(files, [0] * len(files))
    faults = verify(pictures, threads=threads, label="given", geometry=geometry)
    if len(faults) == len(files):
        raise ConfigError(
            f"images: none of the {len(files)} pictures in {shown(place)} can be read; "
            f"{one_line(files.paths[0])}: {one_line(faults[0])}"
        )
    parts, _ = left_out({"given": pictures}, {"given": faults}, skip=True)
    return parts["given"]


@torch.no_grad()
def _probabilities(saved: Saved, images: Images, trainer: Trainer, *, workers: int, device: torch.device) -> Tensor:
    """Return the class probabilities, (n, num_classes), on the CPU."""
    rows: list[Tensor] = []
    room = needing_memory(f"a forward pass of {trainer.eval_batch_size} images", device, SMALLER_PASS)
    with Progress(label="predicting", total=len(images), unit="images") as progress, trainer.autocast(device), room:
        for pixels, _ in on_device(images.in_order(batch_size=trainer.eval_batch_size, workers=workers), device):
            logits = saved.model(pixels).float()
            rows.append(logits.softmax(dim=-1).cpu())
            progress.advance(len(pixels))
    return torch.cat(rows)


def _write_csv(path: Path, names: list[str], classes: tuple[str, ...], probabilities: Tensor) -> None:
    """Write a row for each picture: its path below the folder, class and probability, then those of all classes."""
    predicted = probabilities.argmax(dim=1)
    figures = ([f"{figure:.6g}" for figure in row.tolist()] for row in probabilities)
    rows = (
        [Path(name).as_posix(), classes[label], texts[label], *texts]
        for name, label, texts in zip(names, predicted.tolist(), figures, strict=True)
    )
    # a file name may be invalid in any encoding, so its bytes are kept
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write_csv(file, chain([["file", "class", "probability", *classes]], rows))
