"""What is imported because a file says so."""

import sys

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.core.trust import check_targets


@pytest.fixture
def packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return write


def test_a_package_that_uses_us_anywhere_may_be_named(packages):
    packages("user_package/__init__.py", "raise SystemError('imported')")
    packages("user_package/scales.py", "from torch import nn\n    from peft_vision.core.config import component\n")
    packages("user_module.py", "import peft_vision.core.config\n")
    check_targets({"_target_": "user_package.Mine"}, "method")
    check_targets({"_target_": "user_module.Mine", "parts": [{"_target_": "peft_vision.nothing.Yet"}]}, "method")
    assert "user_package" not in sys.modules


@pytest.mark.parametrize("target", ["antigravity.Flight", "strange_module.Mine", "strange_package.inner.Mine"])
def test_others_are_not_imported(target, packages):
    packages("strange_module.py", "# peft_vision is fine\nraise SystemError('imported')")
    packages("strange_package/__init__.py", "raise SystemError('imported')")
    packages("strange_package/inner.py", "raise SystemError('imported')")
    node = {"_target_": "peft_vision.method.combined.Combined", "parts": {"a": [{"_target_": target}]}}
    with pytest.raises(ConfigError, match=rf"^method\.parts\.a\.0\._target_: '{target}' is not imported for a file"):
        check_targets(node, "method")
    assert target.rpartition(".")[0] not in sys.modules


def test_what_is_imported_already_may_be_named():
    check_targets({"_target_": f"{__name__}.Mine"}, "method")
    check_targets({"_target_": "pathlib.Path"}, "method")  # which `build` refuses: no method


def test_what_is_nowhere_is_left_to_the_error_that_says_so():
    check_targets({"_target_": "no_such_module.Mine"}, "method")


@pytest.mark.parametrize(
    "target", [3, None, True, ["a.b"], "", "name", "a.b c", "a.b;c", "../a.b", "a.1b", "a" * 300 + ".b"]
)
def test_what_is_no_dotted_path_is_refused(target):
    with pytest.raises(ConfigError, match=r"^head\._target_: got .*, should be a dotted path to a class"):
        check_targets({"_target_": target}, "head")
