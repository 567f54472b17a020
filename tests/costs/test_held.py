"""What a plan says that a model holds is what lies in memory."""

import gc

import pytest
import torch

from command import call
from composed import composed
from peft_vision.backbone.load import load_backbone
from peft_vision.costs.held import HeldBytes
from peft_vision.models.model import Model, Parts, assemble

MICRO = ("experiment=demo", "backbone.pretrained=false", "backbone.checkpoint=null")


def reached(root: object) -> int:
    """The bytes of all tensors that can be reached from an object, whatever holds them, each memory once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (type, torch.dtype)) or type(item).__name__ == "module":
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif callable(item) and not isinstance(item, torch.nn.Module):
            continue  # whose globals are the library's own
        else:
            waiting += gc.get_referents(item)
    return sum(found.values())


def fresh(bits: str) -> Model:
    """The model of a run on the tiny backbone."""
    experiment = composed(*MICRO, "method=lora", f"backbone.frozen_bits={bits}")
    parts = Parts(
        method=experiment.method,
        head=experiment.head,
        criterion=experiment.objective.criterion(tuple(map(str, range(10)))),
        preprocessing=experiment.backbone.preprocessing(),
        frozen_bits=experiment.backbone.frozen_bits,
    )
    return assemble(load_backbone(experiment.backbone, seed=0), parts, seed=0)


@pytest.mark.parametrize("bits", ["null", "8", "4"])
def test_bytes_are_those_of_the_tensors_that_the_model_reaches(bits):
    if bits == "4":
        pytest.importorskip("bitsandbytes")
    model = fresh(bits)
    held = HeldBytes.of(model)
    assert held.total == reached(model)
    assert held.trained == 4 * sum(parameter.numel() for parameter in model.trained().values())
    matrices = 6 * 128 * 128 * (4 + 2 * 3)  # of the blocks: q, k, v, projection and an MLP three times as wide
    plain = 4 * matrices
    least = {"null": None, "8": matrices, "4": matrices // 2}[bits]
    if least is None:
        assert (held.packed, held.bits) == (0, None)
        assert held.frozen > plain
    else:
        assert least < held.packed < 1.2 * least
        assert held.packed < held.frozen < plain


def test_a_plan_tells_it_and_counts_what_trains_for_every_model_of_a_grid(tmp_path):
    quick = ("task=plan", "task.repeats=1", "task.warmup=0", *MICRO, "method=lora", "trainer.batch_size=8")
    few = call(*quick, "backbone.frozen_bits=8", cwd=tmp_path)
    assert few.code == 0, few
    held = HeldBytes.of(fresh("8"))
    assert f"memory   {held}, in the largest model; activations" in few.out
    assert "of it matrices in 8 bit" in few.out
    assert held.with_models(6).total == held.total + 5 * held.trained
