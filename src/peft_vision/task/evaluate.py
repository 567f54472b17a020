"""This module scores a saved adapter, on its run's own data or on other data whose classes it knows."""

import copy
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from pydantic import NonNegativeInt
from torch import Tensor

from peft_vision.core.composition import unless_chosen
from peft_vision.core.config import ConfigError, build, component, shortened
from peft_vision.core.distributed import world
from peft_vision.core.environment import environment
from peft_vision.core.identity import digest
from peft_vision.core.output import Console, one_line, say
from peft_vision.core.trust import check_targets
from peft_vision.data.base import Data
from peft_vision.data.images import Images
from peft_vision.data.splits import Splits
from peft_vision.data.windows import in_windows
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.report.per_class import worst_classes
from peft_vision.runs.predictions import check_writing, write_predictions
from peft_vision.runs.run import Run, place
from peft_vision.runs.saved import Saved, open_saved, read_config, saved_folder
from peft_vision.task.answers import mask_of, overlaid
from peft_vision.task.base import Task
from peft_vision.task.contact_sheet import check_font, contact_sheet, judged_sections
from peft_vision.task.shown import metrics_table, told
from peft_vision.training.evaluate import metrics_of, predictions_of
from peft_vision.training.trainer import Trainer

OTHERS = "these are the run's own data; data=... chooses others"


def data_of(folder: Path, config: Mapping[str, Any], choices: Mapping[str, str]) -> tuple[dict[str, Any], str, bool]:
    """Return the config of the data, the name of their option, and whether they are those of the run in `folder`.

    ConfigError where the command chooses no data and the run's config.yaml does not name any.
    """
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    given = {override.key_or_group: override for override in overrides}
    if "data" in given or choices["data"] != unless_chosen("data"):
        return config["data"], choices["data"], False
    said = read_config(folder).get("data")
    if not isinstance(said, dict) or "_target_" not in said:
        raise ConfigError(f"run: {folder}/config.yaml does not say on which data; write data=digits or another")
    try:
        check_targets(said, "data")
    except ConfigError as error:
        raise ConfigError(f"run: {folder}/config.yaml: {error}") from error
    run_data = copy.deepcopy(said)
    for key, override in given.items():
        if key.startswith("data."):
            _take(run_data, config["data"], key.split(".")[1:], delete=override.is_delete())
    return run_data, _name(folder), True


def _take(node: dict[str, Any], command: Any, path: list[str], *, delete: bool) -> None:
    """Copy the value at `path` from the command's values into `node`, or delete it from `node`."""
    *outer, last = path
    for key in outer:
        node = node.setdefault(key, {})
        command = command.get(key, {}) if isinstance(command, Mapping) else {}
        if not isinstance(node, dict):
            raise ConfigError(f"data.{'.'.join(path)}: the run's own data have a value, and no keys, in data.{key}")
    if delete:
        node.pop(last, None)
    else:
        node[last] = command[last]


def _name(folder: Path) -> str:
    """Return the option that the run's data were chosen by, or "own" if the run has no readable result."""
    result = None
    with suppress(ConfigError):  # the adapter can be scored without a readable result
        result = Run(folder).read_result()
    return "own" if result is None else result.choices["data"]


_log = logging.getLogger("peft_vision")
_NAMED = 3  # classes that an error names
_WORST = 5  # classes that are printed
_LONGEST = 100  # at most this many characters of the name of a data set, and of a run, are in a file name


@component
class Evaluate(Task):
    """A task that scores a saved adapter. `split`: of the run's own data, or of those that the command line chooses.
    `sheet_images`: pictures on the contact sheet, half the worst predictions, half the best; 0: no sheet. `font`: as of
    task=predict."""

    shares_work: ClassVar[bool] = True

    split: Literal["test", "val", "train"]
    sheet_images: NonNegativeInt
    font: str | None

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float:
        """Score the split and return the metric of its objective. Under torchrun the processes share the images."""
        node, name, of_run = data_of(saved_folder(str(config["run"])), config, choices)
        with _saying(of_run):
            data: Data = build(node, Data, "data")
        with world(config["device"]) as here:
            saved = open_saved(str(config["run"]), checkpoint=config["checkpoint"], device=here.device)
            folder = saved.output(config["out"], "evaluations")
            trainer = saved.trainer(config["trainer"])
            with _saying(of_run):
                sets = data.open()
                saved.objective.check_labels(sets.labels_are)
                positions = _positions(sets.classes, saved.recipe.classes)
                if sets.labels_are != "classes" and len(positions) != len(saved.recipe.classes):
                    raise ConfigError(
                        f"data: these have {len(positions)} of the {len(saved.recipe.classes)} labels of the adapter, "
                        "should have all"
                    )
                _say_resize(saved, data)
                preprocessing = data.adjusted(saved.recipe.preprocessing)
                splits = data.load(preprocessing, read={self.split})
            images = self._images(splits, positions)
            if self.sheet_images:
                check_font(self.font, saved.recipe.classes)
            _log.info("%-9s %s", "data", splits.source)
            options = {"workers": data.workers, "world": here, "keeps": True}
            seen = in_windows({"scored": images}, saved.model.criterion.stride)["scored"]
            judged = {self.split: trainer.judged(saved.model, seen, self.split, **options)}
            metrics = metrics_of(saved.model, judged)
            if here.is_main:
                facts = {
                    "run": saved.folder.name,
                    "metrics": metrics,
                    "images": {self.split: len(images)},
                    "classes": {"data": len(splits.classes), "adapter": len(saved.recipe.classes)},
                    "data": {
                        "source": splits.source,
                        "fingerprint": splits.fingerprint,
                        "corrupt_images_skipped": splits.skipped,
                        "config": shortened(node),
                    },
                    "method": saved.recipe.method,
                    "backbone": saved.recipe.backbone,
                    "preprocessing": preprocessing.record(),
                    "precision": trainer.arithmetic(here.device),
                    "environment": environment(here.device, here.size),
                }
                shown = {"resize": data.resize, "crop": preprocessing.crop}
                named, whose = re.sub(r"[^\w.-]", "_", name)[:_LONGEST], ""
                if config["out"] is not None:  # where other runs may have their scores too
                    shown["run"], whose = str(saved.home), f"{saved.home.name[-_LONGEST:]}-"
                mark = digest({"fingerprint": splits.fingerprint, **shown})[:12]
                stem = folder / f"{whose}{named}-{self.split}-{mark}"
                _report(facts, stem, data=named)
                if kept := predictions_of(saved.model, judged):
                    told("each image", partial(self._show, saved, trainer, kept, seen, splits, stem), folder)
        return metrics.get(f"{self.split}/{saved.model.criterion.metric.name}", math.nan)

    def _show(
        self,
        saved: Saved,
        trainer: Trainer,
        kept: Mapping[str, KeptPredictions],
        seen: Images,
        splits: Splits,
        stem: Path,
    ) -> None:
        """Write the predictions and the contact sheet beside the scores, and print the classes that are worst."""
        pictures, found, written = splits.pictures[self.split], kept[self.split], []
        if trainer.keep_predictions:
            check_writing()
            write = partial(write_predictions, kept=kept, pictures=splits.pictures, identity=splits.fingerprint)
            place(_beside(stem, ".parquet"), write, key="out")
            written.append(".parquet")

        def overlays(number: int) -> tuple[Image.Image, Image.Image]:
            picture = pictures.pictures.read(int(pictures.indices[number]))
            truth = pictures.pictures.mask(int(pictures.indices[number]))
            shown = None if seen.windows is not None else seen.geometry.shown_part(truth.shape[1], truth.shape[0])
            mask = mask_of(_logits(saved, trainer, seen, number), truth.shape, shown)
            true, predicted = (overlaid(each, picture, len(found.classes))[1] for each in (truth, mask))
            return true, predicted

        if self.sheet_images:
            sections = judged_sections(found, pictures, self.sheet_images, overlays)
            sheet = contact_sheet(sections, font_name=self.font)
            place(_beside(stem, ".png"), lambda path: sheet.save(path, "PNG"), key="out")
            written.append(".png")
        word, worst = worst_classes(found, _WORST)
        if worst:
            named = ", ".join(f"{one_line(name)} {100 * score:.1f}" for name, score in worst)
            Console().print(f"worst     {named} (% {word})", soft_wrap=True)
        if written:
            say(f"saved     {', '.join(written)} beside it: each image's prediction")

    def _images(self, splits: Splits, positions: Tensor) -> Images:
        """Return the images to score, labelled with the adapter's class ids. ConfigError if the data lack the split."""
        images = splits.parts()
        if self.split not in images:
            raise ConfigError(
                f"task.split: got {self.split!r}, but these data have none; data.stage=all with data.val_fraction=0.1 "
                "has all splits"
            )
        return images[self.split].relabelled(positions)


@torch.no_grad()
def _logits(saved: Saved, trainer: Trainer, seen: Images, number: int) -> Tensor:
    """Return the logits (C, H, W) of the picture at place `number`, put together of its windows if it is seen in
    some."""
    indices = torch.tensor([number]) if seen.windows is None else seen.windows.of(number)
    batches = seen.batches(indices.split(trainer.eval_batch_size), seed=None, workers=0)
    with trainer.autocast(saved.device):
        outputs = [saved.model(pixels.to(saved.device)).float() for pixels, _ in batches]
    return outputs[0][0] if seen.windows is None else next(seen.windows.averaged(outputs, [number]))


@contextmanager
def _saying(of_run: bool) -> Iterator[None]:
    """Add how to choose other data to a ConfigError of one line, if the data are the run's own."""
    try:
        yield
    except ConfigError as error:
        if not of_run or "\n" in str(error):
            raise
        raise ConfigError(f"{error}\n{OTHERS}") from error


def _positions(classes: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """Return (num_classes of the data,) int64: the adapter's class id of each of the data's classes, matched by name.

    ConfigError for classes that the adapter does not know."""
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise ConfigError(
            f"data: {len(unknown)} of {len(classes)} classes are unknown to the adapter: {_listed(unknown)}\n"
            f"it knows {len(known)}: {_listed(known)}"
        )
    return torch.tensor([known.index(name) for name in classes])


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if names[_NAMED:] else "")


def _say_resize(saved: Saved, data: Data) -> None:
    saved_resize = saved.says("data", "resize")
    if saved_resize not in (None, data.resize):
        _log.warning(
            "data.resize=%s here, %s in the run: its images were resized in another way", data.resize, saved_resize
        )
    crop = saved.recipe.preprocessing.crop
    if data.crop not in (None, crop) and saved_resize == "crop":
        _log.warning("data.crop=%g here, %g in the run: its images were cropped in another way", data.crop, crop)


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}{ending}")  # the stem may have dots of its own


def _report(facts: Mapping[str, Any], stem: Path, *, data: str) -> None:
    """Write the facts to a JSON file in one step and print the table, with the name of the data."""
    path = _beside(stem, ".json")
    place(path, lambda unfinished: unfinished.write_text(json.dumps(facts, indent=2) + "\n"), key="out")
    console = Console()
    console.print(metrics_table(f"{facts['run']}\non {data}", facts["metrics"], facts["images"]))
    console.print(f"saved     {path}", soft_wrap=True)
