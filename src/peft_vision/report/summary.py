"""This module prints the summary at the end of a run: a table of metrics, and lines on costs and files."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from peft_vision.core.output import Console
from peft_vision.data.twins import worded
from peft_vision.runs.run_records import OptimizerFootprint, Result

METRICS = {
    "accuracy": "accuracy",
    "accuracy_top5": "top-5 accuracy",
    "accuracy_per_class": "accuracy, mean of classes",
    "calibration_error": "calibration error",
}


def print_summary(result: Result, folder: Path) -> None:
    """Print the summary of a result on standard output."""
    console = Console()
    title = "{method} on {data}, {backbone}, seed {seed}".format(**result.choices | {"seed": result.seed})
    console.print(metrics_table(title, result.metrics, result.data.images))
    for line in closing_lines(result, folder):
        console.print(line, soft_wrap=True)


def metrics_table(title: str, metrics: Mapping[str, float], images: Mapping[str, int]) -> Table:
    """Return a table in percent, with a row for each metric and a column for each scored split. `images`: by split."""
    splits = [split for split in ("train", "val", "test") if f"{split}/accuracy" in metrics]
    table = Table(title=title)
    table.add_column("%")
    for split in splits:
        table.add_column(f"{split} ({images[split]:,} images)", justify="right")
    for metric, label in METRICS.items():
        table.add_row(label, *(f"{100 * metrics[f'{split}/{metric}']:.2f}" for split in splits))
    return table


def closing_lines(result: Result, folder: Path) -> list[str]:
    """Return the lines below the table: what was trained, costs, special cases, and where the files are."""
    parameters, costs = result.parameters, [_duration(result.wall_seconds)]
    tuned = parameters.method
    share = 100 * tuned / parameters.backbone
    stored = result.store.splits.values()
    if passes := sum(split.seconds for split in stored if split.computed):
        costs.append(f"of these {_duration(passes)} to fill the feature store")
    if result.images_per_second:
        costs.append(f"{result.images_per_second:,.0f} training images/s")
    if result.peak_mib is not None:
        costs.append(f"peak memory {result.peak_mib:,.0f} MiB")
    skipped = result.data.corrupt_images_skipped
    lines = [
        f"trained   {tuned:,} method parameters ({share:.2f} % of the backbone's {parameters.backbone:,})"
        f" and {parameters.head:,} of the head, which reads {result.features:,} features",
        f"cost      {', '.join(costs)}",
        f"saved     {folder}/adapter.safetensors and result.json",
    ]
    if result.optimizer is not None:  # results of early versions have none
        lines.insert(2, f"optimizer {_holdings(result.optimizer)}")
    if (selection := result.selection) is not None:
        chosen = ", ".join(f"{key}={value:g}" for key, value in selection.chosen.items())
        lines.insert(1, f"chosen    {chosen}: of {selection.settings} settings, {selection.rule}")
    before = [
        f"{split} {100 * result.metrics[f'probe/{split}/accuracy']:.2f} %"
        for split in ("val", "test")
        if f"probe/{split}/accuracy" in result.metrics
    ]
    if before:
        lines.insert(0, f"probe     {', '.join(before)}: the accuracy of the head that was fitted first")
    if "test" not in result.data.images:
        lines.insert(0, "test      left alone while settings are tuned (data.stage=tune)")
    if result.config["data"].get("stage") == "peek":  # results of early versions have no stage
        lines.insert(0, "val       are the test images (data.stage=peek): what they choose is no honest figure")
    lines[:0] = [f"twins     {text}" for text in worded(result.data.twins or {})]
    if skipped:
        lines.insert(0, f"corrupt   {skipped} images left out")
    return lines


def _holdings(footprint: OptimizerFootprint) -> str:
    sizes = {"state": footprint.state_bytes, "gradient": footprint.gradient_bytes}
    parts = [f"{size / 2**20:,.1f} MiB of {kind}" for kind, size in sizes.items()]
    if footprint.refreshes:
        parts.append(f"{footprint.refreshes:,} refreshes in {_duration(footprint.refresh_seconds)}")
    if footprint.skipped_gradients:
        parts.append(f"{footprint.skipped_gradients:,} gradients skipped, not finite")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
