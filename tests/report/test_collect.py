"""Which runs of a folder are compared, and what is said of the others."""

import json
import re

import pytest

from made_up_runs import DATA, write_attempt, write_run
from peft_vision.core.config import ConfigError
from peft_vision.report.collect import collect


def left_out(runs) -> dict[str, str]:
    """The reason for each folder, where one other run is finished."""
    write_run(runs, method="zzz")
    finished, others = collect(runs)
    assert [run.method for run in finished] == ["zzz"]
    return {run.folder: run.reason for run in others}


def change(path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_runs_are_found_one_and_two_levels_down_and_no_deeper(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path / "sweep", seed=1)
    write_run(tmp_path / "old" / "sweep", seed=2)
    write_run(tmp_path / ".bench", seed=3)
    finished, others = collect(tmp_path)
    assert sorted(run.seed for run in finished) == [0, 1]
    assert others == []


def test_what_lies_in_a_runs_folder_is_no_run(tmp_path):
    folder = write_run(tmp_path)
    write_run(folder / "evaluations", seed=1)
    assert [run.seed for run in collect(tmp_path)[0]] == [0]


def test_metrics_in_and_out_of_distribution_are_one_mapping(tmp_path):
    write_run(tmp_path, val=0.6, test=0.5, ood={"fog": 0.25, "snow": {"a": 0.5, "b": 0.75}})
    (run,), _ = collect(tmp_path)
    assert (run.metrics["val/accuracy"], run.metrics["test/accuracy"]) == (0.6, 0.5)
    assert run.metrics["ood/snow/a/accuracy"] == 0.5
    assert run.metrics["ood/mean/accuracy"] == (0.25 + 0.625) / 2
    assert run.images == {"train": 900, "val": 100, "test": 1000, "ood/fog": 500, "ood/snow/a": 500, "ood/snow/b": 500}


def test_the_curve_is_kept_by_alpha(tmp_path):
    write_run(tmp_path, ood={"fog": 0.3}, curve={0.0: (0.1, 0.2), 0.5: (0.6, 0.4)}, alpha=0.5)
    (run,), _ = collect(tmp_path)
    assert run.alpha == 0.5
    assert run.curve[0.5] == {"val/accuracy": 0.6, "test/accuracy": 0.6, "ood/mean/accuracy": 0.4}


def test_what_is_scored_afterwards_is_no_part_of_a_setting(tmp_path):
    interpolation = {"_target_": "peft_vision.interpolation.wise_ft.Interpolation", "alphas": [0.0, 1.0]}
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, config={"interpolation": interpolation, "ood": {"a": {"_target_": "nobody.Knows"}}})
    first, second = (run.setting for run in collect(tmp_path)[0])
    assert first == second


def test_a_run_whose_scoring_was_cut_off_is_a_run_without_scores(tmp_path):
    folder = write_run(tmp_path)
    entry = {"mark": "", "shifts": 1, "images": 5, "fingerprint": "1", "reads": 1, "scores": {}}
    (folder / "ood.json").write_text(json.dumps({"splits": {"fog": entry}}))
    (run,), _ = collect(tmp_path)
    assert set(run.images) == {"train", "val", "test"}


def test_a_setting_has_neither_the_seed_nor_what_cannot_change_a_result(tmp_path):
    quick = {"trainer": {"_target_": "peft_vision.training.trainer.Trainer", "epochs": 3, "eval_batch_size": 1}}
    write_run(tmp_path / "here", seed=0)
    write_run(tmp_path / "there", seed=1, config={"tracker": {"_target_": "nobody.Knows"}, **quick})
    first, second = (run.setting for run in collect(tmp_path)[0])
    assert first == second
    assert first["optimizer.lr"] == 0.001


def test_a_run_is_counted_once(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    finished, (other,) = collect(tmp_path)
    assert [run.folder.parent.name for run in finished] == ["a"]
    assert (other.folder.split("/")[0], other.reason) == ("b", "the same run as a/full-vit_micro-digits-s0-0.001")


def test_an_unfinished_run_is_named(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "state.pt").write_bytes(b"")
    (tmp_path / "pictures").mkdir()
    assert left_out(tmp_path) == {"begun": "not finished"}


def test_a_result_that_is_gone_from_a_finished_run_is_named(tmp_path):
    folder = write_run(tmp_path)
    for name in ("adapter.safetensors", "metrics.jsonl"):
        (folder / name).touch()
    (folder / "result.json").unlink()
    write_run(tmp_path, method="linear")
    _, (other,) = collect(tmp_path)
    assert other.reason == "result.json is gone, though the run was finished; its command trains it again"
    (folder / "state.pt").touch()  # it was stopped between the two
    _, (other,) = collect(tmp_path)
    assert (other.folder, other.reason) == (folder.name, "not finished")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"result.json: cannot be read \(.*\)"),
        ('{"choices": ', r"result.json: cannot be read \(.*\)"),
        ("\ufffe", r"result.json: cannot be read \(.*\)"),
        ("[1, 2]", "result.json: Input should be .*"),
        ('{"loss": 0.3}', "result.json: name: Field required"),
    ],
)
def test_a_torn_or_foreign_result_is_named(text, reason, tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "result.json").write_text(text, encoding="utf-16" if text == "\ufffe" else None)
    assert re.fullmatch(reason, left_out(tmp_path)["odd"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"metrics": {"val/accuracy": 0.5}}, "result.json: metrics: no test/accuracy"),
        ({"metrics": {"test/accuracy": float("nan")}}, "test/accuracy is nan, should be a fraction from 0 to 1"),
        ({"metrics": {"test/accuracy": 97.5}}, "test/accuracy is 97.5, should be a fraction from 0 to 1"),
        ({"seed": "first"}, "result.json: seed: Input should be .*"),
        ({"data": {**DATA, "images": {"train": 5}}}, "result.json: data.images.test: Field required"),
        ({"config": {"method": {"_target_": "mypackage.Mine"}}}, "config.method._target_: no module 'mypackage' .*"),
        (
            {"config": {"method": {"_target_": "../.."}}},
            "config.method._target_: got '../..', should be a dotted path to a class",
        ),
    ],
)
def test_a_result_of_another_kind_is_named(values, reason, tmp_path):
    folder = write_run(tmp_path)
    change(folder / "result.json", **values)
    assert re.fullmatch(reason, left_out(tmp_path)[folder.name])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"images": {}}, "ood.json: images: none of fog"),
        ({"images": {"fog": 500, "snow": 500}}, "ood.json: metrics: no ood/snow/accuracy"),
        ({"images": {"fog": 0}}, "ood.json: images.fog: Input should be greater than or equal to 1; got 0"),
        ({"metrics": {"ood/fog/accuracy": -1}}, "ood/fog/accuracy is -1, should be a fraction from 0 to 1"),
        (
            {"interpolation": {"rows": [{"alpha": 0.5}], "chosen": 0.6, "rule": ""}},
            "ood.json: interpolation: no row of the chosen alpha, 0.6",
        ),
        ({"interpolation": {"rows": [{}], "chosen": 0.6, "rule": ""}}, "ood.json: interpolation: a row without alpha"),
    ],
)
def test_a_broken_score_leaves_the_whole_run_out(values, reason, tmp_path):
    folder = write_run(tmp_path, ood={"fog": 0.3})
    change(folder / "ood.json", **values)
    assert left_out(tmp_path)[folder.name] == reason


def test_a_folder_without_a_finished_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"^runs: no folder .*nowhere$"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"^runs: no finished run in [^;]*$"):
        collect(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"^runs: no finished run in .*; begun: not finished$"):
        collect(tmp_path)


def test_several_folders_are_one_collection(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1)
    (tmp_path / "b" / "begun").mkdir()
    (tmp_path / "b" / "begun" / "state.pt").write_bytes(b"")
    finished, (other,) = collect(tmp_path / "a", tmp_path / "b", tmp_path / "a")
    assert sorted(run.seed for run in finished) == [0, 1]
    assert other.folder == (tmp_path / "b" / "begun").as_posix()


def test_what_a_run_without_a_result_tried_is_read_from_its_folder(tmp_path):
    write_attempt(tmp_path, method="lora", data="pets", seed=3, lr=0.5, error="the loss became nan\ntry less")
    write_run(tmp_path)
    _, (other,) = collect(tmp_path)
    assert (other.reason, other.kind) == ("failed: the loss became nan", "failed")
    attempt = other.attempt
    assert (attempt.method, attempt.backbone, attempt.data, attempt.seed) == ("lora", "vit_micro", "pets", 3)
    assert attempt.setting["optimizer.lr"] == 0.5


def test_a_hyphen_in_a_name_is_understood_where_a_finished_run_has_it(tmp_path):
    write_run(tmp_path, backbone="vit-b")
    write_attempt(tmp_path, backbone="vit-b", seed=1)
    write_attempt(tmp_path, backbone="vit-c", seed=1)
    attempts = {run.folder: run.attempt for run in collect(tmp_path)[1]}
    known, unknown = (attempts[f"full-vit-{name}-digits-s1-0.001"] for name in "bc")
    assert (known.backbone, unknown) == ("vit-b", None)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "method: {_target_: mypackage.Mine}"])
def test_a_torn_config_of_an_unfinished_run_is_no_fault(text, tmp_path):
    (write_attempt(tmp_path) / "config.yaml").write_text(text)
    write_run(tmp_path, seed=1)
    _, (other,) = collect(tmp_path)
    assert (other.reason, dict(other.attempt.setting)) == ("not finished", {})


def test_a_torn_note_of_a_failure_is_named(tmp_path):
    (write_attempt(tmp_path, error="") / "failed.json").write_text('{"error"')
    assert "failed.json" in left_out(tmp_path).popitem()[1]


@pytest.mark.parametrize("name", ["test/loss", "val/accuracy", "test/calibration_error", "test/accuracy_top5"])
def test_a_metric_that_is_no_number_leaves_the_run_out(name, tmp_path):
    folder = write_run(tmp_path)
    change(folder / "result.json", metrics={"test/accuracy": 0.5, name: float("nan")})
    assert left_out(tmp_path)[folder.name].startswith(f"{name} is nan")


def test_a_cost_that_is_no_number_leaves_the_run_out(tmp_path):
    folder = write_run(tmp_path, peak_mib=float("nan"))
    assert left_out(tmp_path)[folder.name].startswith("result.json: peak_mib: Input should be")


def test_numbers_that_were_edited_into_words_are_named(tmp_path):
    folder = write_run(tmp_path)
    change(folder / "result.json", metrics={"test/accuracy": "high"})
    assert left_out(tmp_path)[folder.name].startswith("result.json: metrics.test/accuracy: Input should be")
