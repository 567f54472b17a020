"""An adapter file from anybody: whole and fitting, or one line that names the file, and nothing run or allocated."""

import json
import math
import sys
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import peft_vision
from conftest import tiny_vit
from peft_vision.core.records import Unreadable
from peft_vision.models.adapter import load_tuned, read_adapter
from shipped import adapted

ANY = "anything"
PREPROCESSING = {
    "size": 32,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop": 0.9,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.safetensors"
    peft_vision.save(adapted("vpt_lora"), path)
    return path


@pytest.fixture
def forged(sound, tmp_path):
    """Writes it anew with other metadata (text as it is, else JSON; None: none) and tensors."""
    with safe_open(sound, framework="pt") as file:
        metadata = {key: text for key, text in file.metadata().items() if key != "crc32"}  # which nobody has to give

    def write(tensors=None, **values: object):
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        kept = {key: text for key, text in {**metadata, **texts}.items() if values.get(key, ANY) is not None}
        save_file({**load_file(sound), **(tensors or {})}, tmp_path / "a.safetensors", metadata=kept)
        return tmp_path / "a.safetensors"

    write.metadata = {key: json.loads(text) for key, text in metadata.items() if key != "format"}
    return write


def refused(path) -> str:
    """The reason, after checking that it is one line."""
    with pytest.raises(Unreadable) as error:
        peft_vision.load(path, tiny_vit())
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"cannot read {path}: ")
    return error.value.reason


def test_a_forged_copy_that_says_the_same_loads(forged, images):
    loaded = peft_vision.load(forged(), tiny_vit())
    assert torch.equal(loaded(images), adapted("vpt_lora").eval()(images))


@pytest.mark.parametrize("key", ["format", "method", "head", "classes", "preprocessing", "backbone", "phases"])
@pytest.mark.parametrize(
    "value", [None, "", "null", "7", "[]", "{}", '"text"', "{", "[" * 1000, '"\\ud800"', "NaN", "1e999"]
)
def test_what_is_no_value_of_its_key_is_named(key, value, forged):
    if (key, value) == ("phases", "7"):
        assert refused(forged(phases=value)) == "7 phases have begun, where there are 1"
        return
    reason = refused(forged(**{key: value}))
    assert key in reason or (key == "format" and "'peft-vision adapter 3' file" in reason)


@pytest.mark.parametrize(
    "target",
    [None, 7, [], {}, "", "VPT", ".VPT", "a..b", "os.system", "no.module.Here", "peft_vision.method.base.Method",
     "peft_vision.head.base.Head", "peft_vision.method.vpt.nothing", "builtins.dict", "x" * 900 + ".y"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["method", "part", "head"])
def test_a_target_that_is_no_class_of_the_kind_is_refused(target, place, forged):
    method, head = forged.metadata["method"], forged.metadata["head"]
    if place == "part":
        method["parts"] = {name: {**part, "_target_": target} for name, part in method["parts"].items()}
    elif place == "method":
        method["_target_"] = target
    else:
        head["_target_"] = target if target != "peft_vision.head.base.Head" else "peft_vision.method.linear.Linear"
    assert place.replace("part", "method.parts") in refused(forged(method=method, head=head))


@pytest.mark.parametrize(
    "values",
    [
        {"num_prompts": 10**9},
        {"num_prompts": -3},
        {"num_prompts": 10**30},
        {"num_prompts": None},
        {"num_prompts": {"_target_": "peft_vision.method.vpt.VPT"}},
        {"parts": None},
        {"parts": {}},
        {"parts": {"vpt": 3}},
        {"layers": "last-1000000000"},
        {"layers": [10**9]},
        {"unknown": 1},
    ],
)
def test_sizes_and_values_of_a_recipe_are_bounded_by_its_tensors(values, forged):
    method = forged.metadata["method"]
    if "num_prompts" in values:
        (part,) = [candidate for candidate in method["parts"].values() if "num_prompts" in candidate]
        part.update(values)
    else:
        method.update(values)
    refused(forged(method=method))


@pytest.mark.parametrize(
    "values", [{"hidden": [10**9]}, {"hidden": [-1]}, {"hidden": [1] * 10**4}, {"std": -1}, {"dropout": 2}]
)
def test_so_are_those_of_a_head(values, forged):
    refused(forged(head={**forged.metadata["head"], **values}))


def test_nothing_of_a_thousand_million_prompts_is_allocated(forged):
    method = forged.metadata["method"]
    (part,) = [candidate for candidate in method["parts"].values() if "num_prompts" in candidate]
    part["num_prompts"] = 10**7  # 1.3 GB in this backbone: a machine could do it
    assert refused(forged(method=method)) == "its recipe builds more than its tensors account for"


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0}, {"size": -32}, {"size": 10**9}, {"size": 32.5}, {"mean": [0.5] * 2}, {"std": [0.5] * 4},
        {"std": [0.0] * 3}, {"std": [math.nan] * 3}, {"mean": [math.inf] * 3}, {"mean": 0.5}, {"crop": 0},
        {"crop": -1}, {"crop": math.nan}, {"crop": 2}, {"interpolation": "cubic"}, {"interpolation": 3}, {"more": 1},
    ],
)  # fmt: skip
def test_a_preprocessing_that_is_none_is_refused(values, forged):
    (key,) = values
    message = refused(forged(preprocessing={**PREPROCESSING, **values}))
    assert message.startswith("preprocessing: ")
    assert key in message


def test_a_preprocessing_for_another_size_does_not_fit(forged):
    with pytest.raises(ValueError, match="is for pictures of 64 px, this backbone for 32 px"):
        peft_vision.load(forged(preprocessing={**PREPROCESSING, "size": 64}), tiny_vit())


@pytest.mark.parametrize(
    "classes", [["a"] * 3, ["a"] * 10**5, ["a", "b", "c", 4], ["a" * 2000, "b", "c", "d"], {"a": 1}]
)
def test_classes_are_as_many_names_as_the_head_has_outputs(classes, forged):
    assert "class" in refused(forged(classes=classes))


@pytest.mark.parametrize(
    "weights", [{"name": "x"}, {"name": "x", "hash": None}, {"name": "x", "hash": "0"}, {"hash": 7}]
)
def test_a_hash_is_one(weights, forged):
    assert refused(forged(backbone=weights)).startswith("backbone.")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.uint8, torch.complex64])
def test_tuned_tensors_are_floats(dtype, forged):
    name = next(name for name in forged_names(forged) if name.startswith("head"))
    tensor = load_file(forged())[name].to(dtype)
    assert f"tensor {name}: its type is" in refused(forged({name: tensor}))


def forged_names(forged) -> list[str]:
    return sorted(load_file(forged()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_of_tensors_are_finite(value, forged):
    name = forged_names(forged)[0]
    tensor = load_file(forged())[name]
    tensor.view(-1)[0] = value
    assert refused(forged({name: tensor})) == f"tensor {name} holds NaN or infinity"


def test_tensors_of_another_shape_or_kind_do_not_fit(forged):
    name = "head.0.bias"
    with pytest.raises(
        ValueError, match=r"a\.safetensors: the tuned tensors do not fit: .*other shape \['head\.0\.weight'\]"
    ):
        peft_vision.load(forged({"head.0.weight": torch.zeros(4, 7)}), tiny_vit())
    with pytest.raises(ValueError, match=r"unknown \['x'\]"):
        peft_vision.load(forged({"x": torch.zeros(1)}), tiny_vit())
    with pytest.raises(ValueError, match=r"other type \['head\.0\.bias'\]"):
        peft_vision.load(forged({name: torch.zeros(4, dtype=torch.int64)}), tiny_vit())


def test_half_precision_is_read(forged):
    halves = {name: tensor.bfloat16() for name, tensor in load_file(forged()).items()}
    model = adapted("vpt_lora")
    load_tuned(model, read_adapter(forged(halves)).tensors)
    assert all(torch.equal(tensor, halves[name].float()) for name, tensor in model.tuned_state().items())


def test_a_module_is_imported_for_a_file_only_where_it_uses_us(forged, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "friendly_module.py").write_text(
        "from peft_vision.method.linear import Linear\nclass Mine(Linear): ...\n"
    )
    head = {"head.0.weight": load_file(forged())["head.0.weight"], "head.0.bias": torch.zeros(4)}
    model = adapted("linear")
    method = {**model.recipe.method, "_target_": "hostile_module.Mine"}
    assert refused(forged(method=method)).startswith(
        "method._target_: 'hostile_module.Mine' is not imported for a file"
    )
    assert not (tmp_path / "ran").exists()
    with patch.dict(sys.modules):
        method["_target_"] = "friendly_module.Mine"
        path = forged(method=method, likeness=None)
        save_file(head, path, metadata=safe_open(path, framework="pt").metadata())
        loaded = peft_vision.load(path, tiny_vit())
    assert loaded.recipe.method["_target_"] == "friendly_module.Mine"


def test_a_flipped_bit_of_any_tensor_is_noticed(sound, tmp_path):
    whole = sound.read_bytes()
    first = int.from_bytes(whole[:8], "little") + 8
    path = tmp_path / "flipped.safetensors"
    for place in range(first, len(whole), max(1, (len(whole) - first) // 50)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Unreadable, match=r"its checksum is wrong|NaN or infinity"):
            read_adapter(path)
