"""The identity of a run stands for its values, however they were written, and for nothing else."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from pydantic import ValidationError

from composed import composed
from peft_vision.core.config import CONFIG_DIR, FILE, NOT_HASHED, ConfigError, component, locate, marks
from peft_vision.core.identity import canonical, class_name, digest, hashed
from peft_vision.runs.experiment import ADDED, KINDS, LATER, Experiment

CHEAP = ("backbone=vit_micro", "data=digits", "data.resize=crop", "tracker=none", "method=lora")
INCIDENTAL_KEYS = {
    "data.cache",
    "data.memory_gib",
    "data.device_memory_gib",
    "data.workers",
    "features.use",
    "features.folder",
    "features.memory_gib",
    "features.device_memory_gib",
    "features.disk_gib",
    "features.also",
    "trainer.eval_batch_size",
    "trainer.save_seconds",
    "trainer.keep_predictions",
    "method.lr",
}
"""Where files lie, how much is kept, and how fast it goes."""


@pytest.fixture(scope="module")
def base() -> Experiment:
    return composed(*CHEAP)


def others(value: Any, hint: Any) -> list[Any]:
    """Values of another content, of the kinds that an option may have."""
    literals = list(literals_of(hint))
    literals += [(word,) for word in literals]
    few = [True, False, 3, 1, 0.37, 0, "x", ("q", "fc2"), (0.1, 0.2), (1, 2), None, {"sgd": 0.7}, {"depth": 2}]
    return [other for other in (*literals, *few) if other != value]


def literals_of(hint: Any) -> Iterator[Any]:
    """The words that a type allows, however deep they stand in it."""
    for part in get_args(hint):
        if get_origin(hint) is Literal:
            yield part
        else:
            yield from literals_of(part)


def changed(experiment: Experiment, group: str, name: str) -> Experiment:
    """The same but for one value."""
    option = getattr(experiment, group)
    for other in others(getattr(option, name), get_type_hints(type(option), include_extras=True)[name]):
        try:
            new = replace(option, **{name: other})
        except (ValidationError, ConfigError, TypeError):
            continue
        if getattr(new, name) != getattr(option, name):
            return replace(experiment, **{group: new})
    raise AssertionError(f"no other value of {group}.{name} is known here")


def keys(experiment: Experiment) -> list[tuple[str, str]]:
    return [(group, field.name) for group in KINDS for field in fields(getattr(experiment, group))]


def test_every_value_of_every_group_is_part_of_it_unless_it_cannot_change_a_training(base):
    silent = {f"{group}.{name}" for group, name in keys(base) if changed(base, group, name).identity == base.identity}
    later = {f"{group}.{name}" for group, name in keys(base) if group in LATER}
    assert silent == INCIDENTAL_KEYS | later


def test_so_is_the_seed(base):
    assert replace(base, seed=1).identity != base.identity


def test_the_usual_objective_changes_no_identity_and_another_one_does(base):
    assert "objective" not in base.setting
    weighted = replace(base, objective=replace(base.objective, class_weights="balanced"))
    assert weighted.setting["objective"] == {"_target_": "SingleLabel", "class_weights": "balanced"}
    assert weighted.identity != base.identity


@pytest.mark.parametrize("group", sorted(KINDS.keys() - LATER - ADDED.keys()))
def test_every_group_is_part_of_it(group, base):
    without = {name: values for name, values in base.setting.items() if name != group}
    assert digest({**without, "seed": base.seed}) != base.identity
    assert base.setting[group]["_target_"] == type(getattr(base, group)).__name__


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer.weight_decay=0", "optimizer.weight_decay=0.0", "optimizer.weight_decay=-0.0"),
        ("optimizer.lr=1e-3", "optimizer.lr=0.001"),
        ("trainer.label_smoothing=0", "trainer.label_smoothing=0.0"),
        ("data.train_size=1e2", "data.train_size=100", "data.train_size='100'"),
        ("seed=3", "seed='3'", "seed=3.0"),
        ("method.layers=[0,2]", "method.layers=[2,0]"),
        ("backbone.architecture.mlp_ratio=3", "backbone.architecture.mlp_ratio=3.0"),
    ],
)
def test_equal_values_are_one_however_they_are_written(words):
    (one,) = {composed(*CHEAP, word).identity for word in words}
    assert one != composed("backbone=vit_micro", "data=digits", "method=lora", "seed=9").identity


def test_numbers_of_the_environment_are_numbers(monkeypatch):
    monkeypatch.setenv("S", "3")
    from_environment = composed(*CHEAP, "seed=${oc.env:S}")
    assert from_environment.identity == composed(*CHEAP, "seed=3").identity
    assert from_environment.config["seed"] == 3
    monkeypatch.setenv("S", "three")
    with pytest.raises(ConfigError, match=r"seed: got 'three', should be a whole number"):
        composed(*CHEAP, "seed=${oc.env:S}")


@pytest.mark.parametrize("seed", ["-1", "true", "1.5", "null"])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ConfigError, match="seed"):
        composed(*CHEAP, f"seed={seed}")


def test_the_order_of_the_parts_of_a_method_counts():
    first = composed("method=combined", "method.parts=[adaptformer,lora]")
    second = composed("method=combined", "method.parts=[lora,adaptformer]")
    assert first.identity != second.identity


def test_the_order_of_patterns_counts_of_which_the_first_that_fits_decides():
    def identity(*patterns: str) -> str:
        ranks = ", ".join(patterns)
        config = f"++method.config={{peft_type: LORA, r: 8, target_modules: [qkv], rank_pattern: {{{ranks}}}}}"
        return composed(*CHEAP[:-1], "method=hf_peft", config).identity

    assert identity("blocks.0.attn.qkv: 2", "qkv: 16") != identity("qkv: 16", "blocks.0.attn.qkv: 2")
    assert digest(canonical({"rank_pattern": {"a": 1, "b": 2}})) == digest({"rank_pattern": {"a": 1, "b": 2}})


def test_the_order_of_a_mapping_of_values_does_not():
    assert digest(canonical({"a": 1, "b": (2, 3.0)})) == digest(canonical({"b": [2.0, 3], "a": 1}))
    assert canonical({3, 1}) == [1, 3]


@pytest.mark.parametrize(("first", "second"), [(True, 1), (False, 0), ("1", 1), (None, 0), ((1, 2), (2, 1)), (0.5, 0)])
def test_values_that_differ_stay_apart(first, second):
    assert digest(canonical(first)) != digest(canonical(second))


def test_a_relative_path_is_the_folder_that_it_means(tmp_path, monkeypatch):
    words = ("data=image_folder", "data.path=pictures")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    in_a, by_full_name = composed(*words), composed("data=image_folder", f"data.path={tmp_path / 'a' / 'pictures'}")
    monkeypatch.chdir(tmp_path / "b")
    in_b, from_b = composed(*words), composed("data=image_folder", "data.path=../a/pictures")
    assert in_a.identity == by_full_name.identity == from_b.identity != in_b.identity
    assert in_a.config["data"]["path"] == str(tmp_path / "a" / "pictures")


def test_weights_that_are_shipped_are_the_same_wherever_they_lie(base):
    assert hashed(base.backbone)["checkpoint"] == "package:vit_micro.safetensors"


def test_a_path_at_home_is_that_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    named = composed("data=image_folder", "data.path='~/pictures'")
    assert named.config["data"]["path"] == "/home/somebody/pictures"


@pytest.mark.parametrize("group", ["data", "ood", "backbone"])
def test_every_option_that_names_files_says_so(group):
    """Under these names they have paths of the user's; `root` and `folder` hold copies of published files."""
    nodes = [yaml.safe_load(file.read_text()) for file in (CONFIG_DIR / group).rglob("*.yaml")]
    targets = {node["_target_"] for node in nodes if node and "_target_" in node}
    named = [(cls, name) for cls in (locate(target, group) for target in targets) for name in marks(cls)]
    paths = [(cls, name) for cls, name in named if name in ("path", "index_file", "checkpoint")]
    assert paths
    assert all(FILE in marks(cls)[name] for cls, name in paths)


def test_a_class_of_ours_may_move_and_one_of_a_user_is_its_path():
    @component
    class Mine:
        size: int

    assert class_name(Mine) == f"{__name__}.{Mine.__qualname__}"
    assert class_name(Experiment) == "Experiment"

    moved = type("Experiment", (), {"__module__": "peft_vision.elsewhere", "__qualname__": "Experiment"})
    assert class_name(moved) == class_name(Experiment)


def test_what_is_incidental_is_no_part_of_a_component():
    @component
    class Mine:
        size: float
        folder: Annotated[str, NOT_HASHED]

    assert hashed(Mine(size=2, folder="x")) == {"_target_": class_name(Mine), "size": 2}


@pytest.mark.parametrize(
    ("words", "idle", "acting"),
    [
        (("optimizer=galore_adamw",), {"momentum": 0.2}, {"betas": (0.1, 0.2)}),
        (("optimizer=galore_sgd",), {"betas": (0.1, 0.2), "eps": 1.0}, {"momentum": 0.2}),
        (("optimizer=grid", "method=linear"), {"momentum": 0.2}, {"betas": (0.1, 0.2)}),
    ],
    ids=["galore_adamw", "galore_sgd", "grid"],
)
def test_an_option_that_acts_beside_another_alone_is_no_part_of_it_elsewhere(words, idle, acting):
    one = composed(*CHEAP[:-1], *words)
    assert replace(one, optimizer=replace(one.optimizer, **idle)).identity == one.identity
    assert replace(one, optimizer=replace(one.optimizer, **acting)).identity != one.identity


def test_an_option_that_acts_beside_any_other_value_is_no_part_of_it_beside_that_one():
    whole, chosen = (composed(*CHEAP[:-1], "method=vqt", f"method.keep_fraction={share}") for share in ("null", 0.7))
    assert replace(whole, method=replace(whole.method, lasso=1.0)).identity == whole.identity
    assert replace(chosen, method=replace(chosen.method, lasso=1.0)).identity != chosen.identity


def test_folders_are_told_by_more_than_eight_digits(base):
    assert base.name == f"lora-vit_micro-digits-s0-{base.identity[:12]}"
