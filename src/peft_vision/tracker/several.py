"""This module keeps trackers from ending a run: what fails in one is a single warning, and the others go on.

`forgiving` opens one tracker so; `SeveralTrackers` mirrors a run to several of them at once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from peft_vision.core.config import ConfigError, build_parts, component
from peft_vision.core.guide import fault, is_homeless
from peft_vision.tracker.trackers import Log, Tracker

_log = logging.getLogger("peft_vision")


class ForgivingLog(Log):
    """A log that passes everything on to another log, until that one fails. `folder`: of the run, which has it all."""

    def __init__(self, folder: Path) -> None:
        self._log: Log | None = None
        self._opened: AbstractContextManager[Log] | None = None
        self._folder = folder
        self._warned = False

    def enter(self, opens: Callable[[], AbstractContextManager[Log]]) -> None:
        """Open the other log. Raise ConfigError where the tracker refuses what was asked for, or finds no home."""
        try:
            opened = opens()
            self._log = opened.__enter__()
            self._opened = opened
        except ConfigError:
            raise
        except Exception as error:  # a tracker may be user code, which raises anything
            if is_homeless(error):
                raise ConfigError(
                    "tracker: it keeps files in a home folder; set HOME, or write tracker=none"
                ) from error
            self._warn(error)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._attempt(lambda log: log.metrics(values, step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._attempt(lambda log: log.summary(values))

    def pictures(self, files: Mapping[str, Path]) -> None:
        self._attempt(lambda log: log.pictures(files))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._attempt(lambda log: log.table(name, columns, rows))

    def leave(self, error: BaseException | None) -> None:
        """Close the other log, as failed if there is an error."""
        if self._opened is None:
            return
        try:
            self._opened.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except Exception as closing_error:
            if closing_error is not error:  # which a context may raise again
                self._warn(closing_error)

    def _attempt(self, send: Callable[[Log], object]) -> None:
        """Send to the log, unless something has failed before."""
        if self._log is None:
            return
        try:
            send(self._log)
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            _log.warning("tracker   %s; %s has all of the run", fault(error), self._folder)
        self._warned, self._log = True, None


@contextmanager
def forgiving(opens: Callable[[], AbstractContextManager[Log]], folder: Path) -> Iterator[Log]:
    """Open a log in which whatever fails is one warning. ConfigError where its tracker refuses what was asked for."""
    log = ForgivingLog(folder)
    log.enter(opens)
    try:
        yield log
    except BaseException as error:
        log.leave(error)
        raise
    log.leave(None)


def _built(parts: Any) -> dict[str, Tracker]:
    return build_parts(parts, Tracker, "tracker.parts", example="[wandb,tensorboard]")


@component
class SeveralTrackers(Tracker):
    """A tracker that mirrors to several trackers, each of which may fail on its own. `group`: replaces the run's."""

    parts: Annotated[dict[str, Tracker], BeforeValidator(_built)]
    group: str | None

    def check(self) -> None:
        for part in self.parts.values():
            part.check()

    def is_awaited(self) -> bool:
        """Return whether somebody waits for the figures of just this process in any of the trackers."""
        return any(part.is_awaited() for part in self.parts.values())

    @contextmanager
    def open(self, *, group: str | None, folder: Path, **values: Any) -> Iterator[Log]:
        """Open a log in each tracker. Raise ConfigError where one refuses what was asked for."""
        values |= {"group": self.group or group, "folder": folder}
        opens = [partial(part.open, **values) for part in self.parts.values()]
        with ExitStack() as opened:
            yield _LogOfSeveral([opened.enter_context(forgiving(one, folder)) for one in opens])


class _LogOfSeveral(Log):
    """A log that passes everything on to several."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = logs

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for log in self._logs:
            log.metrics(values, step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        for log in self._logs:
            log.summary(values)

    def pictures(self, files: Mapping[str, Path]) -> None:
        for log in self._logs:
            log.pictures(files)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        for log in self._logs:
            log.table(name, columns, rows)
