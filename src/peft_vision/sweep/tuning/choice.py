"""This module writes choice.json, which says how a run's setting was chosen, into the folder of each run concerned, and
prints the choices."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from filelock import FileLock
from rich.table import Table

from peft_vision.core.output import Console, one_line
from peft_vision.core.records import Unreadable
from peft_vision.objective.base import Metric
from peft_vision.report.choose import rule_of
from peft_vision.runs.run import Run, writing
from peft_vision.runs.run_records import Choice
from peft_vision.sweep.point import PointResult
from peft_vision.sweep.tuning.cells import Decision, Selection, setting

logger = logging.getLogger("peft_vision")


def write_choice(decision: Decision, results: Sequence[PointResult], selection: Selection, runs: Path) -> None:
    """Write the choice for `results`, runs of the setting that won, and update the earlier choices in the folder `runs`
    that it affects. DiskFault if they cannot be written."""
    done = [outcome for outcome in results if outcome.result is not None]
    if not done:
        return
    rule = rule_of(decision.metric)
    record = Choice(
        settings=decision.settings,
        runs=len({outcome.point.experiment.identity for outcome in decision.tuned}),
        rule=rule if selection == "validation" else rule.replace("validation", "test"),
        selection=selection,
        validation=decision.value if selection == "validation" else None,
        validation_loss=decision.loss if selection == "validation" else None,
        chosen=dict(decision.values),
        superseded=False,
        tuned=sorted(outcome.point.experiment.identity for outcome in decision.chosen),
        setting=setting(done[0].point.experiment),
    )
    experiments = [outcome.point.experiment for outcome in decision.tuned]
    competed = {name for experiment in experiments for name in (experiment.identity, experiment.first_identity)}
    # these even if an earlier version computed another digest of their setting
    folders = {outcome.point.folder() for outcome in done}
    with writing(runs), FileLock(runs / ".choice.lock"):
        for folder in {
            *(path.parent for path in runs.glob("*/choice.json")),
            *(outcome.point.folder() for outcome in done),
        }:
            run = Run(folder)
            try:
                before = run.read_choice()
            except Unreadable as error:
                logger.warning("%s; it is neither used nor replaced", one_line(error))
                continue
            if folder in folders or before is None or before.setting == record.setting:
                now = record
            else:
                now = before.model_copy(update={"superseded": before.superseded or competed.issuperset(before.tuned)})
            if now != before:
                run.write_choice(now)


_TITLES = {
    "validation": "chosen by validation; trained on training and validation images; tested once",
    "test": "chosen by test, as some papers do: no honest figures",
}
_COLUMNS = ("", "chosen", "of settings", "validation", "test", "seeds")
_WIDEST = 200


def print_decisions(results: Mapping[Decision, Sequence[PointResult]], selection: Selection, *, grid: bool) -> None:
    """Print a row for each cell, with the runs of the setting that won. `grid`: whether the settings came from a grid,
    so that a value at its edge is worth a note."""
    table = Table.grid(padding=(0, 3, 0, 0))
    for column in _COLUMNS:
        table.add_column(justify="left" if column in ("", "chosen") else "right", no_wrap=True)
    units = {f", {'%' if decision.metric.is_fraction else decision.metric.name}" for decision in results}
    unit = units.pop() if len(units) == 1 else ""
    table.add_row(*(f"{column}{unit}" if column in ("validation", "test") else column for column in _COLUMNS))
    for decision, runs in results.items():
        metric = decision.metric
        tested = [outcome.result.metrics.get(f"test/{metric.name}") for outcome in runs if outcome.result is not None]
        scores = [score for score in tested if score is not None]
        validation = decision.value if selection == "validation" else None
        table.add_row(
            decision.name,
            _chosen(decision),
            str(decision.settings),
            "" if validation is None else metric.number(validation),
            _mean_and_deviation(scores, metric),
            str(len(tested)),
        )
    console = Console(width=_WIDEST)
    console.print(f"\n{_TITLES[selection]}")
    console.print(table)
    for decision in results if grid else ():
        for edge in decision.edges:
            console.print(f"note      {decision.name}: {edge}; a wider grid may hold a better one")


def _chosen(decision: Decision) -> str:
    if not decision.chosen:
        return "none: all failed"
    return " ".join(f"{key}={value}" for key, value in decision.values.items()) or "the only setting"


def _mean_and_deviation(scores: Sequence[float], metric: Metric) -> str:
    if not scores:
        return ""
    deviation = f" ± {metric.number(stdev(scores))}" if len(scores) > 1 else ""
    return f"{metric.number(fmean(scores))}{deviation}"
