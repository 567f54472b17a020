"""This module labels pictures with a saved adapter: on the terminal, in a CSV of probabilities, on a contact sheet."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import world
from peft_vision.core.output import Console, one_line, say, shown
from peft_vision.core.progress import Progress
from peft_vision.data.base import Data
from peft_vision.data.decode import Geometry
from peft_vision.data.fill import left_out, verify
from peft_vision.data.folders import image_files
from peft_vision.data.images import Images, Undecoded, usable
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.windows import WindowPixels
from peft_vision.objective.segmentation import IGNORED
from peft_vision.runs.run import place
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.answers import Answers, mask_of, shares_table, stems, write_mask
from peft_vision.task.base import Task
from peft_vision.task.contact_sheet import Tile, both_ends, check_font, contact_sheet, fitted
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
            geometry = saved.geometry(self.resize)
            check_font(self.font, [*saved.recipe.classes, *map(one_line, files.paths)])
            out = saved.output(config["out"], f"predictions/{given.name}")
            pictures = readable(files, given.place, geometry, threads=max(1, usable(data.workers)))
            stride = saved.model.criterion.stride
            if stride is None:
                pixels, labels = Undecoded(files, pictures.indices, geometry), pictures.labels
            else:
                pixels = WindowPixels(files, pictures.indices, geometry, stride)
                labels = torch.zeros(len(pixels.windows))
            images = Images(labels, pixels, "none")
            outputs = _outputs(saved, images, trainer, workers=data.workers, device=here.device)
            if stride is not None:
                outputs = pixels.averaged(outputs, range(len(pictures)))
                outputs = (logits[None] for logits in outputs)
            names = [files.paths[index] for index in pictures.indices.tolist()]
            if saved.model.segments:
                said, sections = self._masks(saved, pictures, names, outputs, geometry, out)
            else:
                said, sections = self._answers(saved, pictures, names, torch.cat(list(outputs)), out)
        sheet = contact_sheet(sections, font_name=self.font)
        place(out / "contact_sheet.png", lambda path: sheet.save(path, "PNG"), key="out")
        say(f"labelled  {len(pictures):,} {'picture' if len(pictures) == 1 else 'pictures'} of {given.place}")
        say(f"saved     {out}/{said} and contact_sheet.png")

    def _answers(
        self, saved: Saved, pictures: Labelled, names: Sequence[str], outputs: Tensor, out: Path
    ) -> tuple[str, dict[str, list[Tile]]]:
        """Write and show the answers from the model's outputs (n, C); return the file's name, and the sheet's tiles."""
        answers = Answers.of(saved, names, outputs)
        place(out / "predictions.csv", answers.write, key="out")
        Console().print(answers.table())
        return "predictions.csv", self._sections(pictures, answers)

    def _masks(
        self,
        saved: Saved,
        pictures: Labelled,
        names: Sequence[str],
        outputs: Iterable[Tensor],
        geometry: Geometry,
        out: Path,
    ) -> tuple[str, dict[str, list[Tile]]]:
        """Write and show the mask of each picture from the model's outputs, batch by batch (B, C, H, W)."""
        classes, tiles = saved.recipe.classes, []
        counts = torch.zeros(len(classes), dtype=torch.long)
        logits = (image for batch in outputs for image in batch)
        for stem, name, index, image in zip(stems(names), names, pictures.indices.tolist(), logits, strict=True):
            picture = pictures.pictures.read(index)
            part = None if saved.model.criterion.stride is not None else geometry.shown_part(*picture.size)
            mask = mask_of(image, picture.size[::-1], part)
            counts += torch.bincount(torch.from_numpy(mask).flatten().long(), minlength=IGNORED + 1)[: len(classes)]
            overlay = write_mask(mask, picture, len(classes), out, stem)
            if len(tiles) < self.sheet_images:
                tiles.append(Tile(picture=fitted(overlay), name="", remark="", file=one_line(name)))
        Console().print(shares_table(counts, classes))
        return "masks/, overlays/", {"overlays": tiles}

    def _sections(self, pictures: Labelled, answers: Answers) -> dict[str, list[Tile]]:
        """Return tiles of the pictures at both ends of an order, such as the most and the least certain, none twice; a
        single one is at the first end."""
        headings, rank = answers.ends()
        ends = both_ends(rank.argsort(descending=True, stable=True).tolist(), self.sheet_images)
        return {
            heading: [self._tile(pictures, answers, position) for position in positions]
            for heading, positions in zip(headings, ends, strict=True)
            if positions
        }

    def _tile(self, pictures: Labelled, answers: Answers, position: int) -> Tile:
        name, remark = answers.words(position)
        picture = fitted(pictures.pictures.read(int(pictures.indices[position])))
        return Tile(picture, name, remark, file=one_line(answers.names[position]))


def readable(files: Files, place: Path, geometry: Geometry, *, threads: int) -> Labelled:
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
def _outputs(saved: Saved, images: Images, trainer: Trainer, *, workers: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the model's outputs for each batch, in fp32 on the CPU."""
    room = needing_memory(f"a forward pass of {trainer.eval_batch_size} images", device, SMALLER_PASS)
    with Progress(label="predicting", total=len(images), unit="images") as progress, trainer.autocast(device), room:
        for pixels, _ in on_device(images.in_order(batch_size=trainer.eval_batch_size, workers=workers), device):
            yield saved.model(pixels).float().cpu()
            progress.advance(len(pixels))
