"""This module mirrors a run to TensorBoard's event files, which lie in the run's folder: `tensorboard --logdir runs`
shows them all by the names of the runs.

A run that goes on writes to a further file beside those before, of which TensorBoard makes one curve; an epoch that is
there already is not written again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft_vision.core.config import build, component
from peft_vision.core.table import Cell, Column, Table, markdown
from peft_vision.data.decode import open_file
from peft_vision.objective.base import ACCURACY, Objective
from peft_vision.tracker.trackers import Log, Tracker, flat, numbers, require

_FOLDER = "tensorboard"


@component
class TensorBoardTracker(Tracker):
    """A tracker that writes event files. `folder`: has a folder for each run; None: they lie in the run's own."""

    folder: str | None

    def check(self) -> None:
        require("tensorboard", extra="tensorboard")

    @contextmanager
    def open(self, *, name: str, config: Mapping[str, Any], folder: Path, **_: Any) -> Iterator[Log]:
        """Open the run's event files, and write its config as hyperparameters if it has none yet."""
        from torch.utils.tensorboard import SummaryWriter  # here, because it takes a second that --help must not

        place = folder / _FOLDER if self.folder is None else Path(self.folder).expanduser() / name
        known = _known(place)
        writer = SummaryWriter(str(place))
        try:
            if not known:
                _write_config(writer, config)
            yield _EventLog(writer, known)
        finally:
            writer.close()


class _EventLog(Log):
    """A log of scalars by epoch. `known`: the last step and value of each scalar that is there already."""

    def __init__(self, writer: Any, known: Mapping[str, tuple[int, float]]) -> None:
        self._writer = writer
        self._known = dict(known)
        self._last = max((step for step, _ in known.values()), default=0)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if any(name in values and step <= known for name, (known, _) in self._known.items()):
            return
        self._scalars(values, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        new = {
            name: value
            for name, value in numbers(values).items()
            if name not in self._known or abs(self._known[name][1] - value) > 1e-6 * abs(value)  # files have fp32
        }
        self._scalars(new, self._last)

    def pictures(self, files: Mapping[str, Path]) -> None:
        import numpy as np

        for name, file in files.items():
            with open_file(file) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), self._last, dataformats="HWC")
        self._writer.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        cells = [[Cell("" if value is None else str(value)) for value in row] for row in rows]
        text = markdown(Table(name, [Column(column) for column in columns], cells))
        self._writer.add_text(name, text, self._last)
        self._writer.flush()

    def _scalars(self, values: Mapping[str, Any], step: int) -> None:
        self._last = max(self._last, step)
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)
            self._known[name] = (step, value)
        self._writer.flush()  # so that a run which is killed has shown what it knew


def _write_config(writer: Any, config: Mapping[str, Any]) -> None:
    """Write the config for the page of hyperparameters, which compares runs by the metric of their objective."""
    from torch.utils.tensorboard.summary import hparams

    values = {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat(config).items()
    }
    metric = build(config["objective"], Objective, "objective").metric if "objective" in config else ACCURACY
    for part in hparams(values, {f"val/{metric.name}": 0.0, f"test/{metric.name}": 0.0}):
        writer.file_writer.add_summary(part)
    writer.flush()


def _known(place: Path) -> dict[str, tuple[int, float]]:
    """Return the last step and value of each scalar in the event files of a folder."""
    if not any(place.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place), size_guidance={"scalars": 1})
    found.Reload()
    last = {tag: found.Scalars(tag)[-1] for tag in found.Tags()["scalars"]}
    return {tag: (event.step, event.value) for tag, event in last.items()}
