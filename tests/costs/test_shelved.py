"""Entries that are in the store already are told from others, and what would be costly to tell is not decoded."""

import torch

from command import call
from composed import composed
from peft_vision.core.distributed import World
from peft_vision.costs import expected as module
from peft_vision.costs.expected import Expected, demands, shelved

SMOKE = ("experiment=smoke", "trainer.epochs=1")
HERE = World(rank=0, size=1, device=torch.device("cpu"))


def found(*overrides: str) -> dict[str, str]:
    """The beginning of the names of entries, by split."""
    (demand,) = demands([Expected(composed(*SMOKE, *overrides))])
    names = shelved([demand], HERE)
    return {split: names[key] for split, key in demand.keys.items() if key in names}


def test_what_is_there_goes_by_its_key(tmp_path, monkeypatch):
    assert found("method=linear") == {}
    assert call(*SMOKE, "method=linear", "data.stage=tune", cwd=tmp_path).code == 0
    there = {path.name[:16] for path in (tmp_path / "store").glob("*.safetensors")}
    names = found("method=vqt", "optimizer.lr=0.2")
    assert len(there) == 2
    assert {names["train"], names["val"]} == there
    assert found("method=vqt", "data.split_seed=3")["train"] not in there
    monkeypatch.setattr(module, "_DECODED", 0)  # and this is told without a look at the pixels
    assert found("method=vqt", "optimizer.lr=0.2") == names
    for other in ("seed=1", "features.dtype=fp16", "data.train_size=41"):
        assert "train" not in found("method=vqt", other), other
