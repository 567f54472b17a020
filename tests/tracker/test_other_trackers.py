"""TensorBoard, MLflow and trackio beside W&B: real clients, files read back, and what fails in one."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image

from command import SMOKE, call, results, run_folder
from peft_vision.core.composition import option as composed_option
from peft_vision.core.config import CONFIG_DIR, ConfigError, build
from peft_vision.core.stopping import Stopped
from peft_vision.runs.run import Run
from peft_vision.tracker.several import forgiving
from peft_vision.tracker.trackers import Log, NoTracker, Tracker

EPOCHS = (1, 2, 3)
LOSSES = {epoch: 1 / epoch for epoch in EPOCHS}
CONFIG = {"seed": 0, "method": {"rank": 8, "layers": "all"}, "data": {"path": None}}


def tracker(option: str, **changes) -> Tracker:
    node = yaml.safe_load((CONFIG_DIR / f"tracker/{option}.yaml").read_text())
    return build(node | changes, Tracker, "tracker")


def log_of(this: Tracker, folder: Path, run_id: str = "abc-1234", **config) -> AbstractContextManager[Log]:
    values = {"name": "lora-vit-digits-s0-abc", "group": "sweep", "job_type": "train", "tags": ["lora"]}
    return this.open(run_id=run_id, folder=folder, config={**CONFIG, **config}, **values)


def mirrored(this: Tracker, folder: Path, epochs=EPOCHS, *, summary: bool = True, run_id: str = "abc-1234") -> None:
    """Sends the epochs, the summary, a picture and a table of a run."""
    Image.new("RGB", (4, 3), "red").save(folder / "red.png")
    with log_of(this, folder, run_id) as log:
        for epoch in epochs:
            log.metrics({"train/loss": LOSSES[epoch], "epoch": epoch}, step=epoch)
        if summary:
            log.summary({"test/accuracy": 0.5, "train/loss": LOSSES[3], "device": "cpu"})
            log.pictures({"ood-shifts": folder / "red.png"})
            log.table("leaderboard", ["method", "accuracy"], [["lora", 0.75], ["a|b", None]])


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_has_each_epoch_once_however_often_a_run_goes_on(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    this = tracker("tensorboard")
    this.check()
    mirrored(this, tmp_path, EPOCHS[:2], summary=False)
    mirrored(this, tmp_path, EPOCHS[1:])
    mirrored(this, tmp_path, EPOCHS)
    found = events(tmp_path / "tensorboard")
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [
        (epoch, pytest.approx(loss)) for epoch, loss in LOSSES.items()
    ]
    assert [(event.step, event.value) for event in found.Scalars("test/accuracy")] == [(3, 0.5)]
    (picture,) = found.Images("ood-shifts")[:1]
    assert (picture.width, picture.height) == (4, 3)
    text = found.Tensors("leaderboard/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lora" in text
    assert r"a\|b" in text
    elsewhere = tracker("tensorboard", folder=str(tmp_path / "all"))
    mirrored(elsewhere, tmp_path)
    assert len(events(tmp_path / "all" / "lora-vit-digits-s0-abc").Scalars("epoch")) == 3


def test_tensorboard_compares_runs_by_the_metric_of_their_objective(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data

    for option, metric in (("single_label", "accuracy"), ("regression", "r2"), ("segmentation", "mean_iou")):
        folder = tmp_path / option
        with log_of(tracker("tensorboard"), folder, objective=composed_option("objective", option)):
            pass
        content = events(folder / "tensorboard").SummaryMetadata("_hparams_/experiment").plugin_data.content
        declared = [info.name.tag for info in parse_experiment_plugin_data(content).metric_infos]
        assert declared == [f"val/{metric}", f"test/{metric}"]


@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")  # of SQLAlchemy, about MLflow's own queries
def test_mlflow_has_one_run_with_each_epoch_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("DO_NOT_TRACK", "true")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    this = tracker("mlflow", uri=uri)
    this.check()
    mirrored(this, tmp_path, EPOCHS[:2], summary=False)
    mirrored(this, tmp_path, EPOCHS)
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("peft-vision").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "lora-vit-digits-s0-abc"
    assert run.data.params["method.rank"] == "8"
    assert run.data.metrics["test/accuracy"] == 0.5
    history = client.get_metric_history(run.info.run_id, "epoch")
    assert [point.step for point in history] == list(EPOCHS)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"red.png", "leaderboard.json"}
    with log_of(this, tmp_path, "many", values={f"value_{number}": number for number in range(250)}):
        pass
    (many,) = client.search_runs([run.info.experiment_id], filter_string="tags.`peft_vision.run` = 'many'")
    assert sum(name.startswith("values.value_") for name in many.data.params) == 250
    for error, status in ((Stopped(signal.SIGTERM), "KILLED"), (ValueError(), "FAILED")):
        with pytest.raises(type(error)), log_of(this, tmp_path):
            raise error
        assert client.get_run(run.info.run_id).info.status == status


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_one_run_with_each_epoch_once(tmp_path):
    """In a process of its own: trackio chooses its folder when it is imported."""
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from test_other_trackers import EPOCHS, mirrored, tracker
this, folder = tracker("trackio"), Path({str(tmp_path)!r})
this.check()
mirrored(this, folder, EPOCHS[:2], summary=False)
mirrored(this, folder, EPOCHS)
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("peft-vision")
assert name == "lora-vit-digits-s0-abc-1234", name
rows = SQLiteStorage.get_logs("peft-vision", name)
assert [row["epoch"] for row in rows if "epoch" in row] == list(EPOCHS), rows
assert [row["test/accuracy"] for row in rows if "test/accuracy" in row] == [0.5], rows
"""
    variables = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    ended = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("option", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("trackio", "trackio")]
)
def test_a_package_that_is_missing_is_a_line(option, package, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("peft_vision.tracker.trackers.find_spec", lambda name: None if name == package else found(name))
    error = call(*SMOKE, f"tracker={option}", cwd=tmp_path).error
    assert error == f"tracker: it needs {package}, which is not installed: pip install 'peft-vision[{option}]'"
    assert not (tmp_path / "runs").exists()


class Broken(NoTracker):
    """A tracker that cannot be opened."""

    def open(self, **_):
        raise ConnectionError("no server")


class Recording(NoTracker):
    """A tracker that notes what it is told."""

    noted: list = []  # noqa: RUF012 - a component has no state of its own

    def open(self, **values):
        self.noted.append(values["group"])
        return self

    def __enter__(self) -> Log:
        noted = self.noted

        class Noting(Log):
            def metrics(self, values, step):
                noted.append(step)

        return Noting()

    def __exit__(self, *error):
        self.noted.append(error[0])


def test_one_tracker_that_fails_takes_no_other_with_it(tmp_path, caplog):
    Recording.noted.clear()
    several = tracker("several", parts={"broken": Broken(), "recording": Recording()})
    with pytest.raises(ZeroDivisionError), forgiving(lambda: opened(several, tmp_path), tmp_path) as log:  # noqa: PT012
        log.metrics({"train/loss": 1.0}, step=1)
        raise ZeroDivisionError
    assert Recording.noted == ["mine", 1, ZeroDivisionError]
    assert [record.message for record in caplog.records] == [
        f"tracker   ConnectionError: no server; {tmp_path} has all of the run"
    ]


def test_a_log_that_failed_is_not_asked_again(tmp_path, caplog):
    """Each attempt may wait for a server."""
    asked = []

    class Failing(Log):
        def metrics(self, values, step):
            asked.append(step)
            raise ConnectionError("gone")

    with forgiving(lambda: nullcontext(Failing()), tmp_path) as log:
        for epoch in EPOCHS:
            log.metrics({"train/loss": 1.0}, step=epoch)
    assert asked == [1]
    assert len(caplog.records) == 1


def opened(this: Tracker, folder: Path):
    return this.open(run_id="a", name="b", group="mine", job_type="train", tags=[], config={"seed": 0}, folder=folder)


def test_a_run_is_mirrored_to_several_and_a_server_that_is_down_is_a_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    monkeypatch.setattr("peft_vision.tracker.trackers.WandbTracker.open", Broken.open)
    outcome = call(*SMOKE, "trainer.epochs=3", "tracker=[wandb,tensorboard]", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert outcome.out.count("tracker   ConnectionError: no server; ") == 1
    folder = run_folder(tmp_path / "runs")
    found = events(folder / "tensorboard")
    result = Run(folder).read_result()
    assert len(found.Scalars("train/loss")) == 3
    assert found.Scalars("test/accuracy")[0].value == pytest.approx(result.metrics["test/accuracy"])
    saved = yaml.safe_load((folder / "config.yaml").read_text())["tracker"]
    assert [part["_target_"] for part in saved["parts"].values()] == ["WandbTracker", "TensorBoardTracker"]
    assert len(results(tmp_path)) == 1
    assert json.loads(results(tmp_path)[0].read_text())["choices"]["tracker"] == "several"


def test_no_epoch_is_taken_for_one_of_the_settings_that_a_solver_tried_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(NoTracker, "open", lambda self, **values: Recording().open(**values))
    monkeypatch.setattr(Recording, "noted", [])
    words = ("method=lp_ft", "probe=lbfgs", "probe.C=[0.01,0.1,1,10,100]", "trainer.epochs=2", "tracker=none")
    assert call(*SMOKE, *words, cwd=tmp_path).code == 0
    rows = [json.loads(line) for line in (run_folder(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 3, 4]
    assert Recording.noted[1:-1] == [3, 4]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tracker=[wandb,wandb]", "tracker.parts: got ['wandb', 'wandb'], should name each tracker once"),
        ("tracker=[wandb,nobody]", "tracker.parts: unknown tracker 'nobody'; there are"),
        ("tracker=[]", "tracker.parts: got {}, should name trackers, such as [wandb,tensorboard]"),
    ],
)
def test_a_list_of_trackers_that_makes_no_sense_is_a_line(word, message, tmp_path):
    assert call(*SMOKE, word, cwd=tmp_path).error.startswith(message)


def test_values_of_a_part_are_checked_by_its_key():
    node = yaml.safe_load((CONFIG_DIR / "tracker/mlflow.yaml").read_text())
    with pytest.raises(ConfigError, match=r"^tracker\.parts\.mlflow\.timeout: got 0"):
        tracker("several", parts={"mlflow": node | {"timeout": 0}})
