"""This module exports the whole model, normalisation and head included, to an ONNX file: uint8 images (B, C, H, W) to
logits (B, num_classes), or (B, num_classes, H, W) of a model that segments."""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peft_vision.backbone.merge import merged
from peft_vision.models.model import Model

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def missing() -> list[str]:
    """Return the names of the required packages that are not installed."""
    absent = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
    return absent


def write(model: Model, path: Path) -> None:
    """Write the model for any number of images, with wrappers merged where they can be.

    Class names and preprocessing are in the file's metadata. The model must be on the CPU, in evaluation mode.
    """
    import onnx

    images = torch.zeros(2, *model.recipe.preprocessing.shape, dtype=torch.uint8)
    with merged(model.encoder), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"seen": {0: torch.export.Dim.DYNAMIC}},
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(
        classes=json.dumps(list(model.recipe.classes)), preprocessing=json.dumps(model.recipe.preprocessing.record())
    )
    program.save(path)  # beyond 2 GB, the limit of one file, the weights go to a second one
    onnx.checker.check_model(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's many warnings, which concern only itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def logits(path: Path, images: Tensor) -> Tensor:
    """Return the logits that onnxruntime computes from the file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": np.ascontiguousarray(images.numpy())})
    return torch.from_numpy(found)
