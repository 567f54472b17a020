"""This module lets authors of a method, a head or a data set check that it keeps what this package relies on.

    from peft_vision.testing import check_method

    def test_my_method():
        check_method(MyMethod, rank=4)

Each check raises AssertionError with a sentence. The checks run on a tiny backbone with random weights and take
seconds. The shipped methods pass the same ones.
"""

import copy
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from peft_vision import library
from peft_vision.core.config import ConfigError, build
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.base import Data
from peft_vision.data.pictures import Labelled
from peft_vision.head.base import Head
from peft_vision.library import component_values
from peft_vision.method.base import Method
from peft_vision.models.model import Model
from peft_vision.training.probe import check_linear
from peft_vision.training.watch import Unreached

_CLASSES, _IMAGES, _SIZE = 4, 5, 32
Make = Callable[..., Model]


def tiny_backbone(**architecture: object) -> VisionTransformer:
    """Return a ViT of 3 layers, width 32, 2 heads and 16 patches of 8 px, with random weights that are always the
    same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        sizes = {"img_size": _SIZE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**sizes, **architecture})
        for parameter in vit.parameters():  # biases, scales and class tokens start at constants: make them count
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return vit


def adapted(
    method: str | Path | Method | type[Method], *, architecture: dict[str, object] | None = None, **options: object
) -> Model:
    """Return a tiny backbone adapted by `method`, in training mode, in the phase after the probe if one comes first."""
    model = library.adapt(tiny_backbone(**(architecture or {})), method=method, num_classes=_CLASSES, **options)
    if model.phase.group == "probe":
        model.begin_next_phase(seed=0)
    return model.train()


def what_moves_is_what_trains(make: Make) -> None:
    """Check that training changes exactly the tensors that are saved as trained, and no other."""
    model = make()
    before = copy.deepcopy(model.state_dict())
    _train(model, steps=2)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    buffers = {name for name, _ in model.named_buffers()} & model.tuned_state().keys()
    trained = model.trained().keys() | buffers
    assert moved <= trained, f"training changes what is not saved: {sorted(moved - trained)}"
    assert model.trained().keys() <= moved, f"should train and never moves: {sorted(model.trained().keys() - moved)}"


def every_trained_tensor_is_read(make: Make) -> None:
    """Check that a backward pass reaches every tensor that trains."""
    model = make()
    unreached = Unreached(model)
    _loss(model).backward()
    try:
        unreached.check()
    except ConfigError as error:
        raise AssertionError(str(error)) from error


def the_seed_alone_decides(make: Make) -> None:
    """Check that what is drawn depends on the seed, and not on the global random state, which is left as it was."""
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(make(seed=5).state_dict())
        assert torch.equal(torch.get_rng_state(), before), "attaching it changes the global random state"
    differing = [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])]
    assert differing == [], f"one seed draws different values for {differing}"


def a_saved_model_is_the_same_model(make: Make) -> None:
    """Check that a file written after training gives identical logits, though it is read with another seed."""
    model = make(seed=11)
    _train(model, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        library.save(model, path)
        again = library.load(path, tiny_backbone())
    same = torch.equal(again(_images()), model.eval()(_images()))
    assert same, "loaded again it computes other logits: something that it drew or computed is not saved"


def a_copy_trains_apart(make: Make) -> None:
    """Check that a deep copy computes the same and shares nothing with the original."""
    model = make().eval()
    twin = copy.deepcopy(model)
    logits = model(_images())
    assert torch.equal(twin(_images()), logits), "a deep copy computes other logits"
    _train(twin.train(), steps=2)
    assert torch.equal(model(_images()), logits), "training a deep copy changes the original"


def checkpointing_changes_no_gradient(make: Make) -> None:
    """Check that recomputing activations in the backward pass gives the same gradients."""
    plain = make()
    recomputed = copy.deepcopy(plain)
    recomputed.encoder.set_checkpointing(True)
    for model in (plain, recomputed):
        torch.manual_seed(0)  # for equal dropout
        _loss(model).backward()
    for name, parameter in plain.trained().items():
        if parameter.grad is not None:
            found = recomputed.get_parameter(name).grad
            assert torch.allclose(found, parameter.grad, rtol=1e-4, atol=1e-6), f"checkpointing changes that of {name}"


def what_is_stored_is_what_is_computed(make: Make) -> None:
    """Check that observations of images by a frozen part of the model give the logits of the images after training too,
    if a part is frozen: none is if the first layer is changed."""
    model = make()
    if model.eval().frozen is None:
        return
    _train(model.train(), steps=2)  # some methods change nothing before
    model.eval()
    with torch.no_grad():
        in_one_pass = model.observe(_images(), model.readout.reads)  # as `forward` sees it where nothing is frozen
        direct, stored = model.logits(model.features(in_one_pass)), model(model.observe(_images()))
    assert torch.allclose(direct, stored, rtol=1e-4, atol=1e-5), "stored observations give other logits than images"


def every_pooling_works(make: Make) -> None:
    """Check that the method trains on a backbone that pools the class token, the mean, or by attention."""
    for pool in ("token", "avg", "map"):
        model = make(architecture={"global_pool": pool})
        _train(model, steps=1)
        shape, expected = tuple(model(_images()).shape), _shape(model)
        assert shape == expected, f"with pool={pool} the logits are {shape}, should be {expected}"


METHOD_CHECKS = (
    what_moves_is_what_trains,
    every_trained_tensor_is_read,
    the_seed_alone_decides,
    a_saved_model_is_the_same_model,
    a_copy_trains_apart,
    checkpointing_changes_no_gradient,
    what_is_stored_is_what_is_computed,
    every_pooling_works,
)


def check_method(method: str | Path | Method | type[Method], **options: object) -> None:
    """Run METHOD_CHECKS on a method, given as to `adapt`: with its own layers and, if it changes any, the last one."""
    makes = [partial(adapted, method, **options)]
    if makes[0]().parameter_counts().method:
        makes.append(partial(adapted, method, **{**options, "layers": "last-1"}))
    for make in makes:
        for check in METHOD_CHECKS:
            check(make)


def check_head(head: str | Path | Head | type[Head], **options: object) -> None:
    """Check that a head gives logits, that all of it trains and is saved, and that it is linear if it says so."""
    built_head: Head = build(component_values(head, Head, "head", options), Head, "head")
    make = partial(adapted, "linear", head=built_head)
    model = make()
    shape, expected = tuple(model(_images()).shape), _shape(model)
    assert shape == expected, f"logits of {_IMAGES} images are {shape}, should be {expected}"
    for check in METHOD_CHECKS:
        check(make)
    if built_head.is_linear:
        try:
            check_linear(make(), group="optimizer")
        except ConfigError as error:
            raise AssertionError(str(error)) from error


def check_data(data: str | Path | Data | type[Data], **options: object) -> None:
    """Check that a data set names its classes, labels its pictures by them, can be read, and is the same every time."""
    built_data: Data = build(component_values(data, Data, "data", options), Data, "data")
    sets = built_data.open()
    assert len(set(sets.classes)) == len(sets.classes), f"classes of one name: {sets.classes}"
    for split, part in {"train": sets.train, "val": sets.val, "test": sets.test}.items():
        if part is not None:
            _check_labels(split, part, len(sets.classes))
    assert built_data.fingerprint(skipped=0) == built_data.fingerprint(skipped=0), (
        "opened twice, it holds other pictures or labels"
    )
    preprocessing = Preprocessing(size=_SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=1.0)
    for split, images in built_data.load(preprocessing).parts().items():
        first = torch.arange(min(2, len(images)))
        (batch,) = images.batches([first], seed=None, workers=0)
        shape = (len(first), 3, _SIZE, _SIZE)
        assert batch[0].shape == shape, f"{split}: a batch is {tuple(batch[0].shape)}, should be {shape}"


def _check_labels(split: str, part: Labelled, count: int) -> None:
    match part.labels_are:
        case "classes":
            low, high = int(part.labels.min()), int(part.labels.max())
            assert 0 <= low <= high < count, f"{split}: labels from {low} to {high}, but there are {count} classes"
        case "several" | "numbers":
            columns = part.labels.shape[1]
            assert columns == count, f"{split}: labels have {columns} columns, but there are {count} names of them"
            assert part.labels.isfinite().all(), f"{split}: a label is no finite number"
            marks = part.labels_are == "numbers" or int(part.labels.max()) <= 1
            assert marks, f"{split}: several labels are 0 or 1 each, got {int(part.labels.max())}"


def _images() -> Tensor:
    return torch.randn(_IMAGES, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(3))


def _loss(model: Model) -> Tensor:
    places = _shape(model)[2:]
    labels = torch.arange(math.prod((_IMAGES, *places))) % _CLASSES
    return F.cross_entropy(model(_images()), labels.view(_IMAGES, *places))


def _shape(model: Model) -> tuple[int, ...]:
    """Return the shape of logits: of each image, or of each pixel."""
    return (_IMAGES, _CLASSES, _SIZE, _SIZE) if model.segments else (_IMAGES, _CLASSES)


def _train(model: Model, *, steps: int) -> None:
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=0.01, eps=1e-30)  # so that small gradients move their weights too
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
