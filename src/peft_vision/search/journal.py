"""This module opens a study's journal, a file that several processes append to, on one machine or on several that share
the folder."""

import logging
import os
import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from peft_vision.runs.run import writing


def open_journal(path: Path) -> JournalStorage:
    """Open the journal at `path`, and create it if there is none. ConfigError if it cannot be written."""
    optuna.logging.set_verbosity(logging.ERROR)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(path))
        lock.acquire()
        try:
            _mend(path)
        finally:
            lock.release()
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off a line that a killed process left unfinished, since anything appended to it would be unreadable."""
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
            file.flush()
            os.fsync(file.fileno())
