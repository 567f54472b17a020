"""A sweep of which one point that fails stops no other: it goes on to its end, table and all, then lists the faults."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from peft_vision.config import ConfigError
from peft_vision.wording import fault


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
        ended = self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        self._launched += ended
        return [job for job in ended if job.status is JobStatus.COMPLETED]

    def failed(self) -> list[JobReturn]:
        return [job for job in self._launched if job.status is not JobStatus.COMPLETED]

    def account(self) -> str:
        """A line for each fault, under what sets its point apart from the others."""
        common = set.intersection(*(set(job.overrides) for job in self._launched)) if len(self._launched) > 1 else set()
        lines = [f"{len(self.failed())} of the sweep's {len(self._launched)} points failed"]
        for job in self.failed():
            own = " ".join(override for override in job.overrides if override not in common)
            lines.append(f"  {own}: {fault(job._return_value).splitlines()[0]}")
        return "\n".join(lines)
