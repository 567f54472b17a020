"""The same picture in two splits: said by the run, kept in its result, and noted in a report."""

import json
import shutil

from command import call, run_folder
from digit_folders import DATA, write_digits

SAID = "test images are among the train images too"
RUN = (*DATA, "method=linear", "trainer.epochs=1", "data.val_fraction=0")


def test_copies_between_splits_are_said_kept_and_noted(tmp_path):
    write_digits(tmp_path)
    copied = sorted((tmp_path / "digits" / "train" / "3").iterdir())[:4]
    for path in copied:
        shutil.copy(path, tmp_path / "digits" / "test" / "3" / f"copy_of_{path.name}")
    first, again = call(*RUN, cwd=tmp_path), call(*RUN, cwd=tmp_path)
    assert f"twins     4 {SAID}, byte for byte, such as {tmp_path}/digits/test/3/copy_of_{copied[0].name}" in first.out
    assert f"twins     4 {SAID}\n" in first.out
    assert f"twins     4 {SAID}\n" in again.out  # which reads no picture
    result = json.loads((run_folder(tmp_path / "runs") / "result.json").read_text())
    assert result["data"]["twins"] == {"test in train": 4}
    report = call("task=report", "runs=runs", "task.pictures=[png]", cwd=tmp_path)
    assert f"image_folder: 4 {SAID}" in report.out
    assert f"image_folder: 4 {SAID}" in (tmp_path / "runs" / "report" / "report.html").read_text()


def test_splits_without_twins_get_no_line(tmp_path):
    write_digits(tmp_path)
    outcome = call(*RUN, cwd=tmp_path)
    assert "twins     " not in outcome.out
    result = json.loads((run_folder(tmp_path / "runs") / "result.json").read_text())
    assert result["data"]["twins"] == {}


def test_results_from_before_are_read_as_they_are(tmp_path):
    write_digits(tmp_path)
    assert call(*RUN, cwd=tmp_path).code == 0
    path = run_folder(tmp_path / "runs") / "result.json"
    result = json.loads(path.read_text())
    del result["data"]["twins"]
    path.write_text(json.dumps(result))
    outcome = call(*RUN, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "twins     " not in outcome.out
