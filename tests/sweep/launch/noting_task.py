"""A task that writes down where it runs, or ends badly."""

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any

import torch

from peft_vision.core.config import Busy, ConfigError, component
from peft_vision.task.base import Task


@component
class Note(Task):
    act: str

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        facts = {
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "dtype": str(torch.get_default_dtype()),
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "mark": os.environ.get("MARK"),
            "collects": gc.isenabled() and gc.get_freeze_count() > 100_000,
        }
        print(f"notes {self.act}")
        Path(f"{self.act}.json").write_text(json.dumps(facts))
        torch.set_default_dtype(torch.float64)
        match self.act.rstrip("0123456789"):
            case "raise":
                raise RuntimeError("no luck\nnone at all")
            case "refuse":
                raise ConfigError("act: got refuse\nwrite note")
            case "busy":
                raise Busy("another process is at it")
            case "exit":
                sys.exit(3)
            case "wait":
                while not Path("go").exists():
                    sleep(0.01)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
