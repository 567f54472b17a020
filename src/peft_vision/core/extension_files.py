"""This module begins an extension: a method or a data set in a module of the user's own, with its YAML and a test.

The files are where docs/extending.md has them: `mypackage/NAME.py`, `mypackage/test_NAME.py` and
`myconf/GROUP/NAME.yaml`. They work as they are written; what they compute is to be replaced.
"""

import keyword
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template

from peft_vision.core.config import ConfigError
from peft_vision.core.config_files import CONFIG_DIR
from peft_vision.core.output import one_line

_CODE, _YAML = "mypackage", "myconf"

_METHOD = '''\
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class $name(Method):
    """A learned scale of what each chosen layer's MLP adds, in each channel: replace it by yours."""

    start: PositiveFloat

    def attach(self, encoder: Encoder) -> None:
        for index in self.chosen(encoder):  # `layers` of the YAML: all, last-2, [0, 11], ...
            stage = encoder.stages[index]
            stage.module.ls2 = nn.Sequential(stage.module.ls2, ${name}Layer(stage.width, self.start))


class ${name}Layer(nn.Module):
    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), start))

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, D)
        return self.scale * tokens
'''

_METHOD_YAML = """\
# A method of your own: say here what it does, and where it is from.
_target_: $module.$name
start: 1.0
layers: all
probe_first: false              # true: fit the head before all else trains
lr: { sgd: 1e-2, adamw: 1e-4 }  # where optimizer.lr starts, by optimizer
"""

_METHOD_TEST = """\
from pathlib import Path

from peft_vision.testing import check_method


def test_it_passes_what_the_shipped_methods_pass():
    check_method(Path(__file__).parents[1] / "$yaml")
"""

_DATA = '''\
import numpy as np

from peft_vision.config import component
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.pictures import labelled
from peft_vision.data.splits import LabelledSets


@component
class $name(Data):
    """Upright and lying stripes, one class each: replace them by your pictures and labels."""

    count: int

    def open(self) -> LabelledSets:
        noise = np.random.default_rng(0).integers(0, 80, (self.count, 32, 32, 3))
        labels = np.arange(self.count) % 2
        stripes = np.where(np.arange(32) % 8 < 4, 150, 0)
        bright = np.where(labels[:, None, None] == 0, stripes[None, None, :], stripes[None, :, None])
        pictures = Arrays((noise + bright[..., None]).astype(np.uint8))  # (n, H, W, 3); files: data.pictures.Files
        return LabelledSets(
            name="$option",
            train=labelled(pictures, labels),
            val=None,  # no split of its own: val_fraction of train
            test=None,  # nor for testing: test_fraction of all
            classes=("upright", "lying"),
            remark="",
            test_fraction=0.2,
        )
'''

_DATA_YAML = """\
# A data set of your own: say here what its pictures show, and where they are from.
defaults:
  - /shared/defaults/data@_here_  # what all data sets have: val_fraction, augment, resize, ...
  - _self_
_target_: $module.$name
count: 100
"""

_DATA_TEST = """\
from $module import $name
from peft_vision.testing import check_data


def test_it_can_be_read_and_is_the_same_every_time():
    check_data($name, count=20)
"""

_TEMPLATES: Mapping[str, tuple[str, str, str]] = {
    "method": (_METHOD, _METHOD_YAML, _METHOD_TEST),
    "data": (_DATA, _DATA_YAML, _DATA_TEST),
}
_TRIED = {"method": "", "data": " method=linear data.train_size=null"}


def write_extension(arguments: Sequence[str]) -> list[str]:
    """Write the three files of an extension, and return the lines that say which, and how they are tried. `arguments`:
    method or data, a name, and perhaps the folder to write to, which need not exist. Raise ConfigError, with nothing
    written, for a name that cannot be one or is taken, and for files that exist or cannot be written."""
    flags = any(word.startswith("-") for word in arguments)
    if flags or len(arguments) not in (2, 3) or arguments[0] not in _TEMPLATES:
        raise ConfigError(
            "new: write peft-vision new method NAME, or peft-vision new data NAME, and perhaps a folder behind it; "
            "docs/extending.md has an example of each other kind"
        )
    group, option, folder = arguments[0], arguments[1], Path(*arguments[2:]).expanduser()
    code, yaml, test = _TEMPLATES[group]
    name = "".join(part.capitalize() for part in option.split("_"))
    _check(group, option, name, code)
    paths = [Path(_CODE, f"{option}.py"), Path(_YAML, group, f"{option}.yaml"), Path(_CODE, f"test_{option}.py")]
    for path in paths:
        if (folder / path).exists():
            raise ConfigError(f"new: {one_line(folder / path)} exists; choose another name, or another folder")
    said = {"name": name, "module": f"{_CODE}.{option}", "option": option, "yaml": paths[1].as_posix()}
    try:
        for path, text in zip(paths, (code, yaml, test), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(Template(text).substitute(said), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"new: cannot write to {one_line(folder)}: {error.strerror}") from error
    command = f"PYTHONPATH=. peft-vision --config-dir {_YAML} experiment=smoke {group}={option}{_TRIED[group]}"
    there = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    return [
        *(f"written   {folder / path}" for path in paths),
        f"try it    {there}{command}",
        f"test it   {there}python -m pytest {paths[2].as_posix()}",
    ]


def _check(group: str, option: str, name: str, code: str) -> None:
    """Raise ConfigError unless the name can be that of a module, a class, a file and an option."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", option) or keyword.iskeyword(option):
        raise ConfigError(
            f"new: got {one_line(option)!r}, should be a name of small letters, digits and _ that begins with a "
            "letter, such as channel_scales"
        )
    shipped = [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")]
    if option in shipped or (CONFIG_DIR / group / option).is_dir():
        raise ConfigError(f"new: {group}={option} is shipped, and would be read in place of yours; choose another name")
    if find_spec(option) is not None:  # pytest puts the module's folder first in Python's path
        raise ConfigError(f"new: {option} is a module of Python's path, which yours would hide; choose another name")
    if re.search(rf"\b{name}\b", code):
        raise ConfigError(f"new: the module would use {name} for something else; choose another name")
