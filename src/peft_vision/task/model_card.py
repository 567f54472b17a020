"""This module writes the model card of a saved run: README.md with a YAML header, as pages of the Hugging Face hub have
it (huggingface.co/docs/hub/model-cards).

Whoever named the classes, the data or the method may have written anything: texts of others are escaped in one
function, so that none of them is a link, an image, HTML or a mention, and the header is written by a YAML library.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from peft_vision import __version__
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.source import HUB, find, without_places
from peft_vision.core.config import ConfigError, build
from peft_vision.core.identity import PACKAGED
from peft_vision.core.output import one_line
from peft_vision.core.records import Unreadable
from peft_vision.report.choose import without_split_seeds
from peft_vision.report.finished import settled
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import ALL_FRACTIONS, ID_SPLITS, Result
from peft_vision.runs.saved import Saved

CARD = "README.md"
_CLASSES = 50  # that the card names
_LICENCES = ("apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "bsd-3-clause", "gemma", "apple-ascl", "apple-amlr")
"""The licences of timm's weights that the hub knows by the same name; any other is `other` there, with its name."""
_TASKS = {"classes": "image-classification", "several": "image-classification", "masks": "image-segmentation"}
_NAME = re.compile(r"(?P<stem>.+)-s\d+-[0-9a-f]+")
_MARKUP = re.compile(r"[\\`*_{}\[\]()#|~!$@:^=]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True)
class BackboneOrigin:
    """The origin of a backbone's weights. `name`: of the model; `page`: owner/name on the hub, None where the weights
    are not from there; `file`: name of the user's own file, None where there is none; `licence`: as timm states it,
    None where it is not known."""

    name: str
    page: str | None
    file: str | None
    licence: str | None


@dataclass(frozen=True)
class CardFacts:
    """The facts of a card that are not in the adapter file. `title`: heading; `library`: what loads the files, as the
    hub names it; `loads`: lines of Python that load the model; `results`: of the run, and of runs of the same setting
    with other seeds, the run's own first; empty for an adapter that was imported."""

    title: str
    library: str
    loads: str
    results: Sequence[Result]
    backbone: BackboneOrigin


def backbone_origin(saved: Saved) -> BackboneOrigin:
    """Return where the weights of a saved run's backbone are from, and their licence."""
    backbone: Backbone = build(saved.config["backbone"], Backbone, "backbone")
    name = one_line(without_places(backbone.name))
    if backbone.checkpoint is not None and backbone.checkpoint.startswith(PACKAGED):
        return BackboneOrigin(name, page=None, file=None, licence="mit")  # trained here, from scratch
    if (file := backbone.own_file() or backbone.checkpoint) is not None:
        return BackboneOrigin(name, page=None, file=one_line(Path(file).name), licence=None)
    if not backbone.pretrained:
        return BackboneOrigin(name, page=None, file=None, licence=None)
    try:
        config = find(backbone.name).config
    except ConfigError:  # a page of the hub that is gone by now
        return BackboneOrigin(name, page=None, file=None, licence=None)
    page = config.hf_hub_id or (backbone.name.removeprefix(HUB) if backbone.name.startswith(HUB) else None)
    licence = None if config.license in (None, "", "unknown") else one_line(config.license)
    return BackboneOrigin(name, page=page and page.partition("@")[0], file=None, licence=licence)


def results_of(folder: Path) -> list[Result]:
    """Return the result of a run, and those of runs beside it that differ from it by the seed alone; empty without a
    result."""
    result = Run(folder).read_result()
    if result is None:
        return []
    named = _NAME.fullmatch(folder.name)
    try:
        own = settled(result.config)
    except ConfigError:  # of a class that is not installed here: no other run can be compared with it
        return [result]
    beside: list[tuple[Result, dict[str, Any]]] = []
    for path in sorted(folder.parent.glob(f"{named['stem']}-s*")) if named else ():
        try:
            found = Run(path).read_result()
            beside += [] if found is None else [(found, settled(found.config))]
        except (ConfigError, Unreadable):
            continue  # a report names such a run; the card is of the runs that can be read
    own, *settings = without_split_seeds([(own, result.seed), *((values, found.seed) for found, values in beside)])
    others: dict[int, Result] = {}
    for (found, _), setting in zip(beside, settings, strict=True):
        if found.seed != result.seed and setting == own:
            others.setdefault(found.seed, found)
    return [result, *(others[seed] for seed in sorted(others))]


def model_card(saved: Saved, facts: CardFacts) -> str:
    """Return the text of README.md."""
    sections = {
        "How to load": _code(facts.loads),
        "Method": _method(saved, facts),
        "Data": _data(saved, facts.results),
        "Protocol": _protocol(saved, facts.results),
        "Figures": _figures(facts.results),
        "Backbone and licence": _backbone(saved, facts.backbone),
    }
    header = yaml.safe_dump(_header(saved, facts), sort_keys=False, allow_unicode=True)
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    return f"---\n{header}---\n\n# {escaped(facts.title)}\n\n{body}\n"


def escaped(value: Any, *, longest: int = 200) -> str:
    """Return a value as Markdown that shows it on one line, and is nothing but text."""
    text = _MARKUP.sub(r"\\\g<0>", one_line(value, longest=longest))
    text = "".join(_ENTITIES.get(sign, sign) for sign in text)
    return re.sub(r"(?i)\bwww\.", r"\g<0>&#8203;", text)  # else some renderers make a link of it


def _header(saved: Saved, facts: CardFacts) -> dict[str, Any]:
    origin, result = facts.backbone, facts.results[0] if facts.results else None
    method = _option(saved, result, "method")
    header: dict[str, Any] = {"library_name": facts.library, "tags": ["peft-vision", "timm", one_line(method)]}
    if (task := _TASKS.get(saved.objective.labels_are)) is not None:
        header["pipeline_tag"] = task
    if origin.licence is not None:
        known = origin.licence in _LICENCES
        header |= {"license": origin.licence} if known else {"license": "other", "license_name": origin.licence}
    if origin.page is not None:
        header |= {"base_model": one_line(origin.page), "base_model_relation": "adapter"}
    if result is not None:
        header["metrics"] = [result.metric.name]
        scored = [split for split in ID_SPLITS if f"{split}/{result.metric.name}" in result.metrics]
        data = one_line(result.choices["data"])
        header["model-index"] = [
            {
                "name": one_line(facts.title),
                "results": [
                    {
                        "task": {"type": task or "other"},
                        "dataset": {"name": data, "type": data, "split": split},
                        "metrics": [{"type": result.metric.name, "value": _mean(facts.results, split)}],
                    }
                    for split in reversed(scored)
                ],
            }
        ]
    return header


def _mean(results: Sequence[Result], split: str) -> float:
    name = f"{split}/{results[0].metric.name}"
    return float(fmean(result.metrics[name] for result in results if name in result.metrics))


def _option(saved: Saved, result: Result | None, group: str) -> str:
    """Return the option of a config group, or the class where no result tells it."""
    if result is not None:
        return str(result.choices[group])
    return str(getattr(saved.recipe, group)["_target_"]).rpartition(".")[2]


def _method(saved: Saved, facts: CardFacts) -> str:
    counts = saved.model.parameter_counts()
    method = _option(saved, facts.results[0] if facts.results else None, "method")
    said = (
        f"{escaped(method)}: {counts.method:,} parameters of the method and {counts.head:,} of the head were trained "
        f"by peft-vision {__version__}, beside {counts.frozen:,} frozen ones."
    )
    return f"{said}\n\n{_table(('method', 'value'), _flat(saved.recipe.method).items())}"


def _data(saved: Saved, results: Sequence[Result]) -> str:
    classes = saved.recipe.classes
    shown = ", ".join(escaped(name, longest=100) for name in classes[:_CLASSES])
    more = f" and {len(classes) - _CLASSES:,} more in the file" if classes[_CLASSES:] else ""
    lines = [f"{len(classes):,} outputs: {shown}{more}.", f"Images: {escaped(saved.recipe.preprocessing)}."]
    if results:
        facts = results[0].data
        lines.insert(0, f"{escaped(_without_paths(facts.source), longest=1000)}.")
        rows = [(f"{split} images", f"{count:,}") for split, count in facts.images.items()]
        rows += [(key, _without_paths(str(value))) for key, value in facts.provenance.items()]
        rows += [("fingerprint", facts.fingerprint)]
        rows += [(f"pictures in {pair} alike", count) for pair, count in (facts.twins or {}).items() if count]
        lines.append(_table(("data", "value"), rows))
    return "\n\n".join(lines)


def _without_paths(text: str) -> str:
    """Return a text with the last part alone of each absolute path in it, and of the data's own before their numbers of
    images, whatever signs it has."""
    text = re.sub(r"\A~?/.*/(?=[^/]+: \d+ train)", "", text)
    return re.sub(r"(?<![\w.:/])~?/(?:[^\s/,;]+/)*([^\s/,;]+)", r"\1", text)


def _protocol(saved: Saved, results: Sequence[Result]) -> str:
    rows: dict[str, Any] = {}
    for group in ("optimizer", "schedule", "trainer", "head", "objective"):
        if results and group in results[0].choices:
            rows[group] = results[0].choices[group]
        if group in saved.config and isinstance(saved.config[group], Mapping):
            rows |= {f"{group}.{key}": value for key, value in _flat(saved.config[group]).items()}
    asked = {
        key: saved.says("data", key)
        for key in ("train_size", "shots", "test_size", "val_fraction", "augment", "resize")
    }
    rows |= {f"data.{key}": value for key, value in asked.items() if value is not None}
    lines = []
    if results:
        result = results[0]
        seeds = ", ".join(str(other.seed) for other in results)
        lines.append(
            f"Seed {result.seed} is in this file; the figures below are of seed{'s' * (len(results) > 1)} {seeds}. "
            f"The test images were scored {result.test_reads} time{'s' * (result.test_reads != 1)} in this run, whose "
            f"identity is {escaped(result.identity)}."
        )
        versions = ", ".join(
            f"{name} {result.environment[name]}"
            for name in ("peft-vision", "torch", "timm")
            if result.environment.get(name)
        )
        lines.append(f"Trained with {escaped(versions)}.")
    return "\n\n".join([*lines, _table(("protocol", "value"), rows.items())])


def _figures(results: Sequence[Result]) -> str:
    """Return the table of validation and test metrics: of one seed, or mean and standard deviation over several."""
    if not results:
        return "This adapter was imported, and its folder has no figures."
    first = results[0]
    names = [name for name in first.metrics if name.partition("/")[0] in ID_SPLITS]
    rows = []
    for name in names:
        values = [result.metrics[name] for result in results if name in result.metrics]
        last = name.rpartition("/")[2]
        percent = last in ALL_FRACTIONS or (last == first.metric.name and first.metric.is_fraction)
        rows.append((name, _figure(values, percent=percent)))
    seeds = f"mean ± standard deviation over {len(results)} seeds" if len(results) > 1 else "one seed"
    return _table(("metric", seeds), rows)


def _figure(values: Sequence[float], *, percent: bool) -> str:
    scale, unit = (100, " %") if percent else (1, "")
    spread = f" ± {scale * stdev(values):.2f}" if len(values) > 1 and percent else ""
    spread = f" ± {stdev(values):.4g}" if len(values) > 1 and not percent else spread
    mean = scale * fmean(values)
    return f"{mean:.2f}{spread}{unit}" if percent else f"{mean:.4g}{spread}"


def _backbone(saved: Saved, origin: BackboneOrigin) -> str:
    name, weights = escaped(origin.name), escaped(saved.recipe.backbone["hash"])
    licence = "is not known" if origin.licence is None else f"is {escaped(origin.licence)}"
    licence += ", as timm states it" if origin.licence is not None and origin.page else ""
    whose = f" (on the hub: {escaped(origin.page)})" if origin.page else ""
    whose = f", the user's own file {escaped(origin.file)}" if origin.file else whose
    return (
        f"The backbone is {name}{whose}; the sha256 of its weights is {weights}, and the adapter loads on no others. "
        f"The licence of the backbone {licence}; the adapter was made of it and holds for that licence's terms."
    )


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a component by dotted key, without its class and the rates that it proposes."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and key != "lr":
            found |= _flat(value, f"{prefix}{key}.")
        elif key not in ("_target_",) and not isinstance(value, Mapping):
            found[f"{prefix}{key}"] = value
    return found


def _table(headings: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {escaped(name)} | {escaped('none' if value is None else value)} |" for name, value in rows]
    return "\n".join([f"| {headings[0]} | {headings[1]} |", "|---|---|", *lines])


def _code(lines: str) -> str:
    """Return lines of Python as a block that nothing in them can end."""
    return f"```python\n{lines.replace('```', '')}\n```"
