"""A report is written by one process at a time: two sweeps over the same runs may end together."""

from threading import Thread

from filelock import FileLock

from boards import options
from made_up_runs import write_run
from peft_vision.report.comparison import compare


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
