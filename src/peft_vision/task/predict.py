"""This module labels pictures with a saved adapter: on the terminal, in a CSV of probabilities, on a contact sheet."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.console import Console
from peft_vision.core.distributed import world
from peft_vision.core.printable import one_line, say, shown
from peft_vision.core.progress import Progress
from peft_vision.core.spreadsheet import write_csv
from peft_vision.data.base import Data
from peft_vision.data.decode import Geometry
from peft_vision.data.fill import verify
from peft_vision.data.images import Images, Undecoded, usable
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.readable import left_out
from peft_vision.report.contact_sheet import Tile, contact_sheet, fitted, open_font
from peft_vision.runs.run import place
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.base import Task
from peft_vision.task.given_pictures import given_pictures
from peft_vision.task.labels_table import labels_table
from peft_vision.training.trainer import Trainer

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
            pictures = _readable(files, given.place, threads=max(1, usable(data.workers)))
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
            size=preprocessing.size, resize=resize, crop=preprocessing.crop, interpolation=preprocessing.interpolation
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


def _readable(files: Files, place: Path, *, threads: int) -> Labelled:
    """Return the readable pictures (their labels mean nothing) and warn of the others. ConfigError if there are
    none."""
    pictures = labelled(files, [0] * len(files))
    faults = verify(pictures, threads=threads, label="given")
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
    with Progress(label="predicting", total=len(images), unit="images") as progress, trainer.autocast(device):
        for pixels, _ in images.in_order(batch_size=trainer.eval_batch_size, workers=workers):
            logits = saved.model(pixels.to(device, non_blocking=True)).float()
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
