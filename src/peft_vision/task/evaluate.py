"""This module scores a saved adapter, on its run's own data or on other data whose classes it knows."""

import copy
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import Tensor

from peft_vision.core.composition import unless_chosen
from peft_vision.core.config import ConfigError, build, component, shortened
from peft_vision.core.distributed import world
from peft_vision.core.environment import environment
from peft_vision.core.identity import digest
from peft_vision.core.output import Console
from peft_vision.core.trust import check_targets
from peft_vision.data.base import Data
from peft_vision.data.images import Images
from peft_vision.data.splits import Splits
from peft_vision.data.windows import in_windows
from peft_vision.runs.run import Run, place
from peft_vision.runs.saved import Saved, open_saved, read_config, saved_folder
from peft_vision.task.base import Task
from peft_vision.task.shown import metrics_table

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
_LONGEST = 100  # at most this many characters of a data set's name are in a file name


@component
class Evaluate(Task):
    """A task that scores a saved adapter. `split`: of the run's own data, or of those that the command line chooses."""

    shares_work: ClassVar[bool] = True

    split: Literal["test", "val", "train"]

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
            _log.info("%-9s %s", "data", splits.source)
            seen = in_windows({"scored": images}, saved.model.criterion.stride)["scored"]
            metrics = trainer.evaluate(saved.model, seen, self.split, workers=data.workers, world=here)
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
                mark = digest({"fingerprint": splits.fingerprint, **shown})[:12]
                _report(facts, folder, data=re.sub(r"[^\w.-]", "_", name)[:_LONGEST], mark=f"{self.split}-{mark}")
        return metrics.get(f"{self.split}/{saved.model.criterion.metric.name}", math.nan)

    def _images(self, splits: Splits, positions: Tensor) -> Images:
        """Return the images to score, labelled with the adapter's class ids. ConfigError if the data lack the split."""
        images = splits.parts()
        if self.split not in images:
            raise ConfigError(
                f"task.split: got {self.split!r}, but these data have none; data.stage=all with data.val_fraction=0.1 "
                "has all splits"
            )
        return images[self.split].relabelled(positions)


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


def _report(facts: Mapping[str, Any], folder: Path, *, data: str, mark: str) -> None:
    """Write the facts to a JSON file in one step and print the table. The file is called `data`-`mark`.json."""
    path = folder / f"{data}-{mark}.json"
    place(path, lambda unfinished: unfinished.write_text(json.dumps(facts, indent=2) + "\n"), key="out")
    console = Console()
    console.print(metrics_table(f"{facts['run']}\non {data}", facts["metrics"], facts["images"]))
    console.print(f"saved     {path}", soft_wrap=True)
