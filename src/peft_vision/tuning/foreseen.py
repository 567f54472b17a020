"""Final runs before it is known which settings they will be of."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from peft_vision.experiment import Experiment
from peft_vision.tuning.cells import images_and_model


def by_cell(experiments: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    """In the order in which cells first appear."""
    cells: dict[str, list[Experiment]] = {}
    for its in experiments:
        cells.setdefault(images_and_model(its), []).append(its)
    return cells


def as_final(tuning: Experiment, seed: int) -> Experiment:
    """The final run of this setting."""
    data = {**tuning.config["data"], "stage": "final"}
    config = {**tuning.config, "data": data, "seed": seed}
    return replace(tuning, data=replace(tuning.data, stage="final"), seed=seed, config=config)


def evenly(experiments: Sequence[Experiment], times: float) -> list[tuple[Experiment, float]]:
    """`times` runs in all, each as likely as the others."""
    return [(its, times / len(experiments)) for its in experiments]
