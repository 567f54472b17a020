"""This module mirrors a run to where people look at it: Weights & Biases, or nowhere; others have files beside this.

The run folder is the record. So whatever breaks in a mirror after the start is one warning, and never ends a training;
what cannot be mirrored online is written offline, and one line says how to upload it.
"""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from math import inf
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from peft_vision.core.config import ConfigError, component
from peft_vision.core.output import complain
from peft_vision.core.process_variables import awaited_run

if TYPE_CHECKING:
    import wandb

PROJECT_LENGTH = 128  # W&B's own limits
TAG_LENGTH = 64
NAME_FORBIDS = "/\\#?%:"


class Log:
    """A log that takes the numbers of one run; this one keeps none."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Mirror the values after epoch `step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Mirror the final figures of the run; later values replace earlier ones of the same name."""

    def pictures(self, files: Mapping[str, Path]) -> None:
        """Mirror PNG files, by what they show."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table with values of one kind in each column, None where there is none."""


class Tracker(ABC):
    """A tracker that opens a log for each run."""

    @abstractmethod
    def check(self) -> None:
        """Raise ConfigError for what can be seen to fail without a connection."""

    def is_awaited(self) -> bool:
        """Return whether somebody waits for the figures of just this process, even if the run was done before."""
        return False

    @abstractmethod
    def open(
        self,
        *,
        run_id: str,
        name: str,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
        folder: Path,
    ) -> AbstractContextManager[Log]:
        """Open a log that is closed with the block, as failed if an exception leaves it; `folder` must exist.

        Opening the same `run_id` again continues the same run; an agent's run is that of the agent, whatever the
        `run_id`.
        """


def require(package: str, *, extra: str) -> None:
    """Raise ConfigError if a tracker's package is not installed. `extra`: the extra of peft-vision that has it."""
    if find_spec(package) is None:
        raise ConfigError(f"tracker: it needs {package}, which is not installed: pip install 'peft-vision[{extra}]'")


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a config by dotted key, lists as they are."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers, as floats."""
    kept = {name: value for name, value in values.items() if isinstance(value, Real) and not isinstance(value, bool)}
    return {name: float(value) for name, value in kept.items()}


@component
class NoTracker(Tracker):
    """A tracker that mirrors nothing."""

    def check(self) -> None:
        pass

    def open(self, **_: Any) -> AbstractContextManager[Log]:
        return nullcontext(Log())


@component
class WandbTracker(Tracker):
    """A tracker that mirrors to Weights & Biases, by its own client. `group` replaces the run's, `tags` are added."""

    mode: Literal["auto", "online", "offline"]
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    init_timeout: Annotated[float, Field(gt=0)]
    finish_timeout: Annotated[float, Field(gt=0)]

    def check(self) -> None:
        for key, value in {"project": self.project, "entity": self.entity}.items():
            if value is not None and not 0 < len(value.strip()) <= PROJECT_LENGTH:
                raise ConfigError(f"tracker.{key}: got {value!r}, W&B takes 1 to {PROJECT_LENGTH} characters")
            if forbidden := sorted(set(value or "") & set(NAME_FORBIDS)):
                raise ConfigError(f"tracker.{key}: got {value!r}, W&B does not take {' '.join(forbidden)} in its name")
        for tag in self.tags:
            if not tag.strip() or not tag.isprintable():
                raise ConfigError(f"tracker.tags: got {tag!r}, a tag is 1 to {TAG_LENGTH} printable characters")

    def is_awaited(self) -> bool:
        """Return whether the agent of a W&B sweep started this process."""
        return awaited_run() is not None

    @contextmanager
    def open(
        self,
        *,
        run_id: str,
        name: str,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
        folder: Path,
    ) -> Iterator[Log]:
        import wandb  # here, because it takes half a second that --help must not

        notice = _Notice()
        arguments = {
            "id": run_id,
            "name": name,
            "group": self.group or group,
            "job_type": job_type,
            "tags": list(dict.fromkeys(tag[:TAG_LENGTH] for tag in (*tags, *self.tags))),
            "config": dict(config),
            "dir": folder,
            "project": self.project,
            "entity": self.entity,
        }
        try:
            run = self._start(wandb, notice, arguments)
        except ValidationError as error:  # a variable such as WANDB_BASE_URL
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            raise ConfigError(f"tracker: W&B's {key}: got {fault['input']!r}, {fault['msg']}") from error
        mirror = _Mirror(run, notice)
        exit_code = 1
        try:
            yield mirror
            exit_code = 0
        finally:
            mirror.finish(exit_code)

    def _start(self, wandb: Any, notice: "_Notice", arguments: Mapping[str, Any]) -> "wandb.Run":
        session = wandb.setup(settings=wandb.Settings(silent=True))
        session_settings = session.settings
        known = None if session_settings.sweep_id is None else (session_settings.sweep_id, session_settings.run_id)
        if known != awaited_run():  # W&B reads its variables once; those of an agent come and go
            wandb.teardown()
            session = wandb.setup(settings=wandb.Settings(silent=True))
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
        )
        # on a silent terminal W&B prompts for nothing; what it would have warned of goes to `notice`
        wandb.termsetup(settings, notice)
        begin = partial(wandb.init, settings=settings, resume="allow", reinit="finish_previous", **arguments)
        try:
            # without a mode W&B heeds WANDB_MODE and its own settings file
            run = begin(mode=None if self.mode == "auto" else self.mode)
            reason = "tracker.mode=offline" if self.mode == "offline" else "as WANDB_MODE or W&B settings ask"
        except wandb.Error as error:
            reason = _reason(error, session.settings.base_url)
            if self.mode != "auto":
                raise ConfigError(f"tracker.mode={self.mode}: {reason}; auto would go on offline") from error
            wandb.teardown()  # W&B's service holds the id of the failed start for good
            wandb.setup(settings=wandb.Settings(silent=True))
            wandb.termsetup(settings, notice)
            run = begin(mode="offline")
        if run.offline and not run.disabled:
            _say(f"logged offline ({reason}); to upload this run later: {_sync(run)}")
        run.define_metric("*", step_metric="epoch")  # W&B's own step starts again in an offline resume
        return run


class _Mirror(Log):
    """A log that mirrors to one run of W&B. Whatever fails in it is noticed, not raised."""

    def __init__(self, run: "wandb.Run", notice: "_Notice") -> None:
        self._run = run
        self._notice = notice
        self._known = _last_epoch(run)
        notice.remedy = f"the run folder has it all; to upload it later: {_sync(run)}"

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step > self._known:
            self._send(self._run.log, {**values, "epoch": step})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._send(self._run.summary.update, dict(values))

    def pictures(self, files: Mapping[str, Path]) -> None:
        import wandb

        self._send(self._run.log, {name: wandb.Image(str(file)) for name, file in files.items()})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        self._send(self._run.log, {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def finish(self, exit_code: int) -> None:
        import wandb

        if not self._send(self._run.finish, exit_code):
            self._send(wandb.teardown, 0)  # so that the next run gets a service that is alive

    def _send(self, send: Callable[[Any], None], content: Any) -> bool:
        try:
            send(content)
        except (Exception, SystemExit) as error:  # W&B's teardown exits where its service has failed
            self._notice.warning(str(error) or type(error).__name__)
            return False
        return True


class _Notice:
    """A logger for W&B that prints the first warning of a run, and how to repair it."""

    def __init__(self) -> None:
        self.remedy: str | None = None  # None until the run has started: until then faults are exceptions

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        if self.remedy:
            _say(f"{_sentence(message)}; {self.remedy}")
            self.remedy = None

    error = warning


def _last_epoch(run: "wandb.Run") -> float:
    """Return the last epoch that W&B has of a resumed run, else -inf; after a kill, some of its epochs are trained
    again, with the same figures."""
    epoch = run.summary.get("epoch") if run.resumed else None
    return epoch if isinstance(epoch, int | float) else -inf


def _reason(error: Exception, server: str) -> str:
    """Return why W&B did not start, in one clause."""
    if "No API key" in str(error):
        return "no API key: set WANDB_API_KEY or call wandb login"
    return f"{server} does not accept this run: {_sentence(str(error))}"


def _sentence(message: str) -> str:
    """Return the first sentence of a message, without W&B's prefix for terminals."""
    plain = re.sub(r"^wandb: (WARNING |ERROR )?", "", message.strip())
    return plain.partition("\n")[0].partition(". ")[0].rstrip(".")


def _sync(run: "wandb.Run") -> str:
    online = "" if run.offline else "--no-skip-online "  # else wandb takes an online run for uploaded
    return f"wandb sync {online}{shlex.quote(run.settings.sync_dir)}"


def _say(line: str) -> None:
    complain(f"W&B: {line}")
