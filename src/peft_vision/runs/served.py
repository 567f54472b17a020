"""This module lets a finished run's result serve the same command again, if it is the same run on the same images.

It compares the identity, the fingerprint of the images (names and sizes of files, every byte of arrays) and the
checksum of a weights file. What costs too much to compare, or is no longer here, is not compared, and a line says so.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from peft_vision import __version__
from peft_vision.core.config import ConfigError
from peft_vision.data.reading import file_sum
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run_records import Result

_log = logging.getLogger("peft_vision")
_PACKAGES = ("torch", "timm")  # whose next version may compute something else
_MOST_IMAGES = 300_000  # listing a larger published data set takes longer than a user waits


@dataclass(frozen=True)
class Served:
    """The finished results that serve one command. Each data set and weights file is read once, each remark said
    once."""

    _found: dict[str, Any] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def result(self, experiment: Experiment) -> Result | None:
        """Return the result of a finished run, or None if there is none. Raise ConfigError if another run is in its
        folder, or if its images or weights have changed since."""
        result = experiment.run.read_result()
        if result is None:
            return None
        folder = experiment.run.folder
        if not _is_of(result, experiment):
            raise ConfigError(f"{folder} holds another run, {result.identity}\nmove it away, or set runs=FOLDER")
        for key, was, now in (*self._images(experiment, result), *self._weights(experiment, result)):
            if now is not None and was != now:
                raise ConfigError(
                    f"{key}: no longer what it was when {folder} was trained\n"
                    "restore it, delete that folder to train anew, or set runs=FOLDER"
                )
        self._mention_upgrade(result.environment)
        return result

    def _images(self, experiment: Experiment, result: Result) -> list[tuple[str, str, str | None]]:
        known = experiment.data.known()
        if known is not None and sum(known.images.values()) > _MOST_IMAGES:
            self._say(f"{experiment.choices['data']}: its images were not compared with those of the finished run")
            return []
        skipped = result.data.corrupt_images_skipped
        key = repr((experiment.data, skipped))
        if key not in self._found:
            try:
                self._found[key] = experiment.data.fingerprint(skipped=skipped)
            except ConfigError as error:
                self._found[key] = None
                self._say(f"the images are not compared with those of the finished run; {str(error).splitlines()[0]}")
        return [("data", result.data.fingerprint, self._found[key])]

    def _weights(self, experiment: Experiment, result: Result) -> list[tuple[str, str, str | None]]:
        """Return the key and the checksums, then and now, of a local weights file; an empty list for shipped weights
        and those of the hub, which do not change under their name."""
        given, was = experiment.config["backbone"], result.checkpoint
        name = given["name"] if given["checkpoint"] is None else given["checkpoint"]
        if was is None:
            return []
        if name not in self._found:
            self._found[name] = checkpoint_sum(experiment)
        if self._found[name] is None:
            self._say(f"backbone.checkpoint: not compared with that of the finished run; no file {name}")
        return [("backbone.checkpoint", was, self._found[name])]

    def _mention_upgrade(self, environment: Mapping[str, Any]) -> None:
        now = self._found.setdefault(
            "versions", {"peft-vision": __version__, **{package: version(package) for package in _PACKAGES}}
        )
        changed = [
            f"{name} {environment.get(name)}, now {now[name]}" for name in now if environment.get(name) != now[name]
        ]
        if changed:
            self._say(f"finished with {'; '.join(changed)}")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            _log.info("%s", line)


def _is_of(result: Result, experiment: Experiment) -> bool:
    """Return whether whole identities are equal, since a folder's name holds only the beginning of one; or whole
    configs, for a result of version 0.1.0, or one whose files have been moved since."""
    return result.identity == experiment.identity or experiment.is_of(result.config)


def checkpoint_sum(experiment: Experiment) -> str | None:
    """Return the checksum of the user's own weights file, or None if there is none."""
    path = experiment.backbone.own_file()
    return None if path is None or not path.is_file() else file_sum(path)
