"""This module runs a paper's table, or continues it, and compares the results with the published figures.

Each run is an ordinary training; the comparison is made at the end of the sweep.
"""

from collections.abc import Sequence

from peft_vision.core.config import ConfigError, component
from peft_vision.task.train import Train

NO_TABLE = (
    "task=reproduce: no table to compare with; write experiment=vtab/vpt or another of experiment/vtab and "
    "experiment/fgvc, or hydra.sweeper.report.published=[vpt_vtab]"
)


@component
class Reproduce(Train):
    """A training in a sweep whose report names published tables."""

    def check_sweep(self, published: Sequence[str]) -> None:
        """Raise ConfigError if there is no published table to compare with."""
        if not published:
            raise ConfigError(NO_TABLE)
