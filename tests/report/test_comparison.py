"""A report is written by one process at a time: two sweeps over the same runs may end together."""

from threading import Thread

from filelock import FileLock

from boards import options
from made_up_runs import write_run
from peft_vision.report.comparison import compare
from peft_vision.runs.run import attempt


def test_a_report_waits_for_another_of_the_same_runs(tmp_path):
    write_run(tmp_path / "runs", method="full")
    out = tmp_path / "report"
    out.mkdir()
    made = []
    with FileLock(out / ".lock"):
        other = Thread(target=lambda: made.append(compare([tmp_path / "runs"], out, options())))
        other.start()
        other.join(timeout=3)
        assert other.is_alive()
        assert [path.name for path in out.iterdir() if path.name != ".lock"] == []
    other.join()
    assert made[0].page.is_file()


def test_reports_made_at_the_same_time_are_one_attempt(tmp_path):
    """The sweep that writes first draws the attempt, while it holds the folder alone; the second one keeps it."""
    write_run(tmp_path / "runs", method="full")
    out = tmp_path / "report"
    out.mkdir()
    seen = []

    def report() -> None:
        compare([tmp_path / "runs"], out, options())
        seen.append(attempt(out, anew=False))

    with FileLock(out / ".lock"):
        sweeps = [Thread(target=report) for _ in range(2)]
        for sweep in sweeps:
            sweep.start()
    for sweep in sweeps:
        sweep.join()
    assert len(seen) == 2
    assert set(seen) == {attempt(out, anew=False)}
    assert "" not in seen


def test_a_report_of_an_earlier_version_gets_no_attempt(tmp_path):
    """It is mirrored under the id that the earlier version gave it."""
    write_run(tmp_path / "runs", method="full")
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.html").write_text("of an earlier version")
    compare([tmp_path / "runs"], out, options())
    assert attempt(out, anew=False) == ""


def test_a_key_of_rows_that_no_run_has_is_a_warning(tmp_path, caplog):
    write_run(tmp_path / "runs")
    compare([tmp_path / "runs"], tmp_path / "report", options(rows=("optimizer.lr", "optimizer.l")))
    said = [record.getMessage() for record in caplog.records if "task.rows" in record.getMessage()]
    assert said == ["task.rows: no run has optimizer.l; did you mean optimizer.lr?"]


def test_a_report_of_tuning_runs_alone_is_written(tmp_path):
    write_run(tmp_path / "runs", method="lora", test=None, stage="tune", source="digits: 80 train + 20 val")
    compare([tmp_path / "runs"], tmp_path / "report", options())
    assert (tmp_path / "report" / "table.md").is_file()
    assert (tmp_path / "report" / "report.html").is_file()
