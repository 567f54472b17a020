"""This benchmark tries faults on commands one at a time, at every place: kills, full disks and damaged files.

    python benchmarks/faults.py            # some thousand cases
    python benchmarks/faults.py --sample 60 --seed 1

kill     SIGKILL before or after each rename, unlink and fsync of a command
full     no room at each of these, or for files above a size
damage   a file of each kind emptied, cut, with a bit flipped, of another type, a pipe, a folder, endless, ...

After each fault the same command runs again without it, and for damaged files a report before and after. All must end
within a minute, without a traceback. `lost`: the repeated command fails. `wrong`: its tensors, metrics or files differ
from those of an undisturbed command, and it does not say so. A damaged file that is refused is put back as it was, and
then the command must end as undisturbed. Commands are forked from one process that has imported everything.
"""

import argparse
import gc
import importlib
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from faults_scenes import SCENES, Scene
from hydra.core.plugins import Plugins
from safetensors.numpy import load_file

import peft_vision

PATIENCE = 180  # seconds for a command, also on a slow disk
CHANGES = {  # keys of a result that describe its circumstances
    "wall_seconds", "train_seconds", "images_per_second", "peak_mib", "store", "environment", "test_reads",
    "backbone_images", "optimizer", "checksum",
}  # fmt: skip
SIZES = (0, 100, 1000, 3000, 20_000)  # limits on the bytes of a file
LARGEST = 2**26  # bytes that no file written by a command exceeds here
REPORT = ("task=report", "runs=runs", "out=report")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command. `code`: its exit code, 137 if it was killed, None if it did not end; `said`: what it
    printed."""

    code: int | None
    said: str

    @property
    def fault(self) -> str | None:
        """The fault that no command may have, "hangs" or "traceback", or None."""
        if self.code is None:
            return "hangs"
        return "traceback" if "Traceback" in self.said or self.code not in (0, 1, 75, 137) else None


def import_everything() -> None:
    """Import every module, so that commands take no time for it."""
    Plugins.instance()
    for module in pkgutil.walk_packages(peft_vision.__path__, "peft_vision."):
        with suppress(ImportError):  # modules that need an optional package
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def command(arguments: Iterable[str], folder: Path, begin: Callable[[], object] = lambda: None) -> Outcome:
    """Run a command in a fork of this process; `begin` is called there first."""
    said = folder / ".said"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(list(arguments), folder, said, begin)
    end = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(None, said.read_text(errors="replace"))
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(128 - code if code < 0 else code, said.read_text(errors="replace"))


def _become(arguments: list[str], folder: Path, said: Path, begin: Callable[[], object]) -> None:
    """Turn this process into the command and exit; do not return."""
    from peft_vision import cli

    code = 1
    try:
        os.chdir(folder)
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ |= {"HOME": str(folder), "PEFT_VISION_CACHE": str(folder / "store"), "COLUMNS": "200"}
        sys.argv = ["peft-vision", *arguments]
        begin()
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


class Calls:
    """A counter of the renames, unlinks and fsyncs in `folder` that replaces the call of this `number` by `strike`."""

    def __init__(self, folder: Path, number: int, strike: Callable[[Callable[[], object]], object]) -> None:
        self.folder, self.left, self.strike, self.count = str(folder), number, strike, 0

    def install(self, count_in: Path | None = None) -> None:
        self.count_in = count_in
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "fsync"):
            setattr(os, name, partial(self._call, getattr(os, name)))

    def _call(self, real: Callable[..., object], target: object, *rest: object, **options: object) -> object:
        with suppress(OSError, TypeError):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(target)
            if not path.startswith(self.folder):
                return real(target, *rest, **options)
        call = partial(real, target, *rest, **options)
        self.left -= 1
        self.count += 1
        if self.count_in is not None:
            self.count_in.write_text(str(self.count))
        return self.strike(call) if self.left == 0 else call()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(_: Callable[[], object]) -> None:
    die()


def die_after(call: Callable[[], object]) -> None:
    call()
    die()


def no_room(_: Callable[[], object]) -> None:
    raise OSError(28, "No space left on device")


def contents(folder: Path) -> dict[str, object]:
    """Return what no fault of a command may change: the contents of every file but locks, stores and reports, by
    name."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name.split("/")[0] in ("store", "report", ".said", ".cache", ".config") or ".sweeps" in name
        if aside or path.name.endswith(".lock") or path.name == ".attempt" or (path.is_dir() and not path.is_symlink()):
            continue
        try:
            found[name] = _content(path)
        except Exception as error:
            found[name] = f"unreadable: {type(error).__name__}"
    return found


def _content(path: Path) -> object:
    if not path.is_file() or path.stat().st_size > LARGEST:
        return "no file of ours"
    if path.suffix == ".safetensors":
        return {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in load_file(path).items()}
    if path.name in ("result.json", "ood.json") or path.parent.name == "evaluations":
        record = {key: value for key, value in json.loads(path.read_text()).items() if key not in CHANGES}
        _without_reads(record)
        return record
    return path.read_bytes() if path.suffix in (".jsonl", ".png", ".yaml", ".json", ".csv") else None


def _without_reads(record: dict) -> None:
    for split in record.get("splits", {}).values():
        split.pop("reads", None)


def difference(found: dict[str, object], expected: dict[str, object], but: str = "") -> str | None:
    """Return the name of the first file that differs, except `but`, or None."""
    names = sorted({*found} ^ {*expected})
    names += [name for name in found.keys() & expected.keys() if found[name] != expected[name]]
    names = [name for name in names if name != but and not name.endswith(".damaged")]
    return names[0] if names else None


def _remarks(outcome: Outcome) -> list[str]:
    """Return the lines of a command's output, without those that name the files it saved."""
    return [line for line in outcome.said.splitlines() if not line.startswith("saved ")]


@dataclass(frozen=True)
class Case:
    """A case that is tried. `begin`: given the folder, returns what the command's process calls first; `spoil`: damages
    `file`, whose path it is given."""

    scene: Scene
    kind: str
    name: str
    begin: Callable[[Path], Callable[[], object]] | None = None
    file: str | None = None
    spoil: Callable[[Path], object] | None = None


def kills(scene: Scene, count: int) -> Iterator[Case]:
    for number in range(1, count + 1):
        for strike in (die_before, die_after):
            name = f"{scene.name}: {strike.__name__} {number} of {count}"
            yield Case(scene, "kill", name, lambda f, n=number, s=strike: Calls(f, n, s).install)


def full_disks(scene: Scene, count: int) -> Iterator[Case]:
    for number in range(1, count + 1):
        yield Case(scene, "full", f"{scene.name}: full at {number}", lambda f, n=number: Calls(f, n, no_room).install)
    for size in SIZES:
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        yield Case(scene, "full", f"{scene.name}: no file above {size}", lambda _, limit=limit: limit)


def _flip(path: Path, number: int) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(number).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def _replaced(make: Callable[[Path], object], path: Path) -> None:
    path.unlink()
    make(path)


def _cut(part: float, path: Path) -> None:
    os.truncate(path, int(path.stat().st_size * part))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": partial(_cut, 0),
    **{f"cut to {part}": partial(_cut, part) for part in (0.1, 0.5, 0.9, 0.999)},
    "garbage": lambda path: path.write_bytes(random.Random(3).randbytes(2000)),
    **{f"holds {text[:12]!r}": lambda path, text=text: path.write_text(text) for text in (
        "3", "null", "[]", "{}", '"text"', '{"a": NaN}', "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
        "[" * 100_000, "- &a [*a]", "\0" * 64, '{"metrics": null, "splits": []}',
    )},
    "pipe": partial(_replaced, os.mkfifo),
    "folder": partial(_replaced, os.mkdir),
    "endless": partial(_replaced, partial(os.symlink, "/dev/zero")),
    "link to itself": partial(_replaced, lambda path: os.symlink(path.name, path)),
    "link to nothing": partial(_replaced, partial(os.symlink, "nothing")),
    "16 GiB": lambda path: os.truncate(path, 2**34),
    "twice": lambda path: path.write_bytes(2 * path.read_bytes()),
    "gone": Path.unlink,
}  # fmt: skip


def damages(scene: Scene, folder: Path, flips: int) -> Iterator[Case]:
    """Yield the cases of damage for each kind of file that the scene begins with."""
    for pattern in scene.files:
        for path in sorted(folder.glob(pattern))[:1]:
            name = path.relative_to(folder).as_posix()
            ways = {**DAMAGES, **{f"bit {number} flipped": partial(_flip, number=number) for number in range(flips)}}
            for what, spoil in ways.items():
                yield Case(scene, "damage", f"{scene.name}: {path.name} {what}", file=name, spoil=spoil)


def afresh(base: Path, scratch: Path) -> Path:
    """Copy `base` to a place that is always the same, since the files of a command hold the path it ran in."""
    folder = scratch / "here"
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(base, folder, symlinks=True))


def judged(case: Case, base: Path, expected: dict[str, object], scratch: Path) -> str | None:
    """Try a case and return what is wrong, or None if all is well."""
    folder = afresh(base, scratch)
    if case.begin is not None:
        first = command(case.scene.command, folder, case.begin(folder))
        if first.fault:
            return f"{first.fault}: {first.said[-600:]}"
    if case.spoil is not None:
        case.spoil(folder / case.file)
        first = command(REPORT, folder)
        if first.fault:
            return f"report {first.fault}: {first.said[-600:]}"
        first = command(case.scene.command, folder)
        if first.fault:
            return f"{first.fault}: {first.said[-600:]}"
        if first.code != 0:  # the file was refused, which must not have cost anything
            path = folder / case.file
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            shutil.copy2(base / case.file, path)
    again = command(case.scene.command, folder)
    if again.fault:
        return f"again {again.fault}: {again.said[-600:]}"
    if again.code != 0:
        return f"lost: {again.said[-300:]}"
    report = command(REPORT, folder) if case.spoil is not None else again
    if report.fault:
        return f"report {report.fault}: {report.said[-600:]}"
    served = case.file if case.file and Path(case.file).name in case.scene.tolerates else ""
    if served and first.code == 0 and any(Path(served).name in line for line in _remarks(first)):
        return None  # the result is served without the file, and the command says so
    found = contents(folder)
    if case.begin is not None and first.code == 1:  # a sweep said which of its runs failed, and chose among the others
        extra = {Path(name).parent for name in found if name.endswith("/result.json") and name not in expected}
        found = {name: content for name, content in found.items() if Path(name).parent not in extra}
    other = difference(found, expected, but=case.file if case.scene.reads and case.file else served)
    return None if other is None else f"wrong: {other} is another"


def campaign(scenes: Iterable[Scene], *, sample: int | None, seed: int, flips: int, scratch: Path) -> Counter:
    """Try all cases of the scenes, print the failures, and return the numbers of cases and failures by kind."""
    tally: Counter = Counter()
    for scene in scenes:
        base = scratch / "base"
        for folder in (base, scratch / "here"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        scene.prepare(afresh(base, scratch), command)
        shutil.rmtree(base)
        shutil.copytree(scratch / "here", base, symlinks=True)
        calm, counted = afresh(base, scratch), scratch / "count"
        counted.write_text("0")
        outcome = command(scene.command, calm, partial(Calls(calm, 0, die_before).install, counted))
        assert outcome.code == 0, outcome.said
        expected, count = contents(calm), int(counted.read_text())
        cases = [*damages(scene, base, flips)]
        if scene.writes:
            cases += [*kills(scene, count), *full_disks(scene, count)]
        if sample is not None:
            cases = random.Random(seed).sample(cases, min(sample, len(cases)))
        began = time.monotonic()
        for case in cases:
            fault = judged(case, base, expected, scratch)
            tally[case.kind, "cases"] += 1
            if fault is not None:
                tally[case.kind, "failures"] += 1
                print(f"FAILED {case.name}: {fault}", flush=True)
        print(f"{scene.name}: {count} calls, {len(cases)} cases, {time.monotonic() - began:.0f} s", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="cases of each scene, drawn; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flips", type=int, default=12, help="bits that are flipped in each kind of file")
    parser.add_argument("--scenes", nargs="*", choices=[scene.name for scene in SCENES])
    options = parser.parse_args()
    torch.set_num_threads(1)
    import_everything()
    scenes = [scene for scene in SCENES if not options.scenes or scene.name in options.scenes]
    with tempfile.TemporaryDirectory() as scratch:
        tally = campaign(
            scenes, sample=options.sample, seed=options.seed, flips=options.flips, scratch=Path(scratch).resolve()
        )
    for kind in sorted({kind for kind, _ in tally}):
        print(f"{kind:8s} {tally[kind, 'cases']} cases, {tally[kind, 'failures']} failures")
    sys.stdout.flush()
    # at once, since imported libraries complain of leaks at a regular exit
    os._exit(any(count for (_, what), count in tally.items() if what == "failures"))


if __name__ == "__main__":
    main()
