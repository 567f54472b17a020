"""Counts how large and how plain the source is, at this commit and at others.

python scripts/house.py                 the working tree
python scripts/house.py 0a3d517 HEAD    two commits side by side
python scripts/house.py --walks         the working tree, and the files that one image and one point of a sweep pass
"""

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
LONG, MANY = 60, 7
FRAGMENTS = ("Of", "What", "Does", "Which", "Those")
"""First words of a docstring that is not a sentence."""


def measures(root: Path) -> dict[str, object]:
    """Return each figure of the tree below `root` by its name."""
    source = {path: path.read_text() for path in sorted((root / "src").rglob("*.py")) if path.stat().st_size}
    tests = [path.read_text() for path in sorted((root / "tests").rglob("*.py"))]
    trees = {path: ast.parse(text) for path, text in source.items()}
    lines = [text.count("\n") for text in source.values()]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    classes = Counter(node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    names = [name for tree in trees.values() for name in identifiers(tree)]
    package = root / "src" / "peft_vision"
    return {
        "source files that are not empty": len(source),
        "lines of source": sum(lines),
        "median lines of a file": int(median(lines)),
        "lines of the longest file": max(lines),
        "modules beside the packages": len(list(package.glob("[!_]*.py"))),
        "floors of imports": floors(root),
        f"functions over {LONG} lines": sum(node.end_lineno - node.lineno >= LONG for node in functions),
        f"functions over {MANY} parameters": sum(parameters(node) > MANY for node in functions),
        "class names defined more than once": sum(count > 1 for count in classes.values()),
        "identifiers `its`": names.count("its"),
        f"docstrings that begin with {', '.join(FRAGMENTS)}": sum(
            text.split()[:1] != [] and text.split()[0] in FRAGMENTS for text in docstrings(trees.values())
        ),
        "lines of tests": sum(text.count("\n") for text in tests),
        "test files at the root of tests/": len(list((root / "tests").glob("test_*.py"))),
    }


def parameters(function: ast.FunctionDef) -> int:
    """Return how many a function takes, without self and cls."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Yield every name and parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def docstrings(trees) -> Iterator[str]:
    """Yield the docstring of every module, class and function that has one."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text


def floors(root: Path) -> int | str:
    """Return how many lines the architecture test's list of floors has."""
    path = root / "tests" / "test_architecture.py"
    text = path.read_text() if path.exists() else ""
    _, found, rest = text.partition('FLOORS = """\n')
    return len(rest.partition('"""')[0].strip().splitlines()) if found else "-"


def checked_out(commit: str, folder: Path) -> Path:
    """Return a folder with the files of a commit."""
    archive = subprocess.run(["git", "archive", commit, "src", "tests"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", help="commits instead of the working tree")
    parser.add_argument("--walks", action="store_true", help="watch a tiny run and list the files on two paths in it")
    options = parser.parse_args()
    commits = options.commits
    if not commits:
        found = {"here": measures(ROOT)}
    else:
        with tempfile.TemporaryDirectory() as scratch:
            found = {commit: measures(checked_out(commit, Path(scratch, str(n)))) for n, commit in enumerate(commits)}
    print(f"| | {' | '.join(found)} |\n|---|{'---:|' * len(found)}")
    for name in next(iter(found.values())):
        print(f"| {name} | {' | '.join(str(own[name]) for own in found.values())} |")
    if options.walks:
        from walks import print_walks  # here, because it needs the package and torch

        print_walks()


if __name__ == "__main__":
    main()
