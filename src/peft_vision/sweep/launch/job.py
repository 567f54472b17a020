"""This module describes one run of a sweep as a command of its own, wherever its process is started."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.core.output import complain

_SAID = "peft-vision: "
_READ_BYTES = 2**16  # read from the end of a log
_OF_SHELLS = 128  # a shell's exit code is this plus the number of the signal that killed its command


@dataclass(frozen=True)
class Job:
    """The command of one run. `arguments`: what follows `peft-vision` on the command line. `log`: the file that
    receives what the run prints; `begins`: the byte of the log at which this attempt's output begins."""

    arguments: tuple[str, ...]
    log: Path
    begins: int

    @classmethod
    def of(cls, arguments: Sequence[str], log: Path) -> "Job":
        """Return a job that appends to `log`, after the output of earlier attempts at the same run."""
        return cls(tuple(arguments), log, log.stat().st_size if log.exists() else 0)

    def __call__(self) -> int:
        """Run the command in this process, which can do nothing else afterwards, and return the exit code."""
        from peft_vision.cli import main  # here, because the process that starts others does not need it

        self.take_output()
        sys.argv = ["peft-vision", *self.arguments]
        try:
            main()
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            complain(traceback.format_exc())
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return 0

    def has_begun(self) -> bool:
        """Return whether this attempt has written to the log or, with a log of its own, has opened it."""
        return self.log.exists() and (self.begins == 0 or self.log.stat().st_size > self.begins)

    def take_output(self) -> None:
        """Redirect all further output of this process, and of those it starts, to `log`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)

    def say(self, message: str) -> None:
        """Append a final message to the log of a run that ended without one."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write(f"\n{_SAID}{message}\n")

    def fault(self, exit_code: int) -> ConfigError | None:
        """Return the error of a run that ended with this exit code, in the words of its log; None for code 0."""
        if exit_code == 0:
            return None
        said, reason = self._last_words()
        signum = -exit_code if exit_code < 0 else exit_code - _OF_SHELLS
        if exit_code < 0 or (not reason and signum in set(signal.Signals)):
            name = signal.Signals(signum).name
            memory = ", as is done where memory runs out" if name == "SIGKILL" else ""
            return ConfigError(f"killed by {name}{memory}; {self.log}")
        kinds = {kind.exit_code: kind for kind in (*ConfigError.__subclasses__(), ConfigError)}
        return kinds.get(exit_code, ConfigError)(reason or said or f"ended with exit code {exit_code}")

    def _last_words(self) -> tuple[str, str]:
        """Return the log's last line, and the command's last message or else the exception of a traceback; "" for
        either that is missing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self.begins, os.fstat(file.fileno()).st_size - _READ_BYTES))
                text = "\n" + file.read(_READ_BYTES).decode(errors="replace").strip()
        except OSError:
            return "", ""
        line = text.splitlines()[-1]
        _, said, message = text.rpartition(f"\n{_SAID}")
        if said:
            return line, message
        _, trace, after = text.rpartition("\nTraceback ")
        raised = [line for line in after.splitlines()[1:] if line and not line[0].isspace()] if trace else []
        return line, raised[0] if raised else ""
