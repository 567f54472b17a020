"""A finished run's result serves the same command again, and no other; runs of version 0.1.0 included."""

import json
import shutil
from pathlib import Path

import pytest

from command import call, run_folder
from composed import composed
from digit_folders import DATA, write_digits
from peft_vision import backbone
from peft_vision.core.config import ConfigError
from peft_vision.runs.run import Run
from peft_vision.runs.served import Served

WRITTEN = Path(__file__).parents[1] / "written_by_0_1_0"
AS_WRITTEN = ("backbone=vit_micro", "data=digits", "data.train_size=100", "tracker=none", "features.folder=features")
LINEAR = (*AS_WRITTEN, "method=linear", "trainer.epochs=2")
TRAINED_AGAIN = "trainable"


def lay(name: str, runs: Path) -> Path:
    (folder,) = WRITTEN.glob(f"{name}-*")
    return shutil.copytree(folder, runs / folder.name)


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_run_that_0_1_0_finished_is_found_and_the_upgrade_is_said(tmp_path):
    folder = lay("linear-vit_micro-digits-s0", tmp_path / "runs")
    edit(folder / "result.json", lambda result: result["environment"].update(timm="1.0.1"))
    outcome = call(*LINEAR, cwd=tmp_path)
    assert outcome.code == 0
    assert "finished with timm 1.0.1, now " in outcome.out
    assert TRAINED_AGAIN not in outcome.out
    assert run_folder(tmp_path / "runs") == folder


def test_another_order_of_parts_is_another_run_of_which_0_1_0_knew_nothing(tmp_path):
    lay("combined", tmp_path)
    whole = (*AS_WRITTEN, "method=combined", "trainer.epochs=2", "optimizer.weight_decay=0", f"runs={tmp_path}")
    assert Served().result(composed(*whole, "method.parts=[lora,bitfit]")).identity.startswith("7b9f0c1a")
    assert Served().result(composed(*whole, "method.parts=[bitfit,lora]")) is None


def test_a_run_that_0_1_0_began_goes_on(tmp_path):
    folder = lay("linear-vit_micro-digits-s1", tmp_path / "runs")
    outcome = call(*AS_WRITTEN, "method=linear", "trainer.epochs=40", "seed=1", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert "resumes   after epoch 2" in outcome.out
    assert run_folder(tmp_path / "runs") == folder
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 40
    assert (folder / "result.json").is_file()


@pytest.mark.parametrize(
    ("words", "serves"),
    [
        (("method=lora",), True),
        (("method=fact_tt",), False),
        (("method=combined", "method.parts=[lora,fact_tk]"), False),
        (("method=vpt_deep",), True),
        (("method=vpt_deep", "method.projection=8"), False),
        (("method=full", "backbone.drop_path=0.1"), True),
        (("method=partial", "backbone.drop_path=0.1"), False),
        (("method=lora", "backbone.drop_path=0.1"), False),
        (("method=vpt_deep", "+backbone.architecture.attn_drop_rate=0.1"), False),
        (("method=lora", "trainer.precision=bf16"), False),
        (("method=lora", "trainer.precision=fp32"), True),
        (("method=full", "optimizer=apollo"), False),
        (("method=full", "optimizer=galore_adamw"), True),
        (("method=linear", "data.augment=flip_crop", "features.views=2"), False),
        (("method=linear", "head.norm=batch"), True),
        (("method=linear", "head.norm=batch", "trainer.accumulate=2"), False),
    ],
    ids=str,
)
def test_a_run_that_0_1_0_trained_otherwise_is_not_served(words, serves, tmp_path):
    experiment = composed(*AS_WRITTEN, *words, f"runs={tmp_path}")
    first = tmp_path / f"{experiment.name.rpartition('-')[0]}-{experiment.first_identity[:8]}"
    first.mkdir()
    Run(first).write_config(experiment.composed)
    assert (experiment.run.folder == first) is serves


@pytest.mark.parametrize(
    ("words", "change", "serves"),
    [
        ((), {"environment": {"device": "NVIDIA H200"}}, False),  # where auto is bf16
        (("trainer.precision=fp32",), {"environment": {"device": "NVIDIA H200"}}, True),
        (("head.norm=batch",), {"environment": {"processes": 2}}, False),
        (("data.augment=flip_crop", "features.views=2"), {"store": {"splits": {"train": {"reason": None}}}}, True),
    ],
    ids=str,
)
def test_what_its_result_tells_counts_too(words, change, serves, tmp_path):
    folder = lay("linear-vit_micro-digits-s0", tmp_path)
    experiment = composed(*LINEAR, *words, f"runs={tmp_path}")
    first = folder.rename(tmp_path / f"{experiment.name.rpartition('-')[0]}-{experiment.first_identity[:8]}")
    Run(first).write_config(experiment.composed)
    edit(first / "result.json", lambda result: merge(result, change))
    assert (experiment.run.folder == first) is serves


def merge(record: dict, change: dict) -> None:
    for key, value in change.items():
        merge(record[key], value) if isinstance(value, dict) else record.update({key: value})


def test_a_folder_that_another_run_has_taken_is_named(tmp_path):
    experiment = composed(*LINEAR, f"runs={tmp_path}")
    lay("linear-vit_micro-digits-s0", tmp_path).rename(experiment.run.folder.parent / experiment.name)
    edit(tmp_path / experiment.name / "result.json", lambda result: result["config"]["optimizer"].update(lr=0.5))
    with pytest.raises(
        ConfigError, match=f"{experiment.name} holds another run, 67998c25d7ac9ee1\nmove it away, or set runs="
    ):
        Served().result(composed(*LINEAR, f"runs={tmp_path}"))


def test_two_settings_of_equal_beginnings_have_a_folder_each():
    """Their identities in 0.1.0 began with the same eight digits."""
    one, other = (composed("data=digits", "backbone=vit_micro", f"optimizer.lr={lr}") for lr in (0.002338, 0.128107))
    assert one.name != other.name


@pytest.fixture
def trained(tmp_path) -> Path:
    write_digits(tmp_path)
    assert call(*DATA, cwd=tmp_path).code == 0
    return tmp_path


def test_other_pictures_in_the_same_folder_are_not_served_by_the_old_result(trained):
    assert TRAINED_AGAIN not in call(*DATA, cwd=trained).out
    (trained / "digits" / "train" / "0" / "more.png").write_bytes(
        next((trained / "digits" / "train" / "0").glob("*.png")).read_bytes()
    )
    said = call(*DATA, cwd=trained).error
    assert said.startswith("data: no longer what it was when ")
    assert len(said.splitlines()) == 2
    assert "1 of the sweep's 1 points failed" in call("-m", *DATA, cwd=trained).err


def test_pictures_that_are_gone_are_said_not_to_be_compared(trained):
    shutil.rmtree(trained / "digits")
    outcome = call(*DATA, cwd=trained)
    assert outcome.code == 0
    assert "the images are not compared with those of the finished run; data.path: no folder" in outcome.out


def test_the_same_words_in_another_folder_are_another_run(trained):
    """As long as they share a folder of runs."""
    elsewhere = write_digits(trained / "elsewhere")
    shutil.rmtree(elsewhere / "digits" / "test" / "4")
    assert TRAINED_AGAIN in call(*DATA, f"runs={trained / 'runs'}", cwd=elsewhere).out


def test_weights_that_have_changed_under_their_name_are_not_served(tmp_path):
    weights = tmp_path / "weights.safetensors"
    shutil.copy(Path(backbone.__file__).parent / "vit_micro.safetensors", weights)
    words = (*AS_WRITTEN, "trainer.epochs=1", "method=linear", "backbone.checkpoint=weights.safetensors")
    assert call(*words, cwd=tmp_path).code == 0
    assert TRAINED_AGAIN not in call(*words, cwd=tmp_path).out
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert call(*words, cwd=tmp_path).error.startswith("backbone.checkpoint: no longer what it was when ")
    weights.unlink()


def test_other_weights_are_another_run_and_those_of_a_path_that_leads_nowhere_are_none(tmp_path):
    shipped = (Path(backbone.__file__).parent / "vit_micro.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(shipped)
    (tmp_path / "b.safetensors").write_bytes(shipped[:-4] + b"\0\0\0\0")
    words = (*AS_WRITTEN, "trainer.epochs=1", "method=linear")
    assert TRAINED_AGAIN in call(*words, cwd=tmp_path).out
    for name in ("a", "b"):
        assert TRAINED_AGAIN in call(*words, f"backbone.checkpoint={name}.safetensors", cwd=tmp_path).out
    assert call(*words, "backbone.checkpoint=c.safetensors", cwd=tmp_path).error.startswith("backbone.checkpoint: no ")
    (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    assert TRAINED_AGAIN not in call(*words, "backbone.checkpoint=c.safetensors", cwd=tmp_path).out


def test_each_data_set_is_looked_at_once(tmp_path, monkeypatch):
    lay("linear-vit_micro-digits-s0", tmp_path)
    experiment, served = composed(*LINEAR, f"runs={tmp_path}"), Served()
    looked = []
    fingerprint = type(experiment.data).fingerprint
    monkeypatch.setattr(
        type(experiment.data), "fingerprint", lambda self, **options: looked.append(1) or fingerprint(self, **options)
    )
    assert served.result(experiment) == served.result(experiment)
    assert len(looked) == 1


def test_a_project_that_was_moved_keeps_its_runs_and_so_does_a_copy(trained):
    name = run_folder(trained / "runs").name
    for lay_elsewhere in (shutil.copytree, shutil.move):
        there = trained / lay_elsewhere.__name__
        there.mkdir()
        for part in ("digits", "runs"):
            lay_elsewhere(trained / part, there / part)
        outcome = call(*DATA, cwd=there)
        assert outcome.code == 0
        assert TRAINED_AGAIN not in outcome.out
        assert run_folder(there / "runs").name == name


def test_a_moved_run_on_other_pictures_is_refused(trained):
    next((trained / "digits" / "train" / "0").iterdir()).unlink()
    (trained / "digits").rename(trained / "moved")
    words = [word for word in DATA if not word.startswith("data.path")]
    assert call(*words, "data.path=moved", cwd=trained).error.startswith("data: no longer what it was when ")
