"""This module shows a run once its records are written: tables on the terminal, pictures in its folder.

No failure here may lose the result: what cannot be shown is reported in a warning.
"""

import json
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft_vision.core.guide import fault
from peft_vision.report.comparison import draw
from peft_vision.report.finished import read
from peft_vision.report.id_ood import comparisons
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run
from peft_vision.task.mirrored import mirrored

_log = logging.getLogger("peft_vision")
_OF = ("metrics", "images", "interpolation")  # keys of the record that pictures depend on
PICTURES = "pictures"


def told(what: str, tell: Callable[[], object], folder: Path) -> None:
    """Call `tell`; if that fails, warn that `what` cannot be shown and that `folder` has all of it."""
    try:
        tell()
    except BrokenPipeError:  # nobody reads the output any more, which is not a fault
        raise
    except Exception as error:
        _log.warning("cannot show %s: %s; all of it is in %s", what, fault(error), folder)


def are_drawn(record: Mapping[str, Any], run: Run) -> bool:
    """Return whether all pictures that belong to the out-of-distribution record are in the run's folder."""
    if PICTURES not in record:  # a record of version 0.1.0
        return any(run.folder.glob("ood-*.png"))
    drawn = record[PICTURES]
    if not isinstance(drawn, Mapping) or drawn.get("of") != _mark(record):
        return False
    names = drawn.get("files")
    return isinstance(names, list) and all((run.folder / str(name)).is_file() for name in names)


def is_settled(experiment: Experiment) -> bool:
    """Return whether nothing is left to do in the folder of a run that is finished and scored: no file of a killed
    process is left over, and no picture is missing."""
    run = experiment.run
    asked = bool(experiment.ood or experiment.interpolation.alphas) and experiment.data.stage != "tune"
    record = run.read_ood() if asked else None
    return not run.has_leftovers() and (record is None or are_drawn(record, run))


def show_pictures(experiment: Experiment, run: Run, record: Mapping[str, Any]) -> None:
    """Draw the pictures in the run's folder, add them to its tracker, and record that they are drawn."""
    run.write_ood({**record, PICTURES: None})  # not drawn yet: a process killed below leaves only some of them
    (comparison,) = comparisons([read(run.folder)], reference=None, transform="probit")
    names = draw(comparison, run.folder, "ood")
    run.write_ood({**record, PICTURES: {"of": _mark(record), "files": names}})
    with mirrored(experiment, run) as log:
        log.summary(record["metrics"])
        log.pictures({Path(name).stem: run.folder / name for name in names})


def _mark(record: Mapping[str, Any]) -> str:
    text = json.dumps({key: record[key] for key in _OF if key in record}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"
