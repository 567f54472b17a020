"""What takes hold of a lifeline ends with its other end; what has none, or another file there, goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import peft_vision
from peft_vision.core.stopping import lifeline

HOLDS = (
    "from peft_vision.core.stopping import hold; hold(); "
    "import os, time; print(os.environ.get('PEFT_VISION_LIFELINE')); "
)


def held(variables: dict[str, str], descriptors: list[int], then: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(peft_vision.__file__).parents[1]), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS + then], env=environment, pass_fds=descriptors, stdout=subprocess.PIPE, text=True
    )


def test_it_ends_with_whoever_keeps_the_other_end():
    with lifeline() as (descriptor, variables):
        process = held(variables, [descriptor], "time.sleep(100)")
        assert process.stdout.readline() == "None\n"  # which is for no process of its own
        assert process.poll() is None
    assert process.wait(timeout=30) == -9
    process.stdout.close()


@pytest.mark.parametrize("told", ["", "9", "nine:9", "0:1", "3:1", "999999999:1", "99999999999999999999:1"])
def test_what_came_without_one_goes_on(told):
    reader, writer = os.pipe()
    process = held({"PEFT_VISION_LIFELINE": told}, [reader], "time.sleep(0.05)")
    os.close(reader)
    os.close(writer)
    assert process.communicate(timeout=30) == ("None\n", None)
    assert process.returncode == 0


PARENT = """
import subprocess, sys, time
from peft_vision.core import stopping
if sys.argv[1:]:
    stopping._POLL_SECONDS = 0.02
    getattr(stopping, sys.argv[1])()
    print("ready", flush=True)
    time.sleep(100)
child = subprocess.Popen([sys.executable, __file__, "{follow}"])
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its processes")
@pytest.mark.parametrize("follow", ["follow_launcher", "die_with_parent"])
def test_a_process_ends_with_its_parent(follow, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT.format(follow=follow))
    environment = {**os.environ, "PYTHONPATH": str(Path(peft_vision.__file__).parents[1])}
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    said = {parent.stdout.readline() for _ in range(2)}
    (child,) = said - {"ready\n"}
    parent.kill()
    assert parent.communicate(timeout=30) == ("", None)  # the pipe is closed by the last who has it
    assert int(child) > 0
