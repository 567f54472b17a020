"""This module writes the texts about the command itself: its version, a first page, and a task's keys and examples,
which are those in the task's config file."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from peft_vision import __version__
from peft_vision.core.component_names import CONFIG_DIR
from peft_vision.core.records import read_yaml

_TASKS = CONFIG_DIR / "task"
_BESIDE = {"Hydra": "hydra-core", "torch": "torch", "timm": "timm"}
_NEEDED = "needed: "
_KEY = re.compile(r" *(?P<key>\w+): (?P<value>[^#]*?)(?: # (?P<remark>.*))?")
_EXAMPLE = re.compile(r"#\s+(peft-vision .*)")

FIRST_PAGE = """\
peft-vision: parameter-efficient fine-tuning of Vision Transformers.

  peft-vision experiment=demo                                             digits, with a small ViT that is shipped
  peft-vision backbone=vit_micro data=image_folder data.path=PICTURES     your pictures, in a folder for each class
  peft-vision method=lora data=cifar100                                   ViT-B/16 and CIFAR-100, downloaded once

peft-vision --help lists methods, data sets and all other options, peft-vision task=predict --help the keys of a task.
peft-vision task=train is a run of nothing but defaults. docs/runs.md says what a run writes."""


def version_line() -> str:
    """Return the version of this tool, and the versions of the libraries it is built on."""
    beside = [f"{name} {version(package)}" for name, package in _BESIDE.items()]
    return f"peft-vision {__version__} ({', '.join([*beside, f'Python {platform.python_version()}'])})"


def task_help(name: str) -> str | None:
    """Return what a task is for, examples of it, and its keys with their defaults; None if no such task is shipped."""
    path = _TASKS / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines if line.startswith("#") and not line.startswith("# @package")]
    examples = [found[1] for line in header if (found := _EXAMPLE.fullmatch(line))]
    said = [line.removeprefix("# ") for line in header if not _EXAMPLE.fullmatch(line)]
    keys = dict(sorted(_keys(path), key=lambda pair: not pair[1].startswith(_NEEDED)))  # needed keys first
    widest = max(map(len, keys), default=0)
    rows = [f"  {key:{widest}}  {remark}".rstrip() for key, remark in keys.items()]
    others = ", ".join(sorted(other.stem for other in _TASKS.glob("*.yaml") if other.stem != name))
    parts = [
        "\n".join([f"peft-vision task={name}", *said]),
        "\n".join(f"  {example}" for example in examples),
        "\n".join(["Keys, with their defaults:", "", *rows]) if rows else "",
        f"Whatever a run takes can be set beside these: peft-vision --help. Other tasks: {others}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _keys(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of a task's file, and of the file that it begins from, with their defaults as a command line gives
    them, and the file's remark on each."""
    said = read_yaml(path)
    for start in said.pop("defaults", []):
        if start != "_self_":
            yield from _keys(path.with_name(f"{start.partition('@')[0]}.yaml"))
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {match["key"]: match for line in lines if (match := _KEY.fullmatch(line))}
    inside = said.pop("task", None)
    task_keys = {f"task.{key}": key for key in (said if inside is None else inside)}
    for key, name in {**task_keys, **({} if inside is None else {key: key for key in said})}.items():
        if name in ("_target_", "hydra"):
            continue
        value, remark = found[name]["value"], found[name]["remark"] or ""
        yield (f"{key}=...", f"{_NEEDED}{remark}") if value == "???" else (f"{key}={value}", remark)
