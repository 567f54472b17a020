"""This module starts every run of a sweep as a Ray task, in a fresh process of a cluster or, without one, of this
machine.

Ray restarts a run whose process or machine died, and the run continues from its saved state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import OmegaConf

from peft_vision.core.config import ConfigError
from peft_vision.core.output import first_line
from peft_vision.sweep.launch.process_launcher import Job, ProcessLauncher

_DIED = 1
_POLL_SECONDS = 1.0


class RayLauncher(ProcessLauncher):
    """A launcher that starts runs as Ray tasks. `init`: arguments of ray.init, such as a cluster's address; `task`: the
    resources that each run requests, as ray.remote takes them."""

    at_once = None

    def __init__(self, init: Mapping[str, Any], task: Mapping[str, Any]) -> None:
        self.init, self.task = (OmegaConf.to_container(OmegaConf.create(options)) for options in (init, task))

    def carry_out(self, jobs: Sequence[Job], starts: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        if find_spec("ray") is None:
            raise ConfigError("hydra/launcher: this one needs Ray; pip install 'peft-vision[ray]'")
        import ray  # here, because other launchers do without

        try:
            ray.init(**self.init)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            ray.shutdown()
            raise ConfigError(f"hydra.launcher: Ray does not start: {first_line(error)}") from error
        # max_calls: runs that share a process leak state into each other
        begin = ray.remote(max_calls=1, **self.task)(Job.__call__).options(name="peft-vision").remote
        waiting = {begin(job): number for number, job in enumerate(jobs)}
        begun: set[int] = set()
        try:
            while waiting:
                over, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
                for number in sorted({*waiting.values()} - begun):
                    if jobs[number].has_begun():  # only then: Ray queues the tasks that find no room
                        begun.add(number)
                        starts(number)
                for ended in over:
                    number = waiting.pop(ended)
                    try:
                        exit_code = ray.get(ended)
                    except ray.exceptions.RayError as error:
                        jobs[number].say(f"Ray: {first_line(error)}")
                        exit_code = _DIED
                    yield number, exit_code
        finally:
            for task in waiting:
                ray.cancel(task, force=True)
            ray.shutdown()
