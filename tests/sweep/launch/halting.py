"""A tracker that halts a run once it has the metrics of three epochs, until there is a file `go`, and that takes its
time after each further epoch, so that a signal finds the run at work."""

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import peft_vision
from peft_vision.core.config import component
from peft_vision.tracker.trackers import Log, NoTracker

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join([str(HERE), str(Path(peft_vision.__file__).parents[1])])
CHOSEN = ("--config-dir", "mine", "tracker=halt")


class SlowLog(Log):
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step == 3:
            Path(f"halted-{os.getpid()}").touch()
        while step == 3 and not Path("go").exists():
            time.sleep(0.01)
        if step > 3:
            time.sleep(0.1)


@component
class Halt(NoTracker):
    def open(self, **_: Any) -> AbstractContextManager[Log]:
        return nullcontext(SlowLog())


def write_option(folder: Path) -> None:
    """Make `CHOSEN` choose it in that folder, for commands that have `PYTHONPATH`."""
    (folder / "mine" / "tracker").mkdir(parents=True)
    (folder / "mine" / "tracker" / "halt.yaml").write_text("_target_: halting.Halt\n")


def halted(folder: Path) -> list[int]:
    """The processes of the runs that have halted there so far."""
    return [int(path.name.removeprefix("halted-")) for path in folder.glob("halted-*")]
