"""`peft-vision new` writes an extension that works as it is, or names what is in the way."""

import importlib
import re
import shlex
import sys

import pytest

from command import call, results
from peft_vision.core.identity import _digest


@pytest.fixture
def project(tmp_path):
    """A folder that is not there yet, whose modules are forgotten afterwards."""
    yield tmp_path / "my project"
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]
    _digest.cache_clear()


@pytest.mark.parametrize(("group", "name"), [("method", "my_scales"), ("data", "my_stripes")])
def test_the_test_that_it_writes_passes_and_the_commands_that_it_names_run(group, name, project, tmp_path, monkeypatch):
    outcome = call("new", group, name, "my project", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    written = re.findall("written   (.*)", outcome.out)
    assert sorted(written) == sorted(str(path.relative_to(tmp_path)) for path in project.rglob("*.*"))
    assert len(written) == 3
    monkeypatch.syspath_prepend(project)
    module = importlib.import_module(f"mypackage.test_{name}")
    (test,) = [value for key, value in vars(module).items() if key.startswith("test_")]
    test()
    (line,) = re.findall("try it .* peft-vision (.*)", outcome.out)
    assert call(*shlex.split(line), cwd=project).code == 0
    assert len(results(project)) == 1
    (line,) = re.findall("test it   (.*)", outcome.out)
    assert shlex.split(line) == ["cd", "my project", "&&", "python", "-m", "pytest", f"mypackage/test_{name}.py"]
    assert call("new", group, name, "my project", cwd=tmp_path).error.startswith(
        f"new: my project/mypackage/{name}.py exists"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("method", "new: write peft-vision new method NAME, or peft-vision new data NAME"),
        ("method mine --help", "new: write peft-vision new method NAME, or peft-vision new data NAME"),
        ("head mine", "new: write peft-vision new method NAME, or peft-vision new data NAME"),
        ("method lora", "new: method=lora is shipped, and would be read in place of yours"),
        ("data vtab", "new: data=vtab is shipped"),
        ("method my-scales", "new: got 'my-scales', should be a name of small letters, digits and _"),
        ("method class", "new: got 'class', should be"),
        ("method ../x", "new: got '../x', should be"),
        ("method random", "new: random is a module of Python's path, which yours would hide"),
        ("data arrays", "new: the module would use Arrays for something else"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(arguments, said, tmp_path):
    assert call("new", *arguments.split(), cwd=tmp_path).error.startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert call("new", "method", "mine", "file", cwd=tmp_path).error == "new: cannot write to file: Not a directory"
