"""docs/architecture.md speaks of files that there are, and of every package."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
SOURCE = ROOT / "src" / "peft_vision"


def test_every_file_that_it_names_is_there():
    named = set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", TEXT))
    assert len(named) > 50
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in (SOURCE, ROOT))] == []


def test_every_package_is_in_its_table():
    packages = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert packages - set(re.findall(r"`(\w+)/`", TEXT)) == set()
