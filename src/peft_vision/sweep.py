"""A sweep of which one point that fails stops no other: it goes on to its end, table and all, then lists the faults."""

import logging
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from peft_vision.config import Busy, ConfigError
from peft_vision.wording import fault

logger = logging.getLogger("peft_vision")


class Points(BasicSweeper):
    """As Hydra's own, with `params` and `max_batch_size`, but patient."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """What the points returned that did not fail. ConfigError after the end, where any did."""
        patient = _Patient(self.launcher)
        self.launcher = patient
        returns = super().sweep(arguments)
        if patient.failed():
            # Hydra would not come to the end of a sweep that raises
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=None)
            raise ConfigError(patient.account())
        return returns


class _Patient:
    """A launcher that keeps back the points that failed."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._launched: list[JobReturn] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Twice what another process was busy with: the second time it waits, and does what that one left undone."""
        ended = list(self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
        busy = [number for number, job in enumerate(ended) if isinstance(job._return_value, Busy)]
        if busy:
            logger.info("%d of the points were busy in another process; their results now", len(busy))
            again = [[*job_overrides[number], "task.wait=true"] for number in busy]
            for number, job in zip(busy, self._launcher.launch(again, initial_job_idx=initial_job_idx), strict=True):
                ended[number] = job
        self._launched += ended
        return [job for job in ended if job.status is JobStatus.COMPLETED]

    def failed(self) -> list[JobReturn]:
        return [job for job in self._launched if job.status is not JobStatus.COMPLETED]

    def account(self) -> str:
        """A line for each fault, under what sets its point apart from the others."""
        common = set.intersection(*(set(job.overrides) for job in self._launched)) if len(self._launched) > 1 else set()
        lines = [f"{len(self.failed())} of the sweep's {len(self._launched)} points failed"]
        for job in self.failed():
            own = " ".join(override for override in job.overrides if override not in common | {"task.wait=true"})
            lines.append(f"  {own}: {fault(job._return_value).splitlines()[0]}")
        return "\n".join(lines)
