"""This module runs a sweep: all points are checked before the first one runs, finished runs are not repeated, a failed
run does not stop the others, and failures are listed at the end."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peft_vision.core.config import ConfigError, build
from peft_vision.core.guide import fault
from peft_vision.core.identity import digest
from peft_vision.core.process_variables import check_alone, out_of_sight
from peft_vision.costs.expected import Expected, together
from peft_vision.published.tables import table
from peft_vision.report.options import Options
from peft_vision.runs.run import writing
from peft_vision.runs.served import Served
from peft_vision.sweep.closing import FailedTrial, Limit, NotStarted, close
from peft_vision.sweep.launch.process_launcher import ProcessLauncher, checked
from peft_vision.sweep.overrides import last_of_each
from peft_vision.sweep.point import (
    Composer,
    Point,
    PointResult,
    account,
    account_of_data,
    also_read,
    by_data,
    check,
    labels,
)
from peft_vision.sweep.view import View
from peft_vision.task.base import Task

logger = logging.getLogger("peft_vision")
_ASIDE = ("experiment=", "runs=", "task.", "tracker", "seed", "device=")  # keys that do not change what is compared
_LARGE = 100  # points; looking at that many takes about a second


def written(values: Mapping[str, object]) -> list[str]:
    """Return values of a config file, by key, as overrides."""
    return [f"{key}={'null' if value is None else value}" for key, value in values.items()]


class PointSweeper(Sweeper):
    """A sweeper of Hydra's that checks, launches and reports the points of a sweep. `params`: overrides by key, in
    addition to those of the command line. `report`: options of the report, or None for no report. `max_failures`:
    failed runs after which no other run is started, or None for no limit."""

    def __init__(
        self, params: Mapping[str, str] | None, report: Mapping[str, Any] | None, max_failures: int | None = None
    ) -> None:
        self.params = dict(params or {})
        self.limit = Limit(max_failures)
        self._launches = 0
        self._looked: dict[tuple[str, ...], tuple[Point, PointResult | None]] = {}
        self.served = Served()
        self.report: Options | None = None if report is None else checked(Options, report, "hydra.sweeper.report")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        check_alone("a sweep starts its runs itself")
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def points(self, overrides: Sequence[Override]) -> list[tuple[str, ...]]:
        """Return the overrides of each point."""
        (points,) = BasicSweeper.split_arguments(list(overrides), None)
        return [tuple(point) for point in points]

    def sweep(self, arguments: list[str]) -> list[PointResult]:
        """Carry out the sweep that the arguments ask for; with task=plan only print the plan. ConfigError after the end
        if points failed."""
        overrides = self.asked(arguments)
        task = build(OmegaConf.to_container(self.config.task, resolve=True), Task, "task")
        if task.plans:
            task.tell(self.foreseen(overrides))
            return []
        published = self.report.published if self.report else ()
        task.check_sweep(published)
        for name in published:
            table(name)  # so that a faulty table is reported before the runs, not after them
        return self.carry_out(overrides)

    def carry_out(self, overrides: Sequence[Override]) -> list[PointResult]:
        """Run the points of `overrides`, close the sweep with its report, and return how each point ended."""
        ended = self.run(self.points(overrides))
        self.close(ended)
        return ended

    def foreseen(self, overrides: Sequence[Override]) -> list[Expected]:
        """Return the runs that a plan is to expect."""
        return together(expected(self.standing(self.points(overrides))))

    def standing(self, points: Sequence[Sequence[str]]) -> list[tuple[Point, PointResult | None]]:
        """Return the points that train, one for each run folder, with the outcomes of those that need not be started.
        ConfigError for invalid values; missing images are no error."""
        found: dict[Path, tuple[Point, PointResult | None]] = {}
        for overrides in points:
            point = Point.of(overrides, "", self.composer.request(overrides))
            if (folder := point.folder()) is not None and folder not in found:
                found[folder] = (point, point.ended_before(self.served))
        return list(found.values())

    def asked(self, arguments: Sequence[str]) -> list[Override]:
        """Return the overrides of `params` followed by those of the command line; of equal keys the last counts."""
        return last_of_each(self.parsed([*written(self.params), *arguments]))

    def parsed(self, words: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(list(words))

    def run(
        self, points: Sequence[Sequence[str]], names: Sequence[str] | None = None, *, of: str = ""
    ) -> list[PointResult]:
        """Run each point once, wherever the launcher starts it, and return how each ended. ConfigError before anything
        starts if some are wrong. `names`: labels for the user; None: the overrides that distinguish each point. `of`:
        what the points belong to, if it is not the sweep."""
        return self.run_prepared(*self.prepared(points, names), of=of)

    def run_prepared(
        self, before: Mapping[int, PointResult], prepared: Sequence[Point], *, of: str
    ) -> list[PointResult]:
        """Run the points that `prepared` returned, other than those that ended `before`, and return how each ended."""
        ended = dict(before)
        first = {point.folder() or number: number for number, point in reversed(list(enumerate(prepared)))}
        todo = [number for number in sorted(first.values()) if number not in ended]
        extra = also_read([prepared[number] for number in todo])
        with out_of_sight(), View(prepared, of, total=len(before) + len(todo)) as view:
            for number in sorted(before):
                view.ended(number, before[number], skipped=True)
            for number, outcome in self._launched(prepared, todo, extra, view):
                ended[number] = outcome
                self.limit.count(outcome.fault)
                if not outcome.is_busy():
                    view.ended(number, outcome, skipped=False)
            busy = [number for number in todo if number in ended and ended[number].is_busy()]
            if busy and not self.limit.is_reached():
                logger.info("%d of the points were busy in another process; their results now", len(busy))
                for number, outcome in self._launched(prepared, busy, [*extra, "task.wait=true"], view):
                    ended[number] = outcome
                    self.limit.count(outcome.fault)
                    view.ended(number, outcome, skipped=False)
        for number in todo:
            if number not in ended or ended[number].is_busy():
                ended[number] = PointResult(prepared[number], None, NotStarted())
                self.limit.held += 1
        return [ended[number if number in ended else first[point.folder()]] for number, point in enumerate(prepared)]

    def close(self, ended: Sequence[PointResult]) -> None:
        """Write the report of the sweep, then raise ConfigError if points failed, points were not started, or the
        report could not be written."""
        failed = [outcome for outcome in ended if not isinstance(outcome.fault, NotStarted | None)]
        lines = [f"{len(failed)} of the sweep's {len(ended)} points failed"] if failed else []
        said = [fault(outcome.fault).splitlines() for outcome in failed]
        lines += [f"  {outcome.point.label}: {first}" for outcome, (first, *_) in zip(failed, said, strict=True)]
        lines += dict.fromkeys(line for _, *rest in said for line in rest)  # remedies, which many share
        if any(outcome.point.has_failed() and not isinstance(outcome.fault, FailedTrial) for outcome in failed):
            lines.append("task.retry=true tries again what failed by itself")
        lines += self.limit.said()
        try:
            close(ended, self.report, self.name, is_news=self._launches > 0)
        except ConfigError as error:  # such as a full disk, which must not hide the failures of points
            lines.append(f"no report: {error}")
        if lines:
            raise ConfigError("\n".join(lines))

    @cached_property
    def composer(self) -> Composer:
        """The composer that all points of this sweep share."""
        return Composer(self.hydra_context.config_loader, self.config)

    @cached_property
    def name(self) -> str:
        """The name of the sweep, which stays the same when a swept key gets more values."""
        given = self.parsed(self.config.hydra.overrides.task)
        words = [
            override.get_key_element() if override.is_sweep_override() else override.input_line for override in given
        ]
        lasting = sorted(word for word in words if not word.startswith(_ASIDE))
        choice = self.config.hydra.runtime.choices.experiment or "sweep"
        return f"{choice.replace('/', '_')}-{digest({'words': lasting})[:8]}"

    def prepared(
        self, points: Sequence[Sequence[str]], names: Sequence[str] | None = None
    ) -> tuple[dict[int, PointResult], list[Point]]:
        """Return the outcomes of the points that had ended before, by number, and all points; those left to run have
        been checked. ConfigError if some are wrong."""
        self.check_data(points)
        before: dict[int, PointResult] = {}
        prepared: list[Point] = []
        checked: dict[str, str | None] = {}
        wrong: dict[str, list[str]] = {}
        for overrides, label in zip(points, names or labels(points), strict=True):
            try:
                point, earlier = self._looked.pop(tuple(overrides), None) or self._look(overrides)
                point = replace(point, label=label)
                prepared.append(point)
                if earlier is not None:
                    before[len(prepared) - 1] = replace(earlier, point=point)
                elif point.experiment is not None:
                    check(point.experiment, checked)
            except (ConfigError, HydraException, OmegaConfBaseException) as error:
                wrong.setdefault(fault(error), []).append(label)
        if wrong:
            raise ConfigError(account(wrong, len(points)))
        return before, prepared

    def check_data(self, points: Sequence[Sequence[str]]) -> None:
        """Raise ConfigError at once if a large sweep cannot use its data, instead of after a look at all points."""
        if len(points) < _LARGE:
            return
        wrong: dict[str, str] = {}
        choices = by_data(points)
        for words, members in choices.items():
            if (point := self._first_to_do(members)) is not None:
                try:
                    point.experiment.data.check()
                except ConfigError as error:
                    wrong[words] = str(error)
        if wrong:
            raise ConfigError(account_of_data(wrong, len(choices)))

    def _first_to_do(self, points: Sequence[Sequence[str]]) -> Point | None:
        """Return the first point that has to train; None if there is none, or if an earlier point is wrong, which
        `prepared` reports."""
        for overrides in points:
            try:
                looked = self._looked.get(tuple(overrides)) or self._look(overrides)
            except (ConfigError, HydraException, OmegaConfBaseException):
                return None
            self._looked[tuple(overrides)] = looked
            if looked[1] is None:
                return looked[0] if looked[0].experiment is not None else None
        return None

    def _look(self, overrides: Sequence[str]) -> tuple[Point, PointResult | None]:
        """Return the point without a label, and its earlier outcome or None."""
        point = Point.of(overrides, "", self.composer.request(overrides))
        return point, point.ended_before(self.served)

    def _launched(
        self, points: Sequence[Point], numbers: Sequence[int], extra: Sequence[str], view: View
    ) -> Iterator[tuple[int, PointResult]]:
        """Launch the points of these numbers, and yield the number and outcome of each as it ends."""
        if not numbers:
            return
        self._launches += len(numbers)
        commands = [[*points[number].overrides, *extra, *self._grouped(points[number])] for number in numbers]
        if not isinstance(self.launcher, ProcessLauncher):
            together = len(numbers) if self.limit.most is None else 1
            for first in range(0, len(numbers), together):
                if self.limit.is_reached():
                    return
                jobs = self.launcher.launch(commands[first : first + together], initial_job_idx=first)
                for number, job in zip(numbers[first:], jobs, strict=False):
                    yield number, points[number].ended(None if job.status is JobStatus.COMPLETED else job._return_value)
            return
        folders = [points[number].folder() or self.launcher.folder / str(number) for number in numbers]
        with writing(folders[0]):  # before a process needs it that could not say so
            folders[0].mkdir(parents=True, exist_ok=True)
        jobs = [self.launcher.job(command, folder) for command, folder in zip(commands, folders, strict=True)]
        meanwhile: dict[int, PointResult] = {}
        at_work: set[int] = set()
        held: set[int] = set()

        def starts(position: int) -> bool:
            """Return whether to start the run: not if another sweep has done it by now, or the limit is reached."""
            number = numbers[position]
            if (outcome := points[number].ended_before(self.served)) is not None:
                meanwhile[number] = outcome
                return False
            if self.limit.is_reached():
                held.add(number)
                return False
            at_work.add(number)
            view.started(number)
            return True

        with closing(self.launcher.carry_out(jobs, starts)) as ending:  # closing it ends the runs still at work
            for position, exit_code in ending:
                number = numbers[position]
                at_work.discard(number)
                if number not in held:
                    fault_of_job = jobs[position].fault(exit_code)
                    yield number, meanwhile[number] if number in meanwhile else points[number].ended(fault_of_job)
                if self.limit.is_reached() and not at_work:
                    return

    def _grouped(self, point: Point) -> list[str]:
        """Return the override that makes the tracker group the runs of a sweep, unless the user set a group."""
        tracker = {} if point.experiment is None else point.experiment.config["tracker"]
        return [f"tracker.group={self.name}"] if "group" in tracker and tracker["group"] is None else []


def expected(standing: Sequence[tuple[Point, PointResult | None]]) -> list[Expected]:
    """Return the runs that a plan counts, which leaves out scoring out of distribution after the training."""
    return [
        Expected(point.experiment, ended=ended is not None or point.experiment.run.read_result() is not None)
        for point, ended in standing
    ]
