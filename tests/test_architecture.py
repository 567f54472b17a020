"""The rules of the house that a machine can check."""

import ast
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import peft_vision
from peft_vision.core.config import CONFIG_DIR, locate

SOURCE = Path(peft_vision.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# Rooms by floor, the lowest first: a room imports from lower floors only. `peft_vision` itself is the ground: its
# version is everyone's, and it opens `library` lazily.
FLOORS = """
peft_vision
core
config data backbone head schedule
ood method published objective
models tracker
interpolation features mixing optimizer
training
runs
exchange report shift costs serve
library task
testing cli
sweep __main__
"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.strip().splitlines()) for room in rooms.split()}


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room(module: str) -> str:
    """peft_vision.method.vpt is in the room method."""
    return [*module.split("."), "peft_vision"][1]


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, inside functions as well."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: a relative import"
            # `from peft_vision import run` names a module, `from peft_vision import __version__` none
            inner = {f"{node.module}.{alias.name}" for alias in node.names if alias.name in FLOOR}
            modules |= inner if node.module == "peft_vision" and inner else {node.module}
    return {module for module in modules if module.split(".")[0] == "peft_vision"}


def test_every_room_has_its_floor():
    rooms = {path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__"} | {
        path.parent.name for path in SOURCE.glob("*/*.py")
    }
    assert rooms | {"peft_vision"} == set(FLOOR)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules of ours that each of them imports."""
    modules = {path.relative_to(SOURCE.parent).with_suffix("").as_posix().replace("/", "."): path for path in FILES}
    return {module: imported(path) for module, path in modules.items()}


def test_imports_point_down(imports):
    rooms = {
        module: (room(module), {room(other) for other in others} - {room(module)}) for module, others in imports.items()
    }
    del rooms["peft_vision.__init__"]  # the ground, which opens `library` lazily
    wrong = {
        module: [other for other in others if FLOOR[other] >= FLOOR[here]] for module, (here, others) in rooms.items()
    }
    assert {module: others for module, others in wrong.items() if others} == {}


def test_no_module_imports_itself_by_way_of_others(imports):
    imports = {module: others & imports.keys() for module, others in imports.items()}
    while leaves := {module for module, others in imports.items() if not others}:
        imports = {module: others - leaves for module, others in imports.items() if module not in leaves}
    assert imports == {}


def test_a_file_is_one_idea_with_a_name():
    assert {name(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 350} == {}
    assert [name(path) for path in FILES if path.stem in ("utils", "helpers", "common", "misc")] == []
    rooms = [path for path in FILES if path.name == "__init__.py" and path.parent != SOURCE]
    assert [name(path) for path in rooms if path.read_text()] == []


def test_configs_are_read_without_defaults():
    found = {name(path): re.findall(r"\b(?:cfg|config|node)\.get\(.*", path.read_text()) for path in FILES}
    assert {file: lines for file, lines in found.items() if lines} == {}


def targets(folder: Path) -> set[str]:
    texts = (path.read_text() for path in folder.rglob("*.yaml"))
    found = {target for text in texts for target in re.findall(r"\b_target_: *([\w.]+)", text)}
    return {target for target in found if target.startswith("peft_vision.")}  # Hydra builds its own plugins


@pytest.mark.parametrize("target", sorted(targets(CONFIG_DIR)))
def test_components_are_frozen_and_their_numbers_live_in_conf(target):
    cls = locate(target, "conf")
    assert cls.__dataclass_params__.frozen
    assert [field.name for field in fields(cls) if (field.default, field.default_factory) != (MISSING, MISSING)] == []


@pytest.mark.parametrize("group", sorted({room(target) for target in targets(CONFIG_DIR)}))
def test_the_path_is_the_registry(group):
    """conf/method/ describes the classes of peft_vision.method, and conf/trainer/ those of peft_vision.training."""
    folder = {"training": "trainer"}.get(group, group)
    assert targets(CONFIG_DIR / folder) == {target for target in targets(CONFIG_DIR) if room(target) == group}


ONE_PLACE = {
    r"(?<![.\w])print\(": "core/output.py",  # which strips what a terminal would obey
    r"\bprint_exc": "core/output.py",
    r"from rich\.console import|import rich\b|rich\.print": "core/output.py",  # likewise
    r"\bcsv\.(writer|DictWriter)\b|\.to_csv\(": "core/output.py",  # which leaves no formula in a cell
}


READ_BY_THEMSELVES = {
    "core/records.py",
    "core/config_files.py",  # shipped, or in a folder of the user's configs; at each key of a shell
    "report/finished.py",  # what it has written
    "report/collect.py",  # likewise
    "data/imagenet.py",  # a file of ours
    "data/parquet_rows.py",  # within a file that pyarrow has read
    "data/vtab/raw/clevr.py",  # hundreds of MB, of which little is kept
    "backbone/weights.py",  # of a file that the user names
}


def test_files_are_read_back_by_one_bounded_reader():
    pattern = r"\bjson\.loads?\(|\byaml\.(safe_)?load|OmegaConf\.load\("
    assert {name(path) for path in FILES if re.search(pattern, path.read_text())} <= READ_BY_THEMSELVES


@pytest.mark.parametrize(("pattern", "home"), ONE_PLACE.items(), ids=ONE_PLACE.values())
def test_what_writes_text_of_others_is_written_once(pattern, home):
    found = {name(path) for path in FILES if re.search(pattern, path.read_text())}
    assert found <= {home}
