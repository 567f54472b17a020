"""What a config group holds, and methods made of others: by name, with values, on the command line."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from command import call, run_folder
from peft_vision.core.composition import complete, option, options
from peft_vision.core.config import CONFIG_DIR, ConfigError, shortened

COMBINED = ("experiment=smoke", "trainer.epochs=1", "data.workers=0", "method=combined")
LORA = option("method", "lora")
VQT = option("method", "vqt")


@pytest.mark.parametrize("group", ["method", "head", "optimizer"])
def test_the_options_of_a_group_are_the_names_of_its_files(group):
    assert options(group) == sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def test_an_option_is_what_its_file_says():
    assert OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "method" / "lora.yaml")) == LORA


def test_parts_of_parts_are_spelled_out():
    spelled = complete({**option("method", "combined"), "parts": ["combined", "ssf"]})
    assert list(spelled["parts"]["combined"]["parts"]["vqt_lora"]["parts"]) == ["lora", "vqt"]


def test_a_file_that_builds_on_another_says_only_what_differs():
    houlsby, pfeiffer = option("method", "adapter_houlsby"), option("method", "adapter_pfeiffer")
    assert pfeiffer == {**houlsby, "placement": "mlp"}


def test_an_unknown_option_is_named_with_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown method 'lorra'; there are .*, lora, .*; did you mean lora\?$"):
        option("method", "lorra")


def test_a_method_without_parts_is_complete():
    assert complete(LORA) == LORA
    assert complete({**LORA, "parts": None}) == {**LORA, "parts": None}


@pytest.mark.parametrize("parts", [["lora", "vqt"], ("lora", "vqt"), {"lora": None, "vqt": {}}], ids=str)
def test_parts_by_name_are_spelled_out_in_their_order(parts):
    found = complete({"_target_": "x", "parts": parts})
    assert found == {"_target_": "x", "parts": {"lora": LORA, "vqt": VQT}}
    assert list(found["parts"]) == ["lora", "vqt"]


def test_one_name_is_one_part():
    assert complete({"parts": "lora"}) == {"parts": {"lora": LORA}}


def test_values_of_a_part_override_those_of_its_file():
    parts = {"lora": {"rank": 4}, "vqt": {}}
    assert complete({"parts": parts}) == {"parts": {"lora": {**LORA, "rank": 4}, "vqt": VQT}}
    assert parts == {"lora": {"rank": 4}, "vqt": {}}


def test_a_part_with_a_target_is_spelled_already():
    part = {"_target_": "mine.Method", "layers": "all"}
    assert complete({"parts": {"mine": part, "lora": {}}})["parts"] == {"mine": part, "lora": LORA}
    assert complete(complete({"parts": ["lora"]})) == complete({"parts": ["lora"]})


def test_an_unknown_part_is_the_users_fault():
    with pytest.raises(ConfigError, match=r"^method\.parts: unknown method 'vtq'; there are .*; did you mean vqt\?$"):
        complete({"parts": ["lora", "vtq"]})


def result(folder: Path, *arguments: str) -> dict:
    """Of one run in a folder of its own."""
    runs = folder / f"runs{len(list(folder.iterdir()))}"
    outcome = call(*COMBINED, *arguments, f"runs={runs}", cwd=folder)
    assert outcome.code == 0, outcome
    return json.loads((run_folder(runs) / "result.json").read_text())


def test_parts_with_values_on_the_command_line_are_those_of_the_preset(tmp_path):
    named = result(tmp_path, "method.parts={lora:{rank:4},vqt:{}}")
    preset = result(tmp_path, "method=vqt_lora", "method.parts.lora.rank=4")
    assert named["config"]["method"]["parts"] == shortened({"lora": {**LORA, "rank": 4}, "vqt": VQT})
    spelled = {
        "lr_factors": {"lora": 1.0, "vqt": 1.0, "head": 1.0},
        "weight_decays": dict.fromkeys(("lora", "vqt", "head")),
    }
    assert preset["config"]["method"] == {**named["config"]["method"], **spelled}  # which say nothing
    assert preset["identity"] == named["identity"]
    assert preset["metrics"] == named["metrics"]


def test_a_parts_rank_is_part_of_the_identity_and_its_learning_rate_is_not(tmp_path):
    plain, rank, rate = (
        result(tmp_path, f"method.parts={{lora:{{{values}}},vqt:{{}}}}")
        for values in ("", "rank:4", "lr:{sgd:1.0,adamw:1.0}")
    )
    assert plain["identity"] == rate["identity"] != rank["identity"]


def test_a_method_in_the_users_folder_may_be_a_part(tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "narrow.yaml").write_text("defaults:\n  - lora\n  - _self_\nrank: 2\n")
    found = result(tmp_path, "method.parts=[narrow,vqt]", "--config-dir", "mine")
    assert found["config"]["method"]["parts"]["narrow"] == shortened({**LORA, "rank": 2})


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ("[lora,vtq]", "method.parts: unknown method 'vtq'; there are "),
        ("{lora:4}", "method.parts.lora: got 4, should be values of it, such as {rank:4}"),
        ("[{lora:{rank:4}},vqt]", "method.parts: got [{'lora': {'rank': 4}}, 'vqt'], should name each method once"),
        ("{lora:{rnk:4}}", "method.parts.lora: unknown rnk; LoRA takes "),
        ("[vqt,head2toe]", "method.parts: vqt and head2toe each decide what the head reads; take one"),
    ],
)
def test_what_is_wrong_with_the_parts_is_one_line(parts, error, tmp_path):
    outcome = call(*COMBINED, f"method.parts={parts}", cwd=tmp_path)
    assert outcome.error.startswith(error)
    assert "\n" not in outcome.error
