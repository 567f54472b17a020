"""This module shows a run once its records are written: tables on the terminal, pictures in its folder.

No failure here may lose the result: what cannot be shown is reported in a warning.
"""

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table

from peft_vision.core.guide import fault
from peft_vision.core.output import Console
from peft_vision.data.twins import worded
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.optimizer.base import Stepper
from peft_vision.report.comparison import draw
from peft_vision.report.finished import read
from peft_vision.report.id_ood import comparisons
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import InterpolationRecord, OptimizerFootprint, Result, ShiftScores
from peft_vision.task.mirrored import mirrored

_log = logging.getLogger("peft_vision")
_OF = {"metrics", "images", "interpolation"}  # fields of the record that pictures depend on


def told(what: str, tell: Callable[[], object], folder: Path) -> None:
    """Call `tell`; if that fails, warn that `what` cannot be shown and that `folder` has all of it."""
    try:
        tell()
    except BrokenPipeError:  # nobody reads the output any more, which is not a fault
        raise
    except Exception as error:
        _log.warning("cannot show %s: %s; all of it is in %s", what, fault(error), folder)


def are_drawn(record: ShiftScores, run: Run) -> bool:
    """Return whether all pictures that belong to the out-of-distribution record are in the run's folder."""
    if "pictures" not in record.model_fields_set:  # a record of version 0.1.0
        return any(run.folder.glob("ood-*.png"))
    drawn = record.pictures
    if not isinstance(drawn, Mapping) or drawn.get("of") != _mark(record):
        return False
    names = drawn.get("files")
    return isinstance(names, list) and all((run.folder / str(name)).is_file() for name in names)


def is_settled(experiment: Experiment) -> bool:
    """Return whether nothing is left to do in the folder of a run that is finished and scored: no file of a killed
    process is left over, and no picture is missing."""
    run = experiment.run
    asked = bool(experiment.ood or experiment.interpolation.alphas) and experiment.data.stage != "tune"
    record = run.read_ood() if asked else None
    return not run.has_leftovers() and (record is None or are_drawn(record, run))


def show_pictures(experiment: Experiment, run: Run, record: ShiftScores) -> None:
    """Draw the pictures in the run's folder, add them to its tracker, and record that they are drawn."""
    run.write_ood(
        record.model_copy(update={"pictures": None})
    )  # not drawn yet: a process killed below leaves only some of them
    (comparison,) = comparisons([read(run.folder)], reference=None, transform="probit")
    names = draw(comparison, run.folder, "ood")
    run.write_ood(record.model_copy(update={"pictures": {"of": _mark(record), "files": names}}))
    with mirrored(experiment, run) as log:
        log.summary(record.metrics)
        log.pictures({Path(name).stem: run.folder / name for name in names})


def _mark(record: ShiftScores) -> str:
    text = json.dumps(record.model_dump(include=_OF, exclude_unset=True), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


METRICS = {
    "accuracy": "accuracy",
    "accuracy_top5": "top-5 accuracy",
    "accuracy_per_class": "accuracy, mean of classes",
    "calibration_error": "calibration error",
}
_PERCENT = {
    "mean_average_precision": "mean average precision",
    "auroc": "area under the ROC curve",
    "f1_micro": "F1, over all pairs",
    "f1_macro": "F1, mean of classes",
    "mean_iou": "mean IoU",
    "mean_accuracy": "accuracy, mean of classes",
    "pixel_accuracy": "pixel accuracy",
}
_SHOWN = 8  # shifts of a set that get a row each, at most
_COLUMNS = {"accuracy": "accuracy", "calibration_error": "calibration error"}


def print_summary(result: Result, folder: Path) -> None:
    """Print the summary of a result on standard output."""
    console = Console()
    title = "{method} on {data}, {backbone}, seed {seed}".format(**result.choices | {"seed": result.seed})
    console.print(metrics_table(title, result.metrics, result.data.images))
    for line in closing_lines(result, folder):
        console.print(line, soft_wrap=True)


def metrics_table(title: str, metrics: Mapping[str, float], images: Mapping[str, int]) -> Table:
    """Return a table with a row for each metric and a column for each scored split; in percent where one class a
    picture was learned. `images`: by split."""
    splits = [split for split in ("train", "val", "test") if f"{split}/loss" in metrics]
    shown = METRICS if f"{splits[0]}/accuracy" in metrics else _named(metrics, splits)
    table = Table(title=title)
    table.add_column("%" if shown is METRICS else "")
    for split in splits:
        table.add_column(f"{split} ({images[split]:,} images)", justify="right")
    for metric, label in shown.items():
        values = [metrics.get(f"{split}/{metric}") for split in splits]
        in_percent = shown is METRICS or metric in _PERCENT
        texts = ["" if v is None else f"{100 * v:.2f}" if in_percent else f"{v:.4g}" for v in values]
        table.add_row(label, *texts)
    return table


def _named(metrics: Mapping[str, float], splits: Sequence[str]) -> dict[str, str]:
    """Return the label of each metric of the splits, by name, in the order in which they were computed."""
    found = [name.removeprefix(f"{split}/") for split in splits for name in metrics if name.startswith(f"{split}/")]
    return {name: f"{_PERCENT[name]}, %" if name in _PERCENT else name for name in dict.fromkeys(found)}


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
    metric = result.metric
    if result.seeds is not None:
        lines.insert(2, f"seeds     {_over_seeds(result)}")
    before = [
        f"{split} {metric.shown(result.metrics[f'probe/{split}/{metric.name}'])}"
        for split in ("val", "test")
        if f"probe/{split}/{metric.name}" in result.metrics
    ]
    if before:
        lines.insert(0, f"probe     {', '.join(before)}: the {metric.name} of the head that was fitted first")
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


def print_shifts(record: ShiftScores, folder: Path, metric: Metric) -> None:
    """Print the table, and the lines below it, on standard output."""
    console = Console()
    metrics, images = record.metrics, record.images
    if images:
        console.print(_shift_table(metrics, images, metric))
    lines = []
    if "test/feature_distance" in metrics:
        moved = f"{metrics['test/feature_distance']:.3g} on test"
        if images:
            moved += f", {metrics['ood/mean/feature_distance']:.3g} out of distribution"
        lines.append(
            f"features  moved by {moved} ({_percent(metrics['test/feature_distance_relative'])} of their length)"
        )
    if record.interpolation is not None:
        lines += _interpolation(record.interpolation, metric)
    lines.append(f"saved     {folder}/ood.json")
    for line in lines:
        console.print(line, soft_wrap=True)


def _shift_table(metrics: Mapping[str, float], images: Mapping[str, int], metric: Metric) -> Table:
    """Return a table, in percent where the metric is a fraction, with a row for each shift and the means, and a column
    for the first phase's head."""
    columns = _COLUMNS if metric == ACCURACY else {metric.name: metric.words}
    table = Table(title="out of distribution")
    table.add_column("%" if metric.is_fraction else "")
    for column in columns.values():
        table.add_column(column, justify="right")
    probed = f"probe/ood/mean/{metric.name}" in metrics
    if probed:
        table.add_column(f"{metric.words} of the probe", justify="right")

    def add(label: str, prefix: str) -> None:
        probe = [metrics.get(f"probe/{prefix}/{metric.name}")] if probed else []
        values = [*(metrics.get(f"{prefix}/{name}") for name in columns), *probe]
        table.add_row(label, *("" if value is None else metric.number(value) for value in values))

    sets: dict[str, list[str]] = {}
    for shift in images:
        sets.setdefault(shift.split("/")[0], []).append(shift)
    for name, shifts in sets.items():
        for shift in shifts if 1 < len(shifts) <= _SHOWN else []:
            add(f"{shift} ({images[shift]:,} images)", f"ood/{shift}")
        count = sum(images[shift] for shift in shifts)
        many = f", mean of {len(shifts)} shifts" if len(shifts) > 1 else ""
        add(f"{name} ({count:,} images{many})", f"ood/{name}")
    if len(sets) > 1:
        add(f"mean of {len(sets)} sets", "ood/mean")
    if len(images) > 1:
        add(f"worst of {len(images)} shifts", "ood/worst")
    return table


def _interpolation(interpolation: InterpolationRecord, metric: Metric) -> list[str]:
    """Return a line of the metric along alpha for each split, and a line of the chosen alpha."""
    rows = interpolation.rows
    keys = {f"{split}/{metric.name}": name for split, name in {"val": "val", "test": "test", "ood/mean": "ood"}.items()}
    names = {key: name for key, name in keys.items() if key in rows[0]}
    digits = ".1f" if metric.is_fraction else ".4g"
    scales = {"alpha": ("alpha", 1, "g"), **{name: (key, metric.scale, digits) for key, name in names.items()}}
    lines = [
        f"{name:9} {' '.join(f'{scale * row[key]:5{places}}' for row in rows)}"
        for name, (key, scale, places) in scales.items()
    ]
    chosen = next(row for row in rows if row["alpha"] == interpolation.chosen)
    scores = ", ".join(f"{name} {metric.shown(chosen[key])}" for key, name in names.items())
    return [*lines, f"chosen    alpha={chosen['alpha']:g}: {scores}; {interpolation.rule}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _over_seeds(result: Result) -> str:
    """Return mean and standard deviation of the metric over the seeds that trained together."""
    metric, said = result.metric, []
    for split in ("val", "test"):
        values = [row[name] for row in result.seeds if (name := f"{split}/{metric.name}") in row]
        if values:
            said.append(f"{split} {metric.number(fmean(values))} ± {metric.shown(stdev(values))}")
    seeds = ", ".join(str(row["seed"]) for row in result.seeds)
    return f"{' and '.join(said)} (standard deviation) over seeds {seeds}; this adapter is of seed {result.seed}"


def untuned_rate(experiment: Experiment) -> str | None:
    """Return a line that says how to choose a learning rate if the run has the method's default, which is one number
    for all images and backbones; None if the rate was given, or if the run is part of a tuning."""
    optimizer, method = experiment.optimizer, experiment.choices["method"]
    rates = experiment.method.lr.values()
    if not isinstance(optimizer, Stepper) or experiment.data.stage != "all" or optimizer.lr not in rates:
        return None
    tried = ",".join(f"{factor * optimizer.lr:.1g}" for factor in (0.3, 1, 3))
    return (
        f"{optimizer.lr:g} is the default of {method}, not chosen for these images; "
        f"-m hydra/sweeper=tune optimizer.lr={tried} chooses on validation"
    )
