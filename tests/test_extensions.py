"""What a stranger adds trains what it says, or is refused with its name."""

import copy
import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from torch.nn import functional as F

import peft_vision
from command import SMOKE, call, results, run_folder, start
from conftest import tiny_vit
from peft_vision.core.config import CONFIG_DIR, ConfigError
from peft_vision.core.environment import environment
from peft_vision.core.identity import _digest
from peft_vision.data.digits import Digits
from peft_vision.method.lora import LoRA
from peft_vision.testing import check_data, check_head, check_method

OWN = Path(__file__).parent / "stranger" / "stranger_parts.py"
BASE = {"layers": "all", "probe_first": False, "lr": {"sgd": 0.1, "adamw": 0.01}}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The module, imported from a folder of the user's, and forgotten afterwards."""
    shutil.copy(OWN, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import stranger_parts

    yield stranger_parts
    forget()


def forget() -> None:
    """As a new process begins: the module is read again."""
    sys.modules.pop("stranger_parts", None)
    _digest.cache_clear()


def written(folder: Path, group: str, name: str, **values: object) -> tuple[str, ...]:
    """Write a YAML file of the user's, and return the arguments that choose it."""
    file = folder / "myconf" / group / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    return ("--config-dir", str(folder / "myconf"), f"{group}={name}")


def step(model, images, labels) -> None:
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.5)
    F.cross_entropy(model.train()(images), labels).backward()
    optimizer.step()


def test_frozen_random_projections_are_saved_and_come_back_whatever_the_seed(stranger, images, labels, tmp_path):
    model = peft_vision.adapt(tiny_vit(), method=stranger.Vera, num_classes=4, rank=3, seed=11)
    assert model.parameter_counts().method == 3 * (3 + 96)
    step(model, images, labels)
    peft_vision.save(model, tmp_path / "a.safetensors")
    assert torch.equal(peft_vision.load(tmp_path / "a.safetensors", tiny_vit())(images), model.eval()(images))


def test_a_run_of_it_is_scored_again_as_it_was_trained(stranger, tmp_path):
    chosen = written(tmp_path, "method", "vera", _target_="stranger_parts.Vera", rank=4, **BASE)
    assert call("experiment=smoke", *chosen, "seed=3", cwd=tmp_path).code == 0
    (run,) = results(tmp_path)
    outcome = call("task=evaluate", f"run={run.parent}", "data=digits", "data.test_size=40", cwd=tmp_path)
    assert outcome.code == 0, outcome
    (again,) = (run.parent / "evaluations").glob("*.json")
    accuracy = json.loads(run.read_text())["metrics"]["test/accuracy"]
    assert json.loads(again.read_text())["metrics"]["test/accuracy"] == accuracy


def test_a_module_that_no_forward_pass_calls_ends_the_run_with_its_name(stranger, tmp_path):
    chosen = written(tmp_path, "method", "misplaced", _target_="stranger_parts.Misplaced", **BASE)
    said = call("experiment=smoke", *chosen, cwd=tmp_path).error
    assert said.startswith("method: encoder.vit.blocks.0.behnid.weight and 3 more should train, and got no gradient")
    assert len(said.splitlines()) == 2
    assert results(tmp_path) == []


@pytest.mark.parametrize("layers", ["all", "last-2", "first-1"])
@pytest.mark.parametrize("others", [["lora"], ["vpt_deep"], ["head2toe"], ["convpass"], ["ssf"], ["fact_tk"]])
def test_a_wrapped_mlp_goes_with_other_methods(others, layers, stranger, images, labels):
    """The gate comes first, so that the others look for places inside of what it wrapped."""
    parts = {"gate": {"_target_": "stranger_parts.Gate", "start": 0.5, **BASE}, **dict.fromkeys(others)}
    if "lora" in parts:
        parts["lora"] = {"targets": ["fc1", "fc2", "q"]}
    if "head2toe" in parts:  # it trains the head alone, which a gate would never get along with
        model = peft_vision.adapt(tiny_vit(), method=stranger.Gate, num_classes=4, start=0.5, layers=layers)
        groups = model.encoder.observe(images.float(), frozenset({"intermediates"})).intermediates
        assert groups.shape == (5, model.encoder.observed_shapes()["intermediates"][0])
        return
    model = peft_vision.adapt(tiny_vit(), method="combined", num_classes=4, parts=parts, layers=layers)
    before = copy.deepcopy(model.tuned_state())
    for _ in range(2):  # a factor that begins at zero hides the other in the first
        step(model, images, labels)
    still = [name for name, tensor in model.tuned_state().items() if torch.equal(tensor, before[name])]
    assert still == []


def test_what_is_in_a_place_is_not_thrown_away(vit):
    layer = peft_vision.adapt(vit, method="vpt_deep", num_classes=4).encoder.layers[0]
    with pytest.raises(ConfigError, match=r"^method: two of its parts fill layer.context, which holds one module"):
        layer.context = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"^method: layer.behind is a list that several methods add to"):
        layer.behind = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"^method: layer.attn is no place for a wrapper"):
        layer.attn = torch.nn.Sequential(layer.attn)
    layer.context = torch.nn.Sequential(layer.context)  # a wrapper keeps it


def test_a_part_that_throws_another_away_is_named(stranger):
    class Plain(stranger.Gate):
        def attach(self, encoder):
            for index in self.chosen(encoder):
                mlp = encoder.layers[index].mlp
                encoder.layers[index].mlp = getattr(mlp, "mlp", mlp)

    parts = {"gate": stranger.Gate(start=0.5, **BASE), "plain": Plain(start=0.5, **BASE)}
    stranger.Plain = Plain
    Plain.__qualname__, Plain.__module__ = "Plain", "stranger_parts"
    with pytest.raises(ConfigError, match=r"^method.parts.plain: it throws away what gate has in the same place"):
        peft_vision.adapt(tiny_vit(), method="combined", num_classes=4, parts={
            name: {"_target_": f"stranger_parts.{type(part).__name__}", "start": 0.5, **BASE}
            for name, part in parts.items()
        })  # fmt: skip


@pytest.mark.parametrize("solver", ["lbfgs", "grid"])
def test_a_head_that_only_says_it_is_linear_is_not_solved_for(solver, stranger, tmp_path):
    head = {"norm": "none", "hidden": [], "dropout": 0.0, "std": 0.01}
    chosen = written(tmp_path, "head", "cosine", _target_="stranger_parts.Cosine", **head)
    said = call(*SMOKE, *chosen, f"optimizer={solver}", cwd=tmp_path).error
    assert said.startswith("optimizer: it solves for one linear layer, and the head computes something else")
    assert call(*SMOKE, *chosen, "optimizer=adamw", cwd=tmp_path).code == 0


def test_an_edited_formula_is_another_run(stranger, tmp_path):
    chosen = (
        "experiment=smoke",
        *written(tmp_path, "method", "gate", _target_="stranger_parts.Gate", start=0.5, **BASE),
    )
    assert call(*chosen, cwd=tmp_path).code == 0
    assert "already finished" in call(*chosen, cwd=tmp_path).out
    forget()
    source = tmp_path / "stranger_parts.py"
    source.write_text(source.read_text().replace("self.gate * self.mlp(tokens)", "self.gate * self.mlp(tokens) + 0.1"))
    again = call(*chosen, cwd=tmp_path)
    assert (again.code, "already finished" in again.out) == (0, False)
    first, second = (json.loads(path.read_text()) for path in results(tmp_path))
    assert first["config"]["user_code"].keys() == {"stranger_parts.Gate"}
    assert first["config"]["user_code"] != second["config"]["user_code"]
    assert first["metrics"] != second["metrics"]


def test_code_that_is_imported_within_a_function_is_part_of_a_run_too(tmp_path, monkeypatch):
    """Before it is imported as well as after, so that nothing is said to be edited that was not."""
    monkeypatch.syspath_prepend(tmp_path)
    inner = tmp_path / "lazy_parts" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "lazy_parts" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "b.py").write_text("SCALE = 2.0\n")
    head = "import sys\n\n\ndef scaled(x):\n    from lazy_parts.inner.b import SCALE\n\n    return SCALE * x\n"
    (tmp_path / "lazy_parts" / "a.py").write_text(head)
    importlib.import_module("lazy_parts.a")
    before = _digest("lazy_parts.a")
    assert "lazy_parts.inner" not in sys.modules
    sys.modules["lazy_parts.a"].scaled(1)
    _digest.cache_clear()
    assert _digest("lazy_parts.a") == before
    for name in [name for name in sys.modules if name.startswith("lazy_parts.inner")]:
        monkeypatch.delitem(sys.modules, name)
    (inner / "b.py").write_text("SCALE = 3.0\n")
    _digest.cache_clear()
    assert _digest("lazy_parts.a") != before


def test_a_run_notes_the_commit_of_the_users_checkout_and_whether_it_was_edited(stranger, tmp_path):
    def git(*words: str) -> str:
        named = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        return subprocess.run(["git", *named, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("add", "stranger_parts.py")
    git("commit", "-qm", "A gate")
    chosen = written(tmp_path, "method", "gate", _target_="stranger_parts.Gate", start=0.5, **BASE)
    assert call("experiment=smoke", *chosen, cwd=tmp_path).code == 0
    (result,) = [json.loads(path.read_text()) for path in results(tmp_path)]
    assert result["environment"]["user_git_commits"] == {"stranger_parts.Gate": git("rev-parse", "HEAD").strip()}
    source = tmp_path / "stranger_parts.py"
    source.write_text(source.read_text() + "\n# a remark\n")
    noted = environment(torch.device("cpu"), 1, {"stranger_parts.Gate": source})["user_git_commits"]
    assert noted == {"stranger_parts.Gate": f"{git('rev-parse', 'HEAD').strip()}+changes"}


def test_an_old_run_of_an_edited_formula_is_said_to_be_one(stranger, tmp_path, caplog):
    chosen = written(tmp_path, "method", "gate", _target_="stranger_parts.Gate", start=0.5, **BASE)
    assert call("experiment=smoke", *chosen, cwd=tmp_path).code == 0
    forget()
    source = tmp_path / "stranger_parts.py"
    source.write_text(source.read_text() + "\n# a remark\n")
    outcome = call("task=evaluate", f"run={run_folder(tmp_path / 'runs')}", "data=digits", cwd=tmp_path)
    assert outcome.code == 0
    assert "run: stranger_parts.Gate was edited since" in outcome.out + outcome.err


@pytest.mark.parametrize("given", ["class", "component", "yaml", "path"])
def test_adapt_takes_a_class_a_component_or_a_file(given, stranger, images, tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text(yaml.safe_dump({"_target_": "stranger_parts.Gate", "start": 0.5, **BASE}))
    ways = {"class": stranger.Gate, "component": stranger.Gate(start=0.5, **BASE), "yaml": str(file), "path": file}
    model = peft_vision.adapt(tiny_vit(), method=ways[given], num_classes=4, start=0.25)
    assert {gate.item() for name, gate in model.named_parameters() if name.endswith(".gate")} == {0.25}
    peft_vision.save(model, tmp_path / "a.safetensors")
    assert torch.equal(peft_vision.load(tmp_path / "a.safetensors", tiny_vit())(images), model.eval()(images))


def test_a_file_that_begins_from_others_is_for_commands(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [lora, _self_]\nrank: 4\n")
    with pytest.raises(ConfigError, match=r"^method: .*mine.yaml begins from other files \(defaults\)"):
        peft_vision.adapt(tiny_vit(), method=file, num_classes=4)


def test_adapt_takes_a_head_of_ones_own(stranger, images):
    model = peft_vision.adapt(tiny_vit(), method="linear", num_classes=4, head=stranger.Cosine)
    assert type(model.head).__name__ == "CosineLayer"
    assert model(images).shape == (5, 4)


def test_what_adapt_cannot_use_is_named():
    with pytest.raises(ConfigError, match=r"^method: got 3, should be a name in conf/method, the path of a YAML file"):
        peft_vision.adapt(tiny_vit(), method=3, num_classes=4)

    class Local(LoRA):
        pass

    with pytest.raises(ConfigError, match=r"^method: .*Local cannot be found again .*define it at the top level"):
        peft_vision.adapt(tiny_vit(), method=Local, num_classes=4)


def test_a_config_file_that_a_shipped_one_hides_is_named(tmp_path):
    chosen = written(tmp_path, "method", "lora", rank=2)
    outcome = call("experiment=smoke", *chosen, "--cfg", "job", cwd=tmp_path)
    hidden = tmp_path / "myconf" / "method" / "lora.yaml"
    expected = f"peft-vision: {hidden} is not read: peft-vision ships a file of that name; give it another name\n"
    assert (outcome.code, outcome.err) == (0, expected)


@pytest.mark.parametrize(
    ("group", "name", "target"),
    [("data", "data", "peft_vision.data.digits.Digits"), ("ood", "ood", "peft_vision.ood.cifar.STL10")],
)
def test_a_name_of_before_of_a_shared_config_file_works_and_the_new_one_is_said(group, name, target, tmp_path):
    for shared in (f"/{name}_defaults", f"/shared/defaults/{name}"):
        file = tmp_path / "myconf" / group / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"defaults:\n  - {shared}@_here_\n  - _self_\n_target_: {target}\npath: x\n")
        outcome = call(
            "experiment=smoke", "--config-dir", str(file.parents[1]), f"{group}=mine", "--cfg", "job", cwd=tmp_path
        )
        said = f"peft-vision: {file}: {shared} is /shared/defaults/{name} now; the old name still works\n"
        assert (outcome.code, outcome.err) == (0, "" if shared.startswith("/shared") else said)
        assert {"data": "val_fraction: 0.1", "ood": "missing: allow"}[group] in outcome.out


def test_a_rate_may_go_by_the_name_of_an_own_optimizer(tmp_path):
    adamw = yaml.safe_load((CONFIG_DIR / "optimizer" / "adamw.yaml").read_text())
    written(tmp_path, "optimizer", "own", **{**adamw, "lr": "${method.lr.own}"})
    method = yaml.safe_load((CONFIG_DIR / "method" / "bitfit.yaml").read_text())
    chosen = written(tmp_path, "method", "mine", **{**method, "lr": {"own": 0.125}})
    assert call("experiment=smoke", *chosen, "optimizer=own", cwd=tmp_path).code == 0
    (result,) = results(tmp_path)
    assert json.loads(result.read_text())["config"]["optimizer"]["lr"] == 0.125


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory", "/gone/labels.csv"), OSError("no")]
)
def test_a_data_set_of_ones_own_that_cannot_be_opened_is_named(error, tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "open", mock.Mock(side_effect=error))
    said = call(*SMOKE, cwd=tmp_path).error
    assert said == (
        "data: Digits: no" if error.filename is None else "data: /gone/labels.csv: No such file or directory"
    )


def test_an_empty_validation_split_is_none(tmp_path, monkeypatch):
    opened = Digits.open

    def with_empty(self):
        sets = opened(self)
        return replace(sets, val=sets.train.subset(torch.arange(0)))

    monkeypatch.setattr(Digits, "open", with_empty)
    assert call(*SMOKE, cwd=tmp_path).code == 0
    (result,) = results(tmp_path)
    assert json.loads(result.read_text())["data"]["images"]["val"] > 0  # drawn from the training images


def test_a_strangers_method_and_head_pass_the_checks(stranger):
    check_method(stranger.Vera, rank=3)
    check_method(stranger.Gate, start=0.5)
    with pytest.raises(AssertionError, match=r"should train and never moves: .*behnid"):
        check_method(stranger.Misplaced)


def test_a_head_that_only_says_it_is_linear_does_not_pass(stranger):
    check_head("linear")
    check_head("linear", hidden=[7])
    with pytest.raises(AssertionError, match="the head computes something else with its own"):
        check_head(stranger.Cosine)


def test_a_data_set_of_ones_own_is_checked(monkeypatch):
    check_data("digits")
    opened = Digits.open
    monkeypatch.setattr(Digits, "open", lambda self: replace(opened(self), classes=tuple("012345678")))
    with pytest.raises(AssertionError, match="train: labels from 0 to 9, but there are 9 classes"):
        check_data("digits")


def test_completion_offers_the_users_own_options(tmp_path):
    written(tmp_path, "method", "mine", rank=2)
    line = "peft-vision --config-dir myconf method=mi"
    variables = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "3"}
    out, err = start("-sc", "query=bash", cwd=tmp_path, fresh=True, **variables).communicate(timeout=240)
    assert (out.split(), err) == (["method=mine"], "")
