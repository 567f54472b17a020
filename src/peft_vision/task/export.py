"""This module writes a saved adapter in a format that other tools read, and checks that it computes the same logits."""

import copy
import filecmp
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peft_vision.backbone.load import Backbone
from peft_vision.backbone.merge import unwrapped
from peft_vision.backbone.source import FOLDER, resolved
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.output import Console
from peft_vision.exchange import hf_peft, onnx_model, peft_tuners
from peft_vision.exchange.timm_weights import of_peft, of_timm, timm_state
from peft_vision.models.adapter import load_tuned
from peft_vision.objective.single_label import ONE_CLASS
from peft_vision.runs.run import place, refuse_run, writing
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.base import Task
from peft_vision.task.model_card import CARD, CardFacts, backbone_origin, model_card, results_of

_CHECKED = 8  # random images that the logits are compared on
_TOLERANCE = 0.01  # fraction of the largest logit: rounding errs by far less, another model by far more
_SAME = "the copy has the bytes of the run's own file"
_WEIGHTS = "backbone.safetensors"  # the backbone, in the folder of a LoRA for `peft`


@component
class Export(Task):
    """A task that exports a saved adapter. timm: weights of a plain timm model with a classifier; peft: a folder for
    Hugging Face's `peft`; onnx: the whole model; adapter: the run's own safetensors file."""

    format: Literal["timm", "peft", "onnx", "adapter"]

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Write and check the export, and print how it loads. ConfigError where the format cannot hold what the run
        trained."""
        if self.format == "onnx" and (missing := onnx_model.missing()):
            raise ConfigError(f"task.format=onnx needs {', '.join(missing)}: pip install 'peft-vision[onnx]'")
        saved = open_saved(str(config["run"]), checkpoint=config["checkpoint"], device=torch.device("cpu"))
        folder = saved.output(config["out"], "export")
        if self.format == "adapter":
            refuse_run(folder, own=saved.folder)
        shape = (_CHECKED, *saved.recipe.preprocessing.shape)
        images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        images = images.to(torch.uint8)
        write = {"timm": _timm, "peft": _peft, "onnx": _onnx, "adapter": _adapter}[self.format]
        staging = folder / ".export.unfinished"
        try:
            with writing(folder, key="out"), torch.no_grad():
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
                path, found, line = write(saved, staging, images)
                said = _SAME if found is None else self._compared(found, saved.model(images))
                _put(staging, folder, saved)
        except ValueError as error:
            raise ConfigError(f"task.format={self.format}: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        console = Console(soft_wrap=True)
        console.print(f"checked   {said}")
        console.print(f"saved     {folder / path.relative_to(staging)}")
        if line is not None:
            console.print(f"loads by  {line.replace(str(staging), str(folder))}")

    def _compared(self, found: Tensor, expected: Tensor) -> str:
        """Return in words the largest difference between the exported logits and the model's own. ConfigError where it
        exceeds the tolerance."""
        difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
        said = f"logits of {_CHECKED} random images differ by {difference:.1e} at most, of {largest:.3g}"
        if not difference <= _TOLERANCE * largest:
            raise ConfigError(
                f"task.format={self.format}: read again it computes something else, so nothing was written: {said}"
            )
        return said


def _put(staging: Path, folder: Path, saved: Saved) -> None:
    """Move the checked files into the output folder, and delete backbone weights that an earlier export left with a
    LoRA that now needs none."""
    if (staging / "peft").is_dir() and not (staging / "peft" / _WEIGHTS).exists():
        (folder / "peft" / _WEIGHTS).unlink(missing_ok=True)
    # reverse order places a model after its weights file
    for file in sorted((path for path in staging.rglob("*") if path.is_file()), reverse=True):
        target = folder / file.relative_to(staging)
        if target.resolve() != (saved.folder / "adapter.safetensors").resolve():  # the run's own file is never replaced
            target.parent.mkdir(exist_ok=True)
            place(target, partial(os.replace, file), key="out")


def _timm(saved: Saved, folder: Path, images: Tensor) -> tuple[Path, Tensor, str]:
    """Return the file, the logits of an untouched timm model that has loaded it, and the line that loads it."""
    path = folder / "timm.safetensors"
    state, backbone = timm_state(saved.model), _backbone(saved)
    (name, arguments), num_classes = backbone.in_timm(), len(saved.recipe.classes)
    metadata = {key: text for key, text in saved.recipe.without_places().metadata().items() if key != "format"}
    metadata["timm"] = json.dumps({"name": name, "arguments": {"num_classes": num_classes, **arguments}})
    path.write_bytes(save(state, metadata))
    vit = timm.create_model(name, num_classes=num_classes, **resolved(arguments))
    vit.load_state_dict(state)
    line = of_timm(name, arguments, num_classes, path)
    return path, vit.eval()(saved.model.normalize(images)), line


def _backbone(saved: Saved) -> Backbone:
    return build(saved.config["backbone"], Backbone, "backbone")


def _untrained(saved: Saved) -> VisionTransformer:
    """Return timm's own model in the run's shape, with random weights."""
    return replace(_backbone(saved), pretrained=False, checkpoint=None).load()


def _peft(saved: Saved, folder: Path, images: Tensor) -> tuple[Path, Tensor, str]:
    """Return the folder, the logits of a model that was loaded from it, and the line that loads it. Backbone weights
    that the hub does not have are saved in the folder too, matrices that were held in few bits as they computed."""
    path, backbone = folder / "peft", _backbone(saved)
    path.mkdir(exist_ok=True)
    vit, weights = _untrained(saved), path / _WEIGHTS
    with unwrapped(saved.model.encoder):
        tensors = saved.model.encoder.vit.state_dict()
    tensors = {name: tensors[name].contiguous() for name in vit.state_dict()}
    is_folder = backbone.name.startswith(FOLDER)
    of_hub = backbone.pretrained and not is_folder and backbone.checkpoint is None and backbone.frozen_bits is None
    (name, arguments), num_classes = backbone.in_timm(), len(saved.recipe.classes)
    said = {
        "timm": {"name": name if is_folder else backbone.name, "arguments": arguments},
        "data": {key: saved.says("data", key) for key in ("resize", "full_scale")},
    }
    vit.load_state_dict(tensors)
    if peft_tuners.is_tuned_by_peft(saved.model):
        again = _by_peft(saved, path, vit, said)
    else:
        hf_peft.write(saved.model, path, **said)
        imported = hf_peft.Imported(path)
        on = {key: value for key, value in saved.recipe.backbone.items() if key != "frozen_bits"}
        plain = {"head": option("head", "linear"), "objective": dict(ONE_CLASS)}  # all that the folder's logits need
        again = replace(saved.recipe, method=imported.method(), backbone=on, **plain).assemble(vit, seed=0)
        load_tuned(again, imported.tensors)
    if not of_hub:
        weights.write_bytes(save(tensors))
    line = of_peft(backbone.name if of_hub else name, arguments, num_classes, path, None if of_hub else weights)
    _describe(saved, path, line.replace(f"{path}/", "").replace(str(path), "."))
    return path, again.eval()(saved.model.normalize(images)), line


def _by_peft(saved: Saved, folder: Path, vit: VisionTransformer, said: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Let `peft` write a model that was tuned by a method of its own, and return what it loads again from the folder.
    `vit`: timm's model with the backbone's weights."""
    peft_tuners.check_installed()
    vit.reset_classifier(len(saved.recipe.classes))
    untouched = copy.deepcopy(vit)
    peft_tuners.write(saved.model, vit, folder)
    (folder / hf_peft.NOTES).write_bytes(hf_peft.notes(saved.model, **said))
    return peft_tuners.read(folder, untouched)


def _describe(saved: Saved, folder: Path, line: str) -> None:
    """Write the model card of an export. `line`: of Python, that loads the model where it runs in that folder."""
    facts = CardFacts(
        title=f"{saved.folder.name}, for peft",
        library="peft",
        loads=line,
        results=results_of(saved.folder),
        backbone=backbone_origin(saved),
    )
    (folder / CARD).write_text(model_card(saved, facts), encoding="utf-8")


def _onnx(saved: Saved, folder: Path, images: Tensor) -> tuple[Path, Tensor, None]:
    """Return the file, the logits that onnxruntime computes from it, and None, because no line of code loads it."""
    path = folder / "model.onnx"
    onnx_model.write(saved.model, path)
    return path, onnx_model.logits(path, images), None


def _adapter(saved: Saved, folder: Path, images: Tensor) -> tuple[Path, None, None]:
    """Return a copy of the run's adapter file, and None twice: bytes are compared, and no line of code loads it.
    ValueError where the bytes differ."""
    own, path = saved.folder / "adapter.safetensors", folder / "adapter.safetensors"
    shutil.copyfile(own, path)
    if not filecmp.cmp(own, path, shallow=False):
        raise ValueError(f"the copy differs from {own}, so nothing was written")
    return path, None, None
