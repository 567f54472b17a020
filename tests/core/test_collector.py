"""What is imported is left out of collections, once."""

import gc
import subprocess
import sys

import pytest

from peft_vision.core.collector import imports_unscanned

IMPORTS = """
import gc
from peft_vision.core.collector import imports_unscanned
{before}
try:
    with imports_unscanned():
        within = gc.isenabled()
        kept = [[] for _ in range(5000)]
        raise RuntimeError
except RuntimeError:
    print(within, gc.isenabled(), gc.get_freeze_count() > 5000)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "False True True"),
        ("gc.disable()", "False False False"),
        ("import sys; sys.modules['torch'] = sys", "True True False"),
    ],
    ids=["first", "somebody collects nothing", "torch is there"],
)
def test_the_first_imports_are_left_out_even_when_they_fail(before, said):
    words = [sys.executable, "-c", IMPORTS.format(before=before)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == said.split()


def test_a_command_within_a_process_that_has_torch_keeps_no_garbage():
    count = gc.get_freeze_count()
    with imports_unscanned():
        pass
    assert gc.get_freeze_count() == count
