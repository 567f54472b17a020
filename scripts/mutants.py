"""This script breaks one important line at a time and runs the tests nearest to it: a mutant that survives is untested.

    python scripts/mutants.py                   every mutant of mutants.yaml
    python scripts/mutants.py optimizer head    those whose file has one of these words in its path

Each mutant is a copy of the source with one line replaced, and is tested by a process that is forked after torch, timm
and pytest have been imported. The exit code is 1 where a mutant survives that is not explained in the list.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "scripts" / "mutants.yaml"
SOURCE = Path("src/peft_vision")
NO_TESTS = 5  # pytest's exit code


@dataclass(frozen=True)
class Mutant:
    """A mutant of one line. `line` stands once in `file`, below src/peft_vision, and becomes `broken`, which `tests`
    should notice. `explained`: why no test can notice, for a mutant that is meant to survive."""

    file: str
    line: str
    broken: str
    tests: tuple[str, ...]
    explained: str | None

    def __str__(self) -> str:
        return f"{self.file}: {self.line.strip()}  ->  {self.broken.strip() or '(removed)'}"

    def apply(self, source: str) -> str:
        """Return the broken source. ValueError unless `line` stands exactly once in `source`; SyntaxError if the broken
        source is no longer Python."""
        count = source.count(self.line)
        if count != 1:
            raise ValueError(f"{self.file} has this line {count} times: {self.line!r}")
        broken = source.replace(self.line, self.broken)
        compile(broken, self.file, "exec")
        return broken


def mutants() -> list[Mutant]:
    """Read all mutants of the list."""
    found = []
    for group in yaml.safe_load(LIST.read_text()):
        for entry in group["mutants"]:
            tests = entry.get("tests", group["tests"])
            explained = entry.get("explained")
            found.append(Mutant(group["file"], entry["line"], entry["broken"], tuple(tests.split()), explained))
    return found


@dataclass(frozen=True)
class Verdict:
    """The verdict on one mutant. `word`: `killed`, or `survived`, or what went wrong; and the seconds it took."""

    mutant: Mutant
    word: str
    seconds: float


@dataclass
class Trial:
    """A run of `tests` in a forked process, on the source in `folder`."""

    folder: tempfile.TemporaryDirectory
    tests: tuple[str, ...]
    seconds: float

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self._child = os.fork()
        if self._child == 0:
            _run_pytest(Path(self.folder.name), self.tests)

    def code(self) -> int | None:
        """Return the exit code of pytest, or None while it is at work. Tests that hang are killed and count as having
        noticed, with -1."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        late = time.monotonic() > self.started + self.seconds
        if not pid and not late:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)  # and whatever the tests started
        if not pid:
            os.waitpid(self._child, 0)
        self.folder.cleanup()
        return os.waitstatus_to_exitcode(status) if pid else -1


def mutated(mutant: Mutant) -> tempfile.TemporaryDirectory:
    """Return a folder with a copy of the source that has the broken line."""
    folder = tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True)
    copy = Path(folder.name)
    shutil.copytree(ROOT / "src", copy / "src", copy_function=_copied)
    (copy / "conf").symlink_to(ROOT / "conf")
    file = copy / SOURCE / mutant.file
    file.write_text(mutant.apply(file.read_text()))
    return folder


def _copied(source: str, target: str) -> None:
    """Copy a file with its date, so that bytecode stays valid; weights are linked, not copied a hundred times."""
    os.symlink(source, target) if source.endswith(".safetensors") else shutil.copy2(source, target)


def unbroken() -> tempfile.TemporaryDirectory:
    """Return a folder with the source as it is."""
    folder = tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True)
    (Path(folder.name) / "src").symlink_to(ROOT / "src")
    return folder


def carried_out(trials: Sequence[Callable[[], Trial]], at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each trial and its exit code as it ends."""
    waiting = list(enumerate(trials))[::-1]
    running: dict[int, Trial] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number, start = waiting.pop()
            running[number] = start()
        for number in list(running):
            if (code := running[number].code()) is not None:
                del running[number]
                yield number, code
        time.sleep(0.02)


def _run_pytest(copy: Path, tests: Sequence[str]) -> None:
    """Run pytest in the child and exit; never return."""
    code = 1
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.chdir(ROOT)
        sys.path.insert(0, str(copy / "src"))
        os.environ["PYTHONPATH"] = str(copy / "src")  # for the processes that tests start
        import pytest

        # pytest warns that plugins have been imported already, with torch's dependencies
        options = [
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            f"--basetemp={copy / 'tmp'}",
        ]
        code = pytest.main([*options, *tests])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(int(code))


def failing(sets: Sequence[tuple[str, ...]], options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Return the sets of tests that fail on the source as it is."""
    trials = [partial(Trial, unbroken(), tests, 2 * options.seconds) for tests in sets]
    return [sets[number] for number, code in carried_out(trials, options.jobs) if code != 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose file has one of these in its path")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at a time")
    parser.add_argument("--seconds", type=float, default=180, help="a test run may take")
    options = parser.parse_args()
    chosen = [one for one in mutants() if not options.words or any(word in one.file for word in options.words)]
    import pytest  # noqa: F401 - the processes that are forked need not import these again
    import timm  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    useless = failing(
        failing(sorted({one.tests for one in chosen}), options), options
    )  # twice, since a busy machine may fail tests once
    for tests in useless:
        print(f"these tests fail on the source as it is, and would kill anything: {' '.join(tests)}", flush=True)
    chosen = [one for one in chosen if one.tests not in useless]
    words = {}
    starts = [lambda one=one: Trial(mutated(one), one.tests, options.seconds) for one in chosen]
    for number, code in carried_out(starts, options.jobs):
        words[number] = {0: "survived", NO_TESTS: "ran no test"}.get(code, "killed")
        print(f"{len(words)}/{len(chosen)}  {words[number]}  {chosen[number]}", flush=True)
    survivors = [one for number, one in enumerate(chosen) if words[number] != "killed"]
    share = len(survivors) / max(1, len(chosen))
    print(f"{len(chosen)} mutants, {len(chosen) - len(survivors)} killed, {len(survivors)} survived ({share:.1%})")
    for one in survivors:
        print(f"  {one}\n    {one.explained or 'not explained'}")
    sys.exit(bool(useless) or any(one.explained is None for one in survivors))


if __name__ == "__main__":
    main()
