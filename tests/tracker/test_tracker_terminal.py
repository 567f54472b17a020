"""W&B in a fresh process on a terminal, before a person who does not answer."""

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_server import KEY, WandbServer

SCRIPT = """
import os, sys, time, yaml
from pathlib import Path
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.config import ConfigError, build
from peft_vision.tracker.trackers import Tracker
node = yaml.safe_load((CONFIG_DIR / "tracker/wandb.yaml").read_text()) | {"mode": sys.argv[1]}
def run(kill):
    with build(node, Tracker, "tracker").open(
        run_id="abc12345", name="n", group=None, job_type="train", tags=[], config={"seed": 0}, folder=Path(sys.argv[2])
    ) as log:
        log.metrics({"train/loss": 1.0}, step=0)
        if kill:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            (core,) = [pid for pid in children if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text()]
            os.kill(int(core), 9)
            time.sleep(0.5)
        log.metrics({"train/loss": 0.5}, step=1)
        log.summary({"test/accuracy": 0.5})
try:
    for kill in [True, False] if sys.argv[3:] == ["kill"] else [False]:
        run(kill)
except ConfigError as error:
    print(error)
"""


def on_terminal(mode: str, folder: Path, *more: str, **variables: str) -> list[str]:
    """The lines of a run in a fresh process, before a person who does not answer."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm"} | variables
    command = [sys.executable, "-c", SCRIPT, mode, str(folder), *more]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    try:
        assert process.wait(timeout=60) == 0
        return os.read(leader, 65536).decode().splitlines()  # a few lines fit in the terminal's own buffer
    except OSError:  # Linux says so when nothing was written
        return []
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find W&B's own process")
def test_a_client_that_dies_ends_neither_the_training_nor_the_next_run(variables, tmp_path):
    offline, warning, next_offline = on_terminal("offline", tmp_path, "kill")
    assert offline.startswith("W&B: logged offline")
    assert re.match("W&B: .*; the run folder has it all; to upload it later: wandb sync /", warning)
    assert next_offline.startswith("W&B: logged offline")


def test_auto_without_a_key_is_offline_and_asks_nobody(variables, tmp_path):
    (line,) = on_terminal("auto", tmp_path)
    assert line.startswith("W&B: logged offline (no API key: set WANDB_API_KEY or call wandb login); to upload")
    folder = shlex.split(line)[-1]
    inspected = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", folder],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert re.search(r'"train/loss":\s*"?0\.5', inspected.stdout.decode()), inspected.stdout


@pytest.mark.parametrize(("mode", "reason"), [("auto", "(as WANDB_MODE"), ("offline", "(tracker.mode=offline)")])
def test_offline_as_asked_says_how_to_upload(mode, reason, variables, tmp_path):
    (line,) = on_terminal(mode, tmp_path, **({"WANDB_MODE": "offline"} if mode == "auto" else {}))
    assert reason in line
    assert Path(shlex.split(line)[-1]).is_dir()


def test_online_without_a_key_is_an_error_and_asks_nobody(variables, tmp_path):
    (line,) = on_terminal("online", tmp_path)
    assert line.startswith("tracker.mode=online: no API key: set WANDB_API_KEY or call wandb login; ")


def test_a_malformed_key_is_said(variables, tmp_path):
    (line,) = on_terminal("auto", tmp_path, WANDB_API_KEY="short")
    assert "API key must have 40+ characters" in line


def test_a_key_in_netrc_is_a_key(variables, tmp_path):
    with WandbServer() as server:
        netrc = Path(variables["NETRC"])
        netrc.write_text(f"machine {server.url.removeprefix('http://')}\n login user\n password {KEY}\n")
        netrc.chmod(0o600)
        assert on_terminal("auto", tmp_path, WANDB_BASE_URL=server.url) == []
        assert len(server.runs["abc12345"].history) == 2
