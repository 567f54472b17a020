"""This module calls a function in a fresh process, whose memory holds nothing else and which may die."""

import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.lifeline import follow_parent
from peft_vision.core.wording import first_line


@dataclass(frozen=True)
class Failure:
    """The reason, in one line, why a function returned nothing; `traceback` is for the author of the function."""

    reason: str
    traceback: str


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of `function(*arguments)`, called in a process of its own, or a Failure. The process ends with
    the call, however that ends, and with this process."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_call, args=(sender, function, arguments))
    try:
        process.start()
        sender.close()
        outcome = receiver.recv()
    except EOFError:
        process.join()
        outcome = Failure(_ending(process.exitcode), "")
    except BaseException:  # such as Ctrl-C or SIGTERM: the process only measures, so that nothing is lost
        if process.pid is not None:
            process.kill()
        raise
    finally:
        if process.pid is not None:
            process.join()
        receiver.close()
    return outcome


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Call `function` in the new process and send back its result, or a Failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this
    follow_parent()
    logging.getLogger("peft_vision").setLevel(logging.ERROR)
    try:
        outcome = function(*arguments)
    except ConfigError as error:
        outcome = Failure("; ".join(str(error).splitlines()), "")
    except Exception as error:
        said = f": {first_line(error)}" if str(error).strip() else ""
        outcome = Failure(f"{type(error).__name__}{said}", traceback.format_exc())
    sender.send(outcome)
    sender.close()


def _ending(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
    return f"its process ended {how}"
