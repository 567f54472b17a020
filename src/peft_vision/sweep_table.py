"""The end of a sweep: the report of all runs in its folder, tables, pictures and a page."""

from collections.abc import Sequence
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from peft_vision.config import ConfigError


class SweepTable(Callback):
    """As task=report, with its options."""

    def __init__(
        self, reference: list[str] | None, transform: str, rows: Sequence[str] = (), costs: bool = False
    ) -> None:
        self.reference = reference
        self.transform = transform
        self.rows = tuple(rows)
        self.costs = costs

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """`config` is the sweep's; every run lies in `runs`."""
        from peft_vision.report.comparison import compare  # here, because --help must not wait for what it imports
        from peft_vision.report.options import Options

        folder = Path(config.runs).expanduser()
        if not isinstance(self.transform, str):
            raise ConfigError(f"hydra.callbacks: transform: got {self.transform!r}, should be probit or logit")
        options = Options(
            reference=None if self.reference is None else tuple(self.reference),
            transform=self.transform,
            rows=self.rows,
            costs=self.costs,
            groups=None,
            pictures=("png", "svg"),
        )
        compare([folder], folder / "report", options)
