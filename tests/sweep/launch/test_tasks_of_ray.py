"""A sweep's runs as Ray tasks, on a stand-in for Ray that has room for one task at a time."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.sweep.launch import cluster_of_ray
from peft_vision.sweep.launch.cluster_of_ray import RayLauncher
from peft_vision.sweep.launch.process_launcher import Job


class Died(Exception):
    """The error that Ray raises for a task whose process died."""


@pytest.fixture
def ray(monkeypatch):
    """Each call of `wait` runs one task: the log that it opens, then its exit code, or Died."""
    module = ModuleType("ray")
    module.tasks, module.cancelled, module.waits = [], [], 0

    def submit(job):
        module.tasks.append(job)
        return job

    def wait(waiting, timeout):
        module.waits += 1
        job = waiting[0]
        if job.log.exists():  # it was begun by the call before
            return [job], waiting[1:]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.touch()
        return [], waiting

    def get(job):
        if job.arguments == ("dies",):
            raise Died("the worker died\nin detail")
        return int(job.arguments[0])

    module.init = module.shutdown = lambda **_: None
    module.remote = lambda **_: lambda call: SimpleNamespace(options=lambda name: SimpleNamespace(remote=submit))
    module.wait, module.get = wait, get
    module.cancel = lambda job, force: module.cancelled.append(job)
    module.exceptions = SimpleNamespace(RayError=Died)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(cluster_of_ray, "find_spec", lambda name: name)
    return module


def test_a_run_is_announced_when_its_task_begins_and_not_when_it_is_queued(ray, tmp_path):
    jobs = [Job.of([code], tmp_path / code / "run.log") for code in ("0", "3", "dies")]
    events = []
    for ended in RayLauncher({}, {}).carry_out(jobs, lambda number: events.append(("begins", number)) or True):
        events.append(ended)
    assert events == [("begins", 0), (0, 0), ("begins", 1), (1, 3), ("begins", 2), (2, 1)]
    assert "Ray: the worker died" in jobs[2].log.read_text()


def test_closing_it_cancels_what_has_not_ended(ray, tmp_path):
    jobs = [Job.of(["0"], tmp_path / str(number) / "run.log") for number in range(3)]
    ending = RayLauncher({}, {}).carry_out(jobs, lambda number: True)
    assert next(ending) == (0, 0)
    ending.close()
    assert ray.cancelled == jobs[1:]


def test_a_ray_that_does_not_start_is_said_in_a_line(ray, tmp_path, monkeypatch):
    def init() -> None:
        raise ConnectionError("Could not find any running Ray instance.\nin detail")

    monkeypatch.setattr(ray, "init", init)
    said = r"^hydra\.launcher: Ray does not start: Could not find any running Ray instance\.$"
    with pytest.raises(ConfigError, match=said):
        next(RayLauncher({}, {}).carry_out([Job.of(["0"], tmp_path / "run.log")], lambda number: True))


def test_a_log_of_earlier_attempts_is_no_sign_that_this_one_has_begun(tmp_path):
    log = tmp_path / "run.log"
    assert not Job.of([], log).has_begun()
    log.write_text("an earlier attempt")
    job = Job.of([], log)
    assert not job.has_begun()
    with log.open("a") as file:
        file.write(", and this one")
    assert job.has_begun()
