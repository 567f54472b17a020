"""Learning curves: means over the seeds that tell, of epochs that all of them have."""

import json

import pytest

from boards import board
from made_up_runs import write_run
from peft_vision.core.records import lines_checksum
from peft_vision.report.choose import Setting
from peft_vision.report.curves import curves, learning_curves
from peft_vision.report.figures import looks

EPOCHS = ([(2.0, 0.5), (1.0, 0.6), (0.5, 0.7)], [(3.0, 0.6), (2.0, 0.7), (1.0, 0.8)])


def chosen(runs) -> Setting:
    (line,) = board(runs).lines
    return line.entries[0].setting


def write(runs) -> list:
    return [write_run(runs, seed=seed, epochs=epochs) for seed, epochs in enumerate(EPOCHS)]


def test_a_curve_is_mean_and_deviation_over_seeds(tmp_path):
    write(tmp_path)
    curve = curves(chosen(tmp_path))["val/accuracy"]
    assert curve.epochs == (1, 2, 3)
    assert curve.mean == pytest.approx((0.55, 0.65, 0.75))
    assert curve.std == pytest.approx([0.1 / 2**0.5] * 3)


def test_a_torn_last_line_is_passed_over(tmp_path):
    first, _ = write(tmp_path)
    path = first / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    assert curves(chosen(tmp_path))["train/loss"].epochs == (1, 2)


@pytest.mark.parametrize(
    "line", ["[1]", "{}", '{"epoch": 4, "lr": 1, "train/loss": NaN}', '{"epoch": "x", "lr": 1}', "\0"]
)
def test_lines_that_tell_nothing_are_passed_over(line, tmp_path):
    for folder in write(tmp_path):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(line)
    assert curves(chosen(tmp_path))["train/loss"].epochs == (1, 2, 3)


def test_lines_and_files_that_hold_no_epochs_are_said(tmp_path, caplog):
    first, second = write(tmp_path)
    (first / "metrics.jsonl").write_text('{"metrics": null}')
    (second / "metrics.jsonl").unlink()
    (second / "metrics.jsonl").symlink_to("nowhere")
    assert curves(chosen(tmp_path)) == {}
    torn, lost = sorted(record.getMessage() for record in caplog.records)
    assert torn == f"learning curve of {first.name}: metrics.jsonl has 1 lines without a record"
    assert lost == f"no learning curve: cannot read {second / 'metrics.jsonl'}: No such file or directory"
    (second / "metrics.jsonl").unlink()  # as where results alone were passed on
    caplog.clear()
    assert curves(chosen(tmp_path)) == {}
    assert f"no learning curve of 1 runs: no {second / 'metrics.jsonl'}" in caplog.text


def test_penalties_that_a_solver_tried_are_no_curve_and_no_damage(tmp_path, caplog):
    for folder in write(tmp_path):
        rows = ({"epoch": epoch, "C": 10.0**epoch, "train/loss": 1 / epoch} for epoch in (1, 2))
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert curves(chosen(tmp_path)) == {}
    assert caplog.messages == []


def test_a_file_that_is_not_as_the_run_wrote_it_is_said(tmp_path, caplog):
    first, second = write(tmp_path)
    for folder in (first, second):
        path = folder / "result.json"
        noted = {"metrics_jsonl": lines_checksum(folder / "metrics.jsonl")}
        path.write_text(json.dumps({**json.loads(path.read_text()), **noted}))
    curves(chosen(tmp_path))
    assert caplog.messages == []
    for edited in ("", (second / "metrics.jsonl").read_text().replace("1", "2", 1)):
        (second / "metrics.jsonl").write_text(edited)
        caplog.clear()
        curves(chosen(tmp_path))
        assert caplog.messages == [f"learning curve of {second.name}: metrics.jsonl is not as the run wrote it"]


def test_the_settings_of_a_solver_are_no_epochs(tmp_path):
    folder = write_run(tmp_path)
    rows = [{"epoch": 1, "C": 0.1, "train/loss": 1.0}, {"epoch": 2, "lr": 0.1, "weight_decay": 0, "train/loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "train/loss" not in curves(chosen(tmp_path))
    assert learning_curves({"full": chosen(tmp_path)}, looks(["full"]), "digits") is None


def test_runs_without_validation_have_a_curve_of_the_loss_alone(tmp_path):
    folder = write_run(tmp_path)
    rows = [{"epoch": epoch, "lr": 0.1, "train/loss": 1 / epoch} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (axes,) = learning_curves({"full": chosen(tmp_path)}, looks(["full"]), "digits").axes
    assert axes.get_ylabel() == "training loss"


def test_a_line_is_drawn_for_each_method(tmp_path):
    for method in ("full", "lora"):
        write_run(tmp_path, method=method, epochs=EPOCHS[0])
    settings = {line.method: line.entries[0].setting for line in board(tmp_path).lines}
    figure = learning_curves(settings, looks(["full", "lora"]), "digits")
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
