"""Run a paper's table, or go on with it, and set it beside what was published.

Each run is a training as any other; it is the sweep that ends with the comparison.
"""

from peft_vision.config import component
from peft_vision.task.train import Train

NO_TABLE = (
    "task=reproduce: no table to compare with; write experiment=vtab/vpt or another of experiment/vtab and "
    "experiment/fgvc, or hydra.sweeper.report.published=[vpt_vtab]"
)


@component
class Reproduce(Train):
    """As Train, in a sweep whose report names published tables."""
