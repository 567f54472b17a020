"""This module chooses the setting of each method, the one with the highest mean validation accuracy over its seeds, or
the best of another objective's metric, and finds the protocol of its test figure.

A setting is everything in a config that can change a result, except the seed, and data.split_seed where every run has
its seed there. Only the settings with the most seeds compete; of equal ones the lowest mean validation loss wins, then
the smallest optimizer.lr, then the first in the alphabetical order of their values. No test/ or ood/ metric is used;
with data.stage=peek, however, the validation images are the test images (see `on_test`).

The protocol says which images were trained on, and which images chose the setting. It is an axis of a report, as the
data set is: figures of two protocols are of the same test images, but can neither be compared nor averaged. Each
leaderboard and each table shows one protocol.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from peft_vision.objective.base import DIGITS, Merit, Metric
from peft_vision.report.finished import RunRecord, is_tuning

RULE = (
    "of the settings with the most seeds, the highest mean validation accuracy; of equal ones the lowest mean "
    "validation loss, then the smallest optimizer.lr"
)
"""The rule in words, where accuracy decides."""

Protocol = Literal["all", "final", "peek"]

WORDS: Mapping[Protocol, str] = {
    "all": "validation images kept apart",
    "final": "trained on validation images too",
    "peek": "chosen on test images",
}
_TUNED_FOR: tuple[Protocol, ...] = ("final", "all", "peek")  # what runs of data.stage=tune prepare, the likeliest first
_ANY: tuple[Protocol, ...] = ("all", "final", "peek")


@dataclass(frozen=True)
class Setting:
    """A setting: its `runs`, sorted by seed, and the values by which it differs from the others of its cell."""

    runs: tuple[RunRecord, ...]
    own: Mapping[str, Any]

    @property
    def validation(self) -> float | None:
        """Return the mean of the metric on validation, which is accuracy for one class a picture; None if a run has
        none, neither its own nor one that its sweep recorded."""
        return self._mean(_validation)

    @property
    def validation_loss(self) -> float | None:
        """Return the mean loss on validation; None if a run has none, as where its sweep was of an early version."""
        return self._mean(_validation_loss)

    @property
    def merit(self) -> Merit:
        """Return rank and loss of the setting on validation, by which it is chosen."""
        validation = self.validation
        return Merit.of(0.0 if validation is None else self.metric.rank(validation), self.validation_loss)

    def _mean(self, of_run: Callable[[RunRecord], float | None]) -> float | None:
        found = [value for run in self.runs if (value := of_run(run)) is not None]
        return round(fmean(found), DIGITS) if len(found) == len(self.runs) else None

    @property
    def metric(self) -> Metric:
        """Return the metric by which it was chosen."""
        return self.runs[0].metric

    @property
    def tried(self) -> int:
        """Return how many settings each run of it tried: one, or as many as its grid or solver."""
        return max(run.within for run in self.runs)

    @property
    def on_test(self) -> bool:
        """Return whether the setting or its epoch was chosen on the same test images that its figures are from."""
        return any(
            run.setting.get("data.stage") == "peek" or (run.choice is not None and run.choice.selection == "test")
            for run in self.runs
        )

    @property
    def label(self) -> str:
        """Return text such as "optimizer.lr=0.001, trainer.epochs=20"; empty for the only setting of a cell."""
        return ", ".join(f"{key.removesuffix('._target_')}={_text(key, value)}" for key, value in self.own.items())


@dataclass(frozen=True)
class MethodCell:
    """The settings of one method on one backbone and data set. `chosen`: None where validation cannot decide, for the
    reason in `undecided`."""

    method: str
    settings: tuple[Setting, ...]
    chosen: Setting | None
    undecided: str = ""

    @property
    def fewer(self) -> int:
        """Return how many settings have fewer seeds than others."""
        return sum(len(setting.runs) < len(self.settings[0].runs) for setting in self.settings)


def rule_of(metric: Metric) -> str:
    """Return the rule in words, where this metric decides."""
    best = "highest" if metric.higher_is_better else "lowest"
    return RULE.replace("highest mean validation accuracy", f"{best} mean validation {metric.words}")


def without_split_seeds(runs: Sequence[tuple[Mapping[str, Any], int]]) -> list[dict[str, Any]]:
    """Return the setting of each run, given with its seed: without data.split_seed, which is no setting of its own,
    where that is the seed of every run, as with ${seed}."""
    key = "data.split_seed"
    of_seed = key if all(setting.get(key) == seed for setting, seed in runs) else None
    return [{name: value for name, value in setting.items() if name != of_seed} for setting, _ in runs]


def cell(method: str, runs: Iterable[RunRecord]) -> MethodCell:
    """Return the cell of all runs of this method, its settings sorted by the rule with the best first."""
    runs, grouped = list(runs), {}
    for run, values in zip(runs, without_split_seeds([(run.setting, run.seed) for run in runs]), strict=True):
        grouped.setdefault(_key(values), (values, []))[1].append(run)
    differing = _differing([values for values, _ in grouped.values()])
    settings = [
        Setting(
            tuple(sorted(members, key=lambda run: run.seed)),
            {key: value for key, value in values.items() if key in differing},
        )
        for values, members in grouped.values()
    ]
    settings.sort(key=_order)
    if len(settings) > 1 and any(setting.validation is None for setting in settings):
        fault = (
            f"cannot choose among {len(settings)} settings without validation accuracy; data.val_fraction=0.1 gives it"
        )
        return MethodCell(method, tuple(settings), None, fault)
    return MethodCell(method, tuple(settings), settings[0])


def _validation(run: RunRecord) -> float | None:
    value = run.metrics.get(f"val/{run.metric.name}")
    return run.choice.validation if value is None and run.choice is not None else value


def _validation_loss(run: RunRecord) -> float | None:
    value = run.metrics.get("val/loss")
    return run.choice.validation_loss if value is None and run.choice is not None else value


def _order(setting: Setting) -> tuple[float, float, float, float, str]:
    values, merit = setting.runs[0].setting, setting.merit
    lr = values.get("optimizer.lr")
    return (
        -len(setting.runs),
        -merit.rank,
        -merit.ease,
        lr if isinstance(lr, int | float) else float("inf"),
        _key(values),
    )


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the keys with several values. A key that a setting lacks differs too, unless its group has another class
    there, which already tells the settings apart."""
    classes: dict[str, set[str]] = {}
    values: dict[str, set[str | None]] = {}
    for key in {key for setting in settings for key in setting}:
        values[key] = {_key(setting[key]) if key in setting else None for setting in settings}
        if key.endswith("._target_"):
            classes[key.partition(".")[0]] = values[key]
    elsewhere = {group for group, found in classes.items() if len(found) > 1}
    for key, found in values.items():
        if key.partition(".")[0] in elsewhere:
            found.discard(None)
    return {key for key, found in values.items() if len(found) > 1}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, str):
        return _key(value)
    return value.rpartition(".")[2] if key.endswith("._target_") else value


def protocol(run: RunRecord) -> Protocol:
    """Return the protocol of a run that saw test images. Without validation images it is final, because all images
    outside the test split trained."""
    stage = run.setting.get("data.stage")
    if stage == "peek":
        return "peek"
    return "final" if stage == "final" or "val" not in run.images else "all"


def protocols(setting: Mapping[str, Any]) -> tuple[Protocol, ...]:
    """Return the protocols that a run without a test figure may belong to, the likeliest first."""
    if is_tuning(setting):
        return _TUNED_FOR
    stage = setting.get("data.stage", "all" if any(key.startswith("data.") for key in setting) else None)
    return (stage,) if isinstance(stage, str) and stage in WORDS else _ANY


def titled(name: str, protocol_name: Protocol, among: Iterable[Protocol]) -> str:
    """Return the name, with the protocol in words where `among` holds several."""
    return f"{name}, {WORDS[protocol_name]}" if len(set(among)) > 1 else name
