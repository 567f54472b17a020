"""What is built from this checkout, installed alone, works from any folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import trove_classifiers
from packaging.metadata import Metadata

from peft_vision.core.config import CONFIG_DIR

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def output_of(*command: str | Path, folder: Path) -> str:
    """Standard output; a command that fails, fails the test with all that it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build(*options: str, folder: Path) -> Path:
    """The wheel, in `folder`."""
    output_of(sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", folder, ROOT, folder=folder)
    return next(folder.glob("*.whl"))


def files_of(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("--wheel", folder=tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """bin/ of a fresh venv that holds the wheel, and borrows everything else from the running environment."""
    venv = tmp_path_factory.mktemp("venv")
    output_of(sys.executable, "-m", "venv", "--without-pip", venv, folder=venv)
    scripts = venv / "bin"
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    output_of(*pip, "install", "--no-index", "--no-deps", wheel, folder=venv)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = output_of(scripts / "python", "-c", where, folder=venv)
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # plain folders: the .pth files in them, and so an editable install, are not followed
    Path(packages.strip(), "borrowed.pth").write_text("\n".join(borrowed))
    return scripts


def test_the_wheel_holds_the_code_the_configs_and_the_weights(wheel):
    package = ROOT / "src" / "peft_vision"
    sources = {f"peft_vision/{path.relative_to(package)}" for path in package.rglob("*.py")}
    configs = {f"peft_vision/conf/{path.relative_to(CONFIG_DIR)}" for path in CONFIG_DIR.rglob("*.yaml")}
    weights = {f"peft_vision/{path.relative_to(package)}" for path in package.rglob("*.safetensors")}
    files = [path for ending in ("json", "yaml") for path in package.rglob(f"*.{ending}")]
    tables = {f"peft_vision/{path.relative_to(package)}" for path in files}
    page = {f"peft_vision/report/page.{suffix}" for suffix in ("css", "html", "js")} | {"peft_vision/serve/page.html"}
    plugins = {f"hydra_plugins/{path.name}" for path in (ROOT / "src" / "hydra_plugins").glob("*.py")}
    others = {name for name in files_of(wheel) if ".dist-info/" not in name}
    assert others == sources | configs | weights | tables | plugins | page
    assert "peft_vision/conf/config.yaml" in others


def test_the_package_index_takes_the_metadata_of_the_wheel(wheel):
    """By the rules of the specification, which the index checks an upload by."""
    (name,) = [name for name in files_of(wheel) if name.endswith(".dist-info/METADATA")]
    metadata = Metadata.from_email(zipfile.ZipFile(wheel).read(name), validate=True)
    assert (metadata.name, metadata.description_content_type) == ("peft-vision", "text/markdown")
    assert metadata.description == (ROOT / "docs" / "install.md").read_text()
    known = set(trove_classifiers.classifiers)
    assert metadata.classifiers
    assert [classifier for classifier in metadata.classifiers if classifier not in known] == []


def test_the_source_archive_builds_the_same_wheel(wheel, tmp_path):
    assert files_of(build(folder=tmp_path)) == files_of(wheel)


def test_the_installed_command_runs_from_another_folder(scripts, tmp_path):
    origin = output_of(scripts / "python", "-c", "import peft_vision; print(peft_vision.__file__)", folder=tmp_path)
    assert Path(origin).is_relative_to(scripts.parent)
    assert "method=" in output_of(scripts / "peft-vision", "--help", folder=tmp_path)
    output_of(scripts / "peft-vision", "experiment=smoke", "method=linear", "runs=here", folder=tmp_path)
    assert len(list(tmp_path.glob("here/*/result.json"))) == 1
