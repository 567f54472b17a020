"""This module mirrors a run in its tracker; a tracker that fails costs a warning, and never the run."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.guide import fault, is_homeless
from peft_vision.core.records import Unreadable, read_json_lines
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run, mirrored_as
from peft_vision.runs.run_records import Result
from peft_vision.tracker.trackers import Log

_log = logging.getLogger("peft_vision")


class _Forgiven(Log):
    """A log that passes everything on to another log, until that one fails."""

    def __init__(self, log: Log, folder: Path) -> None:
        self._log: Log | None = log
        self._folder = folder

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._attempt(lambda log: log.metrics(values, step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._attempt(lambda log: log.summary(values))

    def pictures(self, files: Mapping[str, Path]) -> None:
        self._attempt(lambda log: log.pictures(files))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._attempt(lambda log: log.table(name, columns, rows))

    def close(self, opened: AbstractContextManager[Log], error: BaseException | None) -> None:
        """Close the context that opened the log."""
        try:
            opened.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except Exception as closing_error:
            self._say(closing_error)

    def _attempt(self, send: Callable[[Log], object]) -> None:
        """Send to the log, unless something has failed before."""
        if self._log is None:
            return
        try:
            send(self._log)
        except Exception as error:  # a tracker may be user code, which raises anything
            self._say(error)

    def _say(self, error: Exception) -> None:
        if self._log is not None:
            _log.warning("tracker   %s; %s has all of the run", fault(error), self._folder)
        self._log = None


@contextmanager
def mirrored(experiment: Experiment, run: Run, *, anew: bool = False) -> Iterator[Log]:
    """Open the run's log in its tracker, which may refuse; whatever fails later is logged, and the run goes on. `anew`:
    whether the run begins anew, and so does not continue the log of an earlier attempt."""
    names = [experiment.choices[group] for group in ("method", "backbone", "data")]
    opened = experiment.tracker.open(
        run_id=mirrored_as(experiment.identity, run.folder, anew=anew),
        name=experiment.name,
        group="-".join(names),  # groups the seeds and settings of one comparison; tracker.group overrides it
        job_type="train" if experiment.data.stage == "all" else experiment.data.stage,
        tags=names,
        config=experiment.config,
        folder=run.folder,
    )
    try:
        log = _Forgiven(opened.__enter__(), run.folder)
    except RuntimeError as error:
        if not is_homeless(error):
            raise
        raise ConfigError("tracker: it keeps files in a home folder; set HOME, or write tracker=none") from error
    try:
        yield log
    except BaseException as error:
        log.close(opened, error)
        raise
    log.close(opened, None)


_COSTS = ("images_per_second", "peak_mib", "train_seconds", "wall_seconds")


def tell_epochs(log: Log, experiment: Experiment) -> None:
    """Log the epochs that metrics.jsonl already holds if a W&B agent waits: the agent's own run lacks them."""
    if not experiment.tracker.is_awaited():
        return
    try:
        rows, _ = read_json_lines(experiment.run.folder / "metrics.jsonl")
    except Unreadable as error:
        _log.warning("W&B's agent is not told of the epochs: %s", error)
        rows = []
    for row in rows:
        if isinstance(row.get("epoch"), int):
            log.metrics(row, step=row["epoch"])


def tell_again(experiment: Experiment, run: Run, result: Result) -> None:
    """Send the epochs and the summary of a run that was finished before, if a W&B agent waits."""
    if not experiment.tracker.is_awaited():
        return
    with mirrored(experiment, run) as log:
        tell_epochs(log, experiment)
        log.summary(summary(result))


def summary(result: Result) -> dict[str, Any]:
    """Return the metrics of a run, its costs and its optimizer's footprint in one dict."""
    costs = {name: getattr(result, name) for name in _COSTS if name in result.model_fields_set}
    return {**result.metrics, **costs, **dict(result.optimizer or {})}
