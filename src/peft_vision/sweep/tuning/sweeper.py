"""This module is the sweeper that tunes: it tries settings, chooses one, retrains it, and tests it.

1. every setting of the grid is trained on the training part and scored on validation; test images are not read
2. in each cell (method, backbone, images) validation chooses a setting
3. that setting is trained on training and validation images together, with every final seed, and tested
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from peft_vision.core.config import ConfigError, Pruned
from peft_vision.costs.expected import Expected, together
from peft_vision.sweep.grids import SweepOfGrids
from peft_vision.sweep.launch.deferred import check_optuna
from peft_vision.sweep.launch.process_launcher import checked
from peft_vision.sweep.overrides import key_of, last_of_each
from peft_vision.sweep.point import Point, PointResult
from peft_vision.sweep.points import PointSweeper, expected
from peft_vision.sweep.tuning.cells import SHOWN, Decision, Selection, by_cell, decisions, unknown
from peft_vision.sweep.tuning.choice import print_decisions, write_choice
from peft_vision.training.checks import check_stage

if TYPE_CHECKING:
    from peft_vision.sweep.search.search import Search
    from peft_vision.sweep.search.space import Space

logger = logging.getLogger("peft_vision")
_OWN = ("seed", "data.stage", "task.pruner")  # keys whose values the final runs set themselves


class Tuning(SweepOfGrids):
    """A sweeper that tunes, chooses and tests. `seeds`: seeds of the final runs. `selection`: the split that chooses;
    with test, as in some papers, the tuning runs themselves are the result, with these seeds. `search`: options of the
    search; with `n_trials` each cell is searched, without it every point is run."""

    def __init__(
        self,
        grids: Mapping[str, Mapping[str, object]],
        params: Mapping[str, str] | None,
        report: Mapping[str, Any] | None,
        seeds: Sequence[int],
        selection: Selection,
        max_failures: int | None = None,
        **search: Any,
    ) -> None:
        super().__init__(grids, params, report, max_failures)
        self.seeds = seeds
        self.selection = selection
        self.searches = search["n_trials"] is not None
        self._search = search

    def asked(self, arguments: Sequence[str]) -> list[Override]:
        """Return the overrides of the sweep, with the seeds if test images choose. ConfigError for what cannot be
        tuned."""
        _check_seeds(self.seeds)
        if self.selection not in ("validation", "test"):
            raise ConfigError(f"hydra.sweeper.selection: got {self.selection!r}, should be validation or test")
        if self.searches and self.selection == "test":
            raise ConfigError("hydra.sweeper.n_trials: a search goes by validation; it takes selection=validation")
        overrides = super().asked(arguments)
        if any(key_of(override) == "data.stage" for override in overrides):
            raise ConfigError("data.stage: hydra/sweeper=tune sets it")
        if self.selection == "test" and not any(key_of(override) == "seed" for override in self.parsed(arguments)):
            seeds = self.parsed([f"seed={','.join(map(str, self.seeds))}"])
            return last_of_each([*overrides, *seeds])
        return overrides

    def carry_out(self, overrides: Sequence[Override]) -> list[PointResult]:
        """Tune, choose, and return how the final runs ended, or with selection=test the chosen runs. ConfigError after
        the end if points failed."""
        tuned = self.searched(overrides) if self.searches else self.tuned(self.points(overrides))
        if self.limit.held:
            logger.info("nothing is chosen before all settings were tried")
            self.close([outcome for outcome in tuned if not isinstance(outcome.fault, Pruned)])  # raises
        decided = decisions(tuned, self.selection)
        honest = self.selection == "validation"
        results = self._test(decided) if honest else {decision: list(decision.chosen) for decision in decided}
        for decision, runs in results.items():
            write_choice(decision, runs, self.selection, Path(self.config.runs).expanduser())
        print_decisions(results, self.selection, grid=not self.searches)
        final = [outcome for runs in results.values() for outcome in runs]
        self.close([outcome for outcome in (*tuned, *final * honest) if not isinstance(outcome.fault, Pruned)])
        return final

    def foreseen(self, overrides: Sequence[Override]) -> list[Expected]:
        """Return the tuning runs, then the final ones: those of the chosen setting for a cell that is tuned, else an
        even spread over the cell's settings. With selection=test there are no final runs."""
        plain, spaces = self.spaces(overrides) if self.searches else (self.points(overrides), [])
        standing = self.standing([(*point, self.stage) for point in plain])
        tuning = together(expected(standing))
        ended = [end for _, end in standing if end is not None]
        for space in spaces:
            runs, outcomes = self._searching(space).foreseen()
            tuning += runs
            ended += outcomes
        if self.selection == "test":
            return tuning
        cells = by_cell(tuning)
        left = [cell for cell in cells if not all(run.ended for run in cell)]
        open_ = {run.experiment.identity for cell in left for run in cell}
        tuned = [outcome for outcome in ended if outcome.point.experiment.identity not in open_]
        chosen = self.standing([word for decision in decisions(tuned, "validation") for word in self._final(decision)])
        final = [*expected(chosen), *(run for cell in left for run in unknown(cell, self.seeds))]
        return [*tuning, *together(final)]

    def tuned(self, points: Sequence[Sequence[str]]) -> list[PointResult]:
        """Run every setting in the tuning stage, and return how each ended."""
        self.check_data([(*point, self.stage) for point in points])
        self.check_final(points)
        logger.info("%-9s %d points, scored on %s", "tuning", len(points), self.selection)
        return self.run([(*point, self.stage) for point in points])

    def searched(self, overrides: Sequence[Override]) -> list[PointResult]:
        """Search each cell and return how its trials' runs ended; where nothing varies in a cell, run its only
        setting."""
        plain, spaces = self.spaces(overrides)
        examples = [example for space in spaces for example in space.examples()]
        self.check_data(examples)
        self.check_final(examples)
        self.prepared(examples)  # so that a fault in the last cell is reported before the first is searched
        ended = self.tuned(plain) if plain else []
        for space in spaces:
            if self.limit.held:
                break
            _, trials = self._searching(space).carry_out()
            ended += [outcome for _, runs in trials.values() for outcome in runs]
        return ended

    def _searching(self, space: "Space") -> "Search":
        from peft_vision.sweep.search.search import Search
        from peft_vision.sweep.search.space import SearchOptions  # here, because Optuna may be missing

        return Search(self, space, checked(SearchOptions, {**self._search, "study": None}, "hydra.sweeper"))

    def spaces(self, overrides: Sequence[Override]) -> tuple[list[tuple[str, ...]], list["Space"]]:
        """Return the points of cells in which nothing but the seed varies, and the search spaces of the others.
        ConfigError without Optuna."""
        check_optuna()
        from peft_vision.sweep.search.space import Space  # here, because Optuna may be missing

        plain: list[tuple[str, ...]] = []
        spaces: list[Space] = []
        for crossing in self.crossings(overrides):
            varied = [
                override for override in crossing if override.is_sweep_override() and not _tells_cells_apart(override)
            ]
            if all(key_of(override) == "seed" for override in varied):
                plain += PointSweeper.points(self, crossing)
                continue
            for cell in PointSweeper.points(self, [override for override in crossing if override not in varied]):
                spaces.append(Space.of([*self.parsed([*cell, self.stage]), *varied]))
        return plain, spaces

    @property
    def stage(self) -> str:
        """The override that makes a run a tuning run."""
        return "data.stage=tune" if self.selection == "validation" else "data.stage=peek"

    def check_final(self, points: Sequence[Sequence[str]]) -> None:
        """Raise ConfigError before tuning for what the final runs would refuse after it."""
        for overrides in points:
            with suppress(HydraException, OmegaConfBaseException):  # `run` reports these with all other faults
                request = self.composer.request(overrides)
                try:
                    experiment = Point.of(overrides, "", request).experiment
                except ConfigError:
                    continue
                if experiment is None:
                    raise ConfigError("task: hydra/sweeper=tune trains; write task=train")
                if self.selection == "validation":
                    arguments = {"trainer": experiment.trainer, "interpolation": experiment.interpolation}
                    check_stage("final", optimizers={}, **arguments)

    def _test(self, decided: Sequence[Decision]) -> dict[Decision, list[PointResult]]:
        """Run the final runs of each cell, and return how they ended, in the order of the seeds."""
        finals = {decision: self._final(decision) for decision in decided}
        words = list(dict.fromkeys(word for cell_words in finals.values() for word in cell_words))
        logger.info("%-9s %d runs of what was chosen", "final", len(words))
        ended = dict(zip(words, self.run(words), strict=True)) if words else {}
        return {decision: [ended[word] for word in words] for decision, words in finals.items()}

    def _final(self, decision: Decision) -> list[tuple[str, ...]]:
        if not decision.chosen:
            return []
        point = decision.chosen[0].point
        together = [group for group, fitting in point.experiment.optimizers.items() if getattr(fitting, "seeds", None)]
        alone = [f"{group}.seeds=null" for group in together]  # a final run is of one seed
        given = {word.partition("=")[0] for word in (*decision.inner, *alone)}
        kept = [word for word in point.overrides if word.lstrip("+").partition("=")[0] not in {*_OWN, *given}]
        return [(*kept, *decision.inner, *alone, "data.stage=final", f"seed={seed}") for seed in self.seeds]


def _tells_cells_apart(override: Override) -> bool:
    """Return whether the values belong to different cells, since accuracies of different methods or images do not
    compare."""
    group, _, rest = key_of(override).partition(".")
    return (not rest and group in ("method", "backbone", "data")) or (group == "data" and rest not in SHOWN)


def _check_seeds(seeds: Sequence[int]) -> None:
    right = isinstance(seeds, Sequence) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not right or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"hydra.sweeper.seeds: got {seeds}, should be whole numbers, such as [0,1,2]")
