"""The documentation: each page is in the site, links lead somewhere, commands can be given, notebooks run."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from command import call
from peft_vision.core.completion import SHELLS
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.config_files import ConfigFiles

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
markdown_of = runpy.run_path(str(ROOT / "scripts" / "notebook_pages.py"))["markdown_of"]
PAGES = {path: path.read_text() for path in [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]}
PAGES |= {path.with_suffix(".md"): markdown_of(path) for path in NOTEBOOKS}
FILES = ConfigFiles([CONFIG_DIR])
FLAGS = {"-m", "--multirun", "--help", "-h", "--version", "--cfg", "job", "--resolve"}


def test_each_page_is_once_in_the_navigation():
    def leaves(nav: Any) -> Iterator[str]:
        for entry in nav:
            (inner,) = entry.values()
            yield from [inner] if isinstance(inner, str) else leaves(inner)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(leaves(nav)) == sorted(str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents)


def test_links_lead_to_pages_and_to_headings_of_them():
    missing = []
    for page, text in PAGES.items():
        prose = re.sub(r"```.*?```|^    .*?$|`[^`]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            found = (there.exists() or there in PAGES) and (not anchor or anchor in slugs(PAGES[there]))
            if not found and not re.match(r"\w+://", target):
                missing.append(f"{page.name}: {target}")
    assert missing == []


def test_the_page_of_the_package_index_names_each_extra_and_nothing_that_only_a_checkout_has():
    """It is the long description, in Markdown."""
    project, page = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], PAGES[DOCS / "install.md"]
    assert project["readme"] == "docs/install.md"
    assert re.findall(r"\]\((?!https://)|<img", page) == []
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", page, re.MULTILINE)))
    assert sorted(named) == sorted(project["optional-dependencies"].keys() - {"dev"})


def test_the_site_is_built_without_a_warning(tmp_path):
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; pip install 'peft-vision[docs]' brings it")
    build = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    reference = (tmp_path / "api.html").read_text()
    assert 'id="peft_vision.library.adapt"' in reference
    assert "an <code>nn.Module</code>, images to logits" in reference
    assert "<h2" in (tmp_path / "notebooks" / "first_run.html").read_text()
    assert 'href="notebooks/first_run.html"' in (tmp_path / "index.html").read_text()


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, which MkDocs and GitHub name alike where words are divided by single spaces."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def commands(text: str) -> set[str]:
    """The commands in blocks of code and within lines, without remarks."""
    whole = re.sub(r"\$\(ls [^)]*\)|\{run\}", "FOLDER", re.sub(r"\\\n\s*", " ", text))
    blocks = re.findall(r"^(?:    |!|PYTHONPATH=\. )(peft-vision .*)$", whole, re.MULTILINE)
    several = re.findall(r"^    torchrun .*-m peft_vision.cli (.*)$", whole, re.MULTILINE)
    lines = {re.split(r"\s+# |\s+\|", line)[0] for line in [*blocks, *(f"peft-vision {words}" for words in several)]}
    return lines | set(re.findall(r"`(peft-vision [^`\n]+)`", whole))


COMMANDS = {page: commands(text) for page, text in PAGES.items()}


def test_commands_are_found():
    assert sum(map(len, COMMANDS.values())) > 150
    with_some = {page.name for page, lines in COMMANDS.items() if lines}
    assert with_some > {"README.md", "commands.md", "extending.md", "install.md", "explain.md", "first_run.md"}


def test_a_shell_reads_every_command_as_it_stands():
    """zsh takes a bare bracket for a pattern that nothing matches."""
    lines = sorted({line for found in COMMANDS.values() for line in found})
    read = subprocess.run(["bash", "-n"], input="\n".join(lines), capture_output=True, text=True)
    assert read.stderr == ""
    assert [line for line in lines if "[" in re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line)] == []


def test_yaml_files_on_the_pages_compose(tmp_path):
    blocks = [block for text in PAGES.values() for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    named = {found[1]: block for block in blocks if (found := re.search(r"myconf/(experiment/\w+)\.yaml", block))}
    assert named
    for name, block in named.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(block)
        outcome = call("--config-dir", str(tmp_path), name.replace("/", "="), "--cfg", "job", cwd=tmp_path)
        assert outcome.code == 0, outcome


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]], ids=lambda page: page.name)
def test_commands_name_options_and_keys_that_there_are(page):
    """Hydra's grammar reads them. A test in test_cli.py shows that the keys are those that Hydra composes."""
    faults = [f"{line}: {fault}" for line in sorted(COMMANDS[page]) for fault in unknown(line)]
    assert faults == []


def unknown(line: str) -> Iterator[str]:
    """The options and the keys of a command that are not there. The user's own are tested with docs/extending.md."""
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    if words[0] in ("completion", "new"):
        yield from [] if set("|".join(words[1:2]).split("|")) <= {*SHELLS, "method", "data"} else words[1:2]
        return
    own = "--config-dir" in words
    words = [word for word in words if word not in FLAGS and word not in ("--config-dir", "myconf")]
    parsed = [override for override in OverridesParser.create().parse_overrides(words) if not override.is_add()]
    given = {override.key_or_group: override.input_line.partition("=")[2].strip("[]'") for override in parsed}
    named = {group: names.split(",") for group, names in given.items() if FILES.is_group(group) and "(" not in names}
    shipped = {group: [name for name in names if exists(group, name)] for group, names in named.items()}
    yield from () if own else (group for group in named if shipped[group] != named[group])
    choices = [[(group, name) for name in names] for group, names in shipped.items() if names]
    composed = [options(choice) for choice in product(*choices)]
    for key in given.keys() - (named if "method" in named else {*named, "method"}):
        evaluates = given.get("task") == "evaluate" and key.startswith("data.")
        if not (own or evaluates or key.startswith("hydra.sweeper.params") or any(has(one, key) for one in composed)):
            yield key


def exists(group: str, name: str) -> bool:
    return (CONFIG_DIR / group / f"{name}.yaml").is_file()


@cache
def options(choice: tuple[tuple[str, str], ...]) -> Mapping[str, Any]:
    """The values that the command composes with these options of groups."""
    return FILES.composed(dict(choice)).values


def has(values: Mapping[str, Any], key: str) -> bool:
    """Whether the key is there, or what is above it is left to the user, as an empty mapping or an open list."""
    first, _, rest = key.partition(".")
    if first not in values:
        return False
    inner = values[first]
    return not rest or (has(inner, rest) if isinstance(inner, Mapping) and inner else True)


SMALL = ("trainer.epochs=1", "data.train_size=40", "trainer.batch_size=16")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, tmp_path, monkeypatch, capsys):
    """In this process, in small: cells as Python, `!peft-vision` as the command."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("!peft-vision "):
            words = shlex.split(source.format(**names))[1:]
            trains = not any(word.startswith("task=") or word == "--cfg" for word in words)
            pictures = ("task.pictures=[png]",) if "task=report" in words else ()
            outcome = call(*words, *(SMALL if trains else pictures), cwd=tmp_path)
            assert outcome.code == 0, outcome
        elif cell["cell_type"] == "code":
            exec(source, names)
        assert cell.get("outputs", []) == [], "outputs are not committed"


def test_the_container_is_built_from_files_that_there_are_and_ci_calls_what_a_person_calls():
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert [name for name in names if not (ROOT / name).exists()] == []
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in names} <= set(let_in)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [".ci/run"]
