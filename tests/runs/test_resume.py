"""A run that was stopped goes on to the same end, and a run that is done stays as it is."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from command import SMOKE, Outcome, call, results, run_folder, start, wait_for
from peft_vision.core.tensor_files import write_state
from peft_vision.runs.run import Run
from peft_vision.task import train

# all that draws random numbers while training, and an optimizer with a state of its own
RANDOM = (
    "experiment=smoke",
    "method=vpt_deep",
    "method.dropout=0.2",
    "optimizer=adamw",
    "data.augment=rand_augment",
    "trainer.save_seconds=0",
)


class Killed(BaseException):
    """Stands for the end of the process."""


WRITES = ("append_metrics", "write_state", "place_adapter", "write_result")


@dataclass(frozen=True)
class Life:
    """A run that nothing stopped, and copies of what was on the disk before and after each of its writes: what a kill
    would have left there."""

    arguments: tuple[str, ...]
    said: str
    folder: Path
    left: Path

    def start_from(self, write: str, number: int, *, after: bool, cwd: Path) -> Path:
        """Puts what a kill left there into `cwd`; the folder of the run."""
        shutil.copytree(self.left / f"{write}{number}{after}", cwd / "runs")
        return run_folder(cwd / "runs")

    def go_on(self, cwd: Path) -> Outcome:
        saved = (run_folder(cwd / "runs") / "state.pt").exists()
        outcome = call(*self.arguments, cwd=cwd)
        assert outcome.code == 0, outcome
        assert ("resumes   after" in outcome.out) == saved, outcome
        return outcome

    def is_lived_again_from(self, write: str, number: int, *, after: bool, cwd: Path) -> None:
        """A run that was killed there has the same end."""
        folder = self.start_from(write, number, after=after, cwd=cwd)
        self.go_on(cwd)
        assert_same_run(folder, self.folder)


def live(arguments: tuple[str, ...], folder: Path) -> Life:
    """Trains in a `folder` with a store of its own, which nobody filled with other last bits."""
    arguments = (*arguments, "data.workers=0", f"features.folder={folder}/store")
    calls = dict.fromkeys(WRITES, 0)

    def copying(name: str, write: Callable) -> Callable:
        def written(run: Run, *given: object) -> None:
            for after in (False, True):
                if after:
                    write(run, *given)
                shutil.copytree(run.folder.parent, folder / "left" / f"{name}{calls[name]}{after}")
            calls[name] += 1

        return written

    watched = {name: copying(name, getattr(Run, name)) for name in WRITES}
    with mock.patch.multiple(Run, **watched):
        outcome = call(*arguments, cwd=folder)
    assert outcome.code == 0, outcome
    return Life(arguments, outcome.out, run_folder(folder / "runs"), folder / "left")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return live(RANDOM, tmp_path_factory.mktemp("undisturbed"))


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(folder, other):
    """The same epochs, weights and scores, to the last bit."""
    assert metrics(folder) == metrics(other)
    tensors, expected = (load_file(path / "adapter.safetensors") for path in (folder, other))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    scores, expected_scores = (json.loads((path / "result.json").read_text())["metrics"] for path in (folder, other))
    assert scores == expected_scores


HALTED = """
import time
from pathlib import Path
from peft_vision import cli
from peft_vision.runs.run import Run
append, rows = Run.append_metrics, []
def append_and_halt(run, row):
    append(run, row)
    rows.append(row)
    if len(rows) == 3:
        Path("halted").touch()
        while not Path("go").exists():
            time.sleep(0.01)
Run.append_metrics = append_and_halt
cli.main()
"""
"""The command, which halts when it has written the metrics of three epochs, until it is told to go on."""


@pytest.mark.slow
def test_a_killed_run_ends_in_the_weights_of_one_that_was_left_alone(tmp_path):
    arguments = (*RANDOM, "data.workers=2", "trainer.epochs=5")
    process = start(*arguments, cwd=tmp_path, program=("-c", HALTED))
    wait_for((tmp_path / "halted").exists, process)
    process.kill()
    process.communicate()
    folder = run_folder(tmp_path / "runs")
    assert results(tmp_path) == []
    assert (folder / "state.pt").is_file()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "train/lo')  # a line that the crash tore

    resumed = call(*arguments, cwd=tmp_path)
    assert "resumes   after epoch" in resumed.out
    assert call(*arguments, "runs=undisturbed", "data.workers=0", cwd=tmp_path).code == 0
    assert [row["epoch"] for row in metrics(folder)] == list(range(1, 6))
    assert_same_run(folder, run_folder(tmp_path / "undisturbed"))
    assert not (folder / "state.pt").exists()


@pytest.mark.parametrize("write", WRITES)
def test_a_run_killed_at_any_write_ends_as_if_it_had_not_been(write, undisturbed, tmp_path):
    undisturbed.is_lived_again_from(write, 0, after=False, cwd=tmp_path)


PHASES = (
    "experiment=smoke",
    "method=vqt",
    "method.keep_fraction=0.7",
    "trainer.epochs=2",
    "trainer.save_seconds=0",
    "data.augment=flip_crop",
)


@pytest.fixture(scope="module")
def undisturbed_phases(tmp_path_factory):
    """A run of three phases."""
    return live(PHASES, tmp_path_factory.mktemp("undisturbed_phases"))


STATES = [(number, True) for number in range(7)]
"""After how many states a run ends, and that it has written the last of them."""


@pytest.mark.parametrize(("survived", "after"), [*STATES, (0, False), (6, False)])
def test_a_run_killed_in_any_phase_ends_as_if_it_had_not_been(survived, after, undisturbed_phases, tmp_path):
    undisturbed_phases.is_lived_again_from("write_state", survived, after=after, cwd=tmp_path)


LP_FT = (
    "experiment=smoke",
    "method=lp_ft",
    "trainer.save_seconds=0",
    "data.train_size=60",
    "data.val_fraction=0.2",
    "probe=lbfgs",
    "probe.C=[1e-4,1e-2]",
)


@pytest.fixture(scope="module")
def undisturbed_lp_ft(tmp_path_factory):
    """A run with a probe in front."""
    return live(LP_FT, tmp_path_factory.mktemp("undisturbed_lp_ft"))


@pytest.mark.parametrize(("survived", "after"), [*STATES[:5], (0, False), (3, False)])
def test_a_run_killed_before_or_behind_its_probe_ends_as_if_it_had_not_been(
    survived, after, undisturbed_lp_ft, tmp_path
):
    undisturbed_lp_ft.is_lived_again_from("write_state", survived, after=after, cwd=tmp_path)


def test_a_killed_probe_in_bf16_goes_on_and_the_backbone_trains_in_fp32_after_it(tmp_path):
    words = ("experiment=smoke", "method=lp_ft", "probe=adamw", "trainer.precision=bf16", "trainer.epochs=2")
    undisturbed = live((*words, "trainer.save_seconds=0"), tmp_path)
    undisturbed.is_lived_again_from("write_state", 0, after=True, cwd=tmp_path / "again")


def test_a_run_killed_while_its_probe_is_scored_scores_it_again_and_counts_both(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("peft_vision.task.session.TrainingSession._metrics", lambda session: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(*LP_FT, cwd=tmp_path)
    outcome = call(*LP_FT, cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert json.loads((run_folder(tmp_path / "runs") / "result.json").read_text())["test_reads"] == 3


GALORE = (
    "experiment=smoke",
    "method=full",
    "optimizer=galore_adamw",
    "optimizer.rank=5",
    "optimizer.gap=3",  # refreshes before and after each state
    "trainer.save_seconds=0",
    "trainer.epochs=3",
)


@pytest.mark.parametrize("option", [(), ("optimizer.bits=8", "optimizer.per_layer=true", "optimizer.basis=power")])
def test_a_killed_run_in_subspaces_goes_on_in_them(option, tmp_path):
    undisturbed = live((*GALORE, *option), tmp_path)
    expected = json.loads((undisturbed.folder / "result.json").read_text())["optimizer"]["refreshes"]
    assert expected > 24
    for survived in range(2):
        again = tmp_path / str(survived)
        undisturbed.is_lived_again_from("write_state", survived, after=True, cwd=again)
        result = json.loads((run_folder(again / "runs") / "result.json").read_text())
        assert result["optimizer"]["refreshes"] == expected


@pytest.mark.parametrize("method", ["vera", "pissa"])
def test_a_killed_run_of_another_packages_method_goes_on_to_the_same_weights(method, tmp_path):
    """VeRA has matrices that are drawn and not trained; PiSSA takes a part out of the frozen weights."""
    pytest.importorskip("peft")
    arguments = ("experiment=smoke", f"method=hf_peft/{method}", "trainer.epochs=3", "trainer.save_seconds=0")
    live(arguments, tmp_path).is_lived_again_from("write_state", 1, after=True, cwd=tmp_path / "again")


def test_the_result_counts_how_often_the_test_set_was_scored(tmp_path):
    undisturbed = live(SMOKE, tmp_path)
    for write, reads in {"append_metrics": 1, "place_adapter": 2, "write_result": 2}.items():
        folder = undisturbed.start_from(write, 0, after=False, cwd=tmp_path / write)
        undisturbed.go_on(tmp_path / write)
        assert json.loads((folder / "result.json").read_text())["test_reads"] == reads


def stopped_after_an_epoch(undisturbed: Life, cwd: Path) -> Path:
    """The state of a run that was killed then."""
    return undisturbed.start_from("write_state", 0, after=True, cwd=cwd) / "state.pt"


def changed(path: Path, change) -> None:
    """The state with one of its values changed, as whole as before."""
    state = torch.load(path, weights_only=True)
    change(state)
    write_state(state, path)


def flip(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])


def in_half_precision(path: Path) -> None:
    changed(path, lambda state: state["tuned"].update({name: tensor.half() for name, tensor in state["tuned"].items()}))


def with_another_moment(path: Path) -> None:
    def cut(state) -> None:
        first = next(iter(state["standing"]["optimizer"]["state"].values()))
        first["exp_avg"] = first["exp_avg"][:1]

    changed(path, cut)


def beyond_its_end(path: Path) -> None:
    changed(path, lambda state: state["standing"].update(epochs=3))


def of_another_type(path: Path) -> None:
    changed(path, lambda state: state["standing"].update(test_reads="1"))


@pytest.mark.parametrize("spoil", [flip, in_half_precision, with_another_moment, beyond_its_end, of_another_type])
def test_from_a_damaged_state_a_run_begins_anew_and_ends_as_if_it_had_not_been(spoil, undisturbed, tmp_path):
    state = stopped_after_an_epoch(undisturbed, tmp_path)
    spoil(state)
    spoiled = state.read_bytes()
    again = call(*undisturbed.arguments, cwd=tmp_path)
    assert again.code == 0, again
    assert "state.pt is damaged: " in again.out
    assert "resumes" not in again.out.rpartition("begins anew")[2]
    assert_same_run(state.parent, undisturbed.folder)
    assert (state.parent / "state.pt.damaged").read_bytes() == spoiled
    assert not (state.parent / "failed.json").exists()


def test_a_state_of_the_first_version_is_gone_on_from(undisturbed, tmp_path):
    path = stopped_after_an_epoch(undisturbed, tmp_path)
    state = torch.load(path, weights_only=True)
    del state["metrics_crc32"]
    torch.save(state, path)  # as it was written there
    assert "resumes   after epoch 1" in undisturbed.go_on(tmp_path).out
    assert_same_run(path.parent, undisturbed.folder)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def half(path):
        path.write_bytes(b"half")
        raise Killed

    run = Run(tmp_path)
    run.place_adapter(lambda path: path.write_bytes(b"whole"))
    with pytest.raises(Killed):
        run.place_adapter(half)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert (tmp_path / "adapter.safetensors").read_bytes() == b"whole"


def test_a_finished_run_is_told_and_not_trained_again(tmp_path, monkeypatch):
    assert call(*SMOKE, cwd=tmp_path).code == 0
    folder = run_folder(tmp_path / "runs")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}
    for name in ("state.pt", ".ood-scatter.png.unfinished"):  # left by a kill, they say nothing
        (folder / name).touch()
    monkeypatch.setattr(train, "_train", None)
    again = call(*SMOKE, "tracker=wandb", "device=cpu", "data.workers=0", cwd=tmp_path)
    assert again.code == 0
    assert "already finished" in again.out
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}


def test_what_can_change_a_result_makes_another_run(tmp_path, monkeypatch):
    folders = []

    def begun(_: object, run: Run, *__: object, **___: object) -> None:
        folders.append(run.folder)
        raise Killed

    monkeypatch.setattr(train, "_to_the_end", begun)
    for change in ("seed=0", "seed=1", "optimizer.lr=0.2", "head.std=0.02", "data.train_size=41"):
        with pytest.raises(Killed):
            call(*SMOKE, change, cwd=tmp_path)
    assert len({*folders}) == 5


def test_a_run_whose_data_have_changed_does_not_go_on(tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_result", killed)
        with pytest.raises(Killed):
            call(*SMOKE, cwd=tmp_path)
    monkeypatch.setattr("peft_vision.data.base.fingerprint", lambda *_: "another")
    assert call(*SMOKE, cwd=tmp_path).error.startswith("data: no longer what it was when ")


def test_a_sweep_tidies_what_a_kill_left_in_a_finished_run(tmp_path):
    arguments = ("-m", *SMOKE, "seed=0,1")
    assert call(*arguments, cwd=tmp_path).code == 0
    before = [path.read_bytes() for path in results(tmp_path)]
    left = [results(tmp_path)[0].with_name(name) for name in ("state.pt", ".adapter.safetensors.unfinished")]
    for path in left:
        path.touch()
    again = call(*arguments, cwd=tmp_path)
    assert again.out.count("already finished") == 1
    assert [path for path in left if path.exists()] == []
    assert [path.read_bytes() for path in results(tmp_path)] == before
