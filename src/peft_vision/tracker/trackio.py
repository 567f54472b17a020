"""This module mirrors a run to trackio: a database on this machine that `trackio show` displays, or a page of the
Hugging Face hub.

A run that goes on continues the run of the same name, and an epoch that is in the database already is not sent again;
what a page of the hub has is not known here.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError, component
from peft_vision.core.table import Cell, Column, Table, markdown
from peft_vision.tracker.trackers import Log, Tracker, flat, numbers, require


@component
class TrackioTracker(Tracker):
    """A tracker that mirrors to trackio, by its own client. `space`: owner/name of a page of the hub, which is created
    private where there is none; None: the database on this machine. `group`: replaces the run's."""

    project: str
    space: str | None
    group: str | None

    def check(self) -> None:
        require("trackio", extra="trackio")
        if not self.project.strip():
            raise ConfigError(f"tracker.project: got {self.project!r}, trackio takes a name")

    @contextmanager
    def open(
        self, *, run_id: str, name: str, group: str | None, config: Mapping[str, Any], folder: Path, **_: Any
    ) -> Iterator[Log]:
        """Open the run, which is named by the run and its attempt."""
        import trackio  # here, because it takes seconds that --help must not
        from trackio.sqlite_storage import SQLiteStorage

        said = f"{name}-{run_id.rpartition('-')[2]}"
        known = SQLiteStorage.get_max_step_for_run(self.project, said) if self.space is None else None
        with redirect_stdout(io.StringIO()):  # it prints where it writes and how it is shown
            run = trackio.init(
                project=self.project,
                name=said,
                group=self.group or group,
                space_id=self.space,
                private=True,
                config=flat(config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        try:
            yield _TrackioLog(run, -1 if known is None else int(known))
        finally:
            with redirect_stdout(io.StringIO()):
                trackio.finish()  # of the run that was opened last, which it would otherwise finish once more


class _TrackioLog(Log):
    """A log that sends to one run of trackio. `known`: the last step that it has already."""

    def __init__(self, run: Any, known: int) -> None:
        self._run = run
        self._known = self._last = known

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step > self._known:
            self._last = max(self._last, step)
            self._run.log(numbers(values), step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.log(numbers(values), step=max(self._last, 0))

    def pictures(self, files: Mapping[str, Path]) -> None:
        import trackio

        self._run.log({name: trackio.Image(str(file)) for name, file in files.items()}, step=max(self._last, 0))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import trackio

        cells = [[Cell("" if value is None else str(value)) for value in row] for row in rows]
        text = markdown(Table(name, [Column(column) for column in columns], cells))
        self._run.log({name: trackio.Markdown(text)}, step=max(self._last, 0))
