"""A compiled model and one that is exported to ONNX compute what the model does, in the families with positions in
their scores."""

import pytest
import torch
from test_methods import IMAGES
from variants import small

from peft_vision.exchange import onnx_model
from peft_vision.models.model import Model
from shipped import adapted_to

BOTH = {"parts": {"ssf": {}, "vpt_deep": {}}}
COMPILED = [("DINOv3", "combined", BOTH), ("BEiT", "lora", {}), ("relative", "vpt_deep", {})]
EXPORTED = [("DINOv3", "lora"), ("BEiT", "vpt_deep"), ("relative", "ssf")]


def adapted(variant: str, method: str, **options: object) -> Model:
    """Of one layer, since what compiles is compiled for every layer."""
    return adapted_to(small(variant, depth=1), method, **options)


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, which asks for .grad where a graph is cut
@pytest.mark.parametrize(("variant", "method", "options"), COMPILED, ids=["DINOv3", "BEiT", "relative"])
def test_compiling_changes_neither_logits_nor_gradients(variant, method, options):
    model = adapted(variant, method, **options).eval()
    logits = model(IMAGES)
    logits.square().sum().backward()
    expected = {name: parameter.grad for name, parameter in model.trained().items()}
    model.zero_grad(set_to_none=True)
    compiled = torch.compile(model, backend="aot_eager")(IMAGES)
    torch.testing.assert_close(compiled, logits, rtol=1e-5, atol=1e-5)
    compiled.square().sum().backward()
    for name, parameter in model.trained().items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("variant", "method"), EXPORTED)
def test_onnxruntime_computes_the_same_logits_for_any_number_of_images(variant, method, tmp_path):
    model = adapted(variant, method).eval()
    for parameter in model.trained().values():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    onnx_model.write(model, tmp_path / "model.onnx")
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(
            onnx_model.logits(tmp_path / "model.onnx", images), model(images), rtol=1e-4, atol=1e-5
        )
