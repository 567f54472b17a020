"""The list of mutants fits the source: scripts/mutants.py says what the tests are worth, and takes half an hour."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def listed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(sys, "dont_write_bytecode", True)
        import mutants

        yield mutants


def test_every_line_stands_once_where_the_list_says_and_can_be_broken(listed):
    for mutant in listed.mutants():
        source = (listed.ROOT / listed.SOURCE / mutant.file).read_text()
        assert mutant.apply(source) != source, mutant


def test_every_test_that_it_names_is_there(listed):
    named = {words.partition("::")[::2] for mutant in listed.mutants() for words in mutant.tests}
    assert [file for file, _ in named if not (listed.ROOT / file).exists()] == []
    functions = [(listed.ROOT / file, test.partition("[")[0]) for file, test in named if test]
    assert [test for file, test in functions if f"def {test}(" not in file.read_text()] == []


def test_there_are_enough_in_every_package(listed):
    mutants = listed.mutants()
    assert len(mutants) >= 120
    packages = {path.parent.name for path in (listed.ROOT / listed.SOURCE).glob("*/__init__.py")}
    assert packages - {mutant.file.partition("/")[0] for mutant in mutants} <= {"tuning"}


def test_a_line_that_is_not_there_is_named(listed):
    mutant = listed.Mutant("head.py", "no such line", "", (), None)
    with pytest.raises(ValueError, match="has this line 0 times"):
        mutant.apply("x = 1\n")
