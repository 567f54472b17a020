"""This module shows which places of a picture a saved model reads: by the attention of the class token or of VQT's
queries, or by Grad-CAM, as an overlay of each picture and on a sheet."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from peft_vision.backbone.attention_weights import noted_weights, num_pooled, on_patches, rollout
from peft_vision.core.config import ConfigError, build, component, nearest
from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import world
from peft_vision.core.output import one_line, say
from peft_vision.core.preprocessing import sides_of
from peft_vision.core.progress import Progress
from peft_vision.data.base import Data
from peft_vision.data.decode import Geometry
from peft_vision.data.images import Images, Undecoded, usable
from peft_vision.method.vqt import Queries
from peft_vision.models.grad_cam import grad_cam
from peft_vision.models.model import Model
from peft_vision.runs.run import place
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.answers import Answers, stems
from peft_vision.task.base import Task
from peft_vision.task.contact_sheet import Tile, check_font, contact_sheet, fitted
from peft_vision.task.predict import given_pictures, readable

_AT_ONCE = 16  # images, whose attention weights of all layers are kept for a rollout
_SMALLEST = 224  # px: smaller pictures are enlarged, so that an overlay shows more than blocks
_COLOURS, _OPACITY = "turbo", 0.5

Map = Literal["attention", "rollout", "queries", "grad_cam"]


@dataclass(frozen=True)
class Explained:
    """The maps of a batch: `outputs` of the model (B, C), and `values` (B, h, w), not negative, at places of the image.
    `shares`: of attention, the part that is on patches, (B,); None for Grad-CAM."""

    outputs: Tensor
    values: Tensor
    shares: Tensor | None


@component
class Explain(Task):
    """A task that shows which places of pictures a saved model reads. `map`: how that is measured; `layer`: where,
    None: in the last layer; `class_name`: the class that Grad-CAM explains, None: the predicted one. `resize`,
    `sheet_images` and `font` are as in task=predict."""

    map: Literal["auto", "attention", "rollout", "queries", "grad_cam"]
    layer: NonNegativeInt | None
    class_name: str | int | None
    resize: Literal["squash", "crop"] | None
    sheet_images: PositiveInt
    font: str | None

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Write an overlay of each picture, and a sheet of the first ones. ConfigError where the model has no such
        map."""
        data: Data = build(config["data"], Data, "data")  # used for its number of workers
        given = given_pictures(config["images"])
        with world(config["device"]) as here:
            if here.size > 1:
                raise ConfigError("task=explain works in one process; start it without torchrun")
            saved = open_saved(str(config["run"]), checkpoint=config["checkpoint"], device=here.device)
            if saved.model.segments:
                raise ConfigError("run: it has an answer for each pixel; task=predict shows them over the pictures")
            explain, heading = self._explainer(saved)
            geometry = saved.geometry(self.resize)
            check_font(self.font, [*saved.recipe.classes, *map(one_line, given.files.paths)])
            pictures = readable(given.files, given.place, geometry, threads=max(1, usable(data.workers)))
            images = Images(pictures.labels, Undecoded(given.files, pictures.indices, geometry), "none")
            names = [given.files.paths[index] for index in pictures.indices.tolist()]
            out = saved.output(config["out"], f"explanations/{given.name}")
            tiles: list[Tile] = []
            parts = self._explained(images, explain, saved, config, device=here.device)
            for stem, name, index, (said, values) in zip(
                stems(names), names, pictures.indices.tolist(), parts, strict=True
            ):
                picture = pictures.pictures.read(index).convert("RGB")
                shown = overlay(values, picture, geometry, edge=_edge(saved.model))
                path = out / "overlays" / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                place(path, partial(shown.save, format="PNG"), key="out")
                if len(tiles) < 2 * self.sheet_images:
                    tiles += [Tile(fitted(picture), *said[:2], file=one_line(name)), Tile(fitted(shown), *said[2:])]
        sheet = contact_sheet({heading: tiles}, font_name=self.font)
        place(out / "sheet.png", partial(sheet.save, format="PNG"), key="out")
        say(f"explained {len(names):,} {'picture' if len(names) == 1 else 'pictures'} by {heading}")
        say(f"saved     {out}/overlays/ and sheet.png")

    def _explained(
        self,
        images: Images,
        explain: Callable[[Tensor], Explained],
        saved: Saved,
        config: Mapping[str, Any],
        *,
        device: torch.device,
    ) -> Iterator[tuple[tuple[str, str, str, str], Tensor]]:
        """Yield the captions of each picture and of its overlay, a name and a remark each, and the map (h, w)."""
        trainer = saved.trainer(config["trainer"])
        size, workers = min(_AT_ONCE, trainer.eval_batch_size), config["data"]["workers"]
        room = needing_memory(f"a pass of {size} images", device, SMALLER_PASS)
        with Progress(label="explaining", total=len(images), unit="images") as progress, room:
            for pixels, _ in on_device(images.in_order(batch_size=size, workers=workers), device):
                found = explain(pixels)
                answers = Answers.of(saved, [""] * len(pixels), found.outputs.float().cpu())
                for number, places in enumerate(found.values.cpu()):
                    share = "" if found.shares is None else f"{100 * float(found.shares[number]):.0f} % on patches"
                    yield (*answers.words(number), share, ""), places
                progress.advance(len(pixels))

    def _explainer(self, saved: Saved) -> tuple[Callable[[Tensor], Explained], str]:
        """Return what maps a batch of images (B, C, H, W) to its explanation, and its name."""
        model, kind = saved.model, self._kind(saved.model)
        if self.class_name is not None and kind != "grad_cam":
            raise ConfigError(f"task.class_name: {kind} is not of one class; set task.map=grad_cam")
        depth = len(model.encoder.layers)
        if self.layer is not None and self.layer >= depth:
            raise ConfigError(f"task.layer: got {self.layer}; this backbone has {depth} layers, 0 to {depth - 1}")
        layer = depth - 1 if self.layer is None else self.layer
        if kind == "grad_cam":
            target = self._target(saved.recipe.classes, saved.objective.labels_are)
            at = "" if self.layer is None else f", layer {layer}"
            of = "" if self.class_name is None else f" of {self.class_name}"
            return partial(_by_gradients, model, target, self.layer), f"Grad-CAM{of}{at}"
        if kind == "queries":
            if not isinstance(model.readout, Queries):
                raise ConfigError("task.map=queries: the run's method has no queries; set task.map=attention")
            indices = model.readout.indices
            layer = indices[-1] if self.layer is None else layer
            if layer not in indices:
                raise ConfigError(f"task.layer: got {layer}; the run has queries on {', '.join(map(str, indices))}")
            return partial(_by_queries, model, layer), f"attention of the queries, layer {layer}"
        num_pooled(model.encoder)  # raises ConfigError for a backbone without a token for the class
        said = f"attention rolled out to layer {layer}" if kind == "rollout" else f"attention, layer {layer}"
        if kind == "rollout":
            return partial(_by_rollout, model, range(layer + 1)), f"{said}, of the class token"
        return partial(_by_attention, model, layer), f"{said}, of the class token"

    def _kind(self, model: Model) -> Map:
        if self.map != "auto":
            return self.map
        if isinstance(model.readout, Queries):
            return "queries"
        trunk = model.encoder.trunk
        token = "contexts" not in trunk.lacks and trunk.num_read < model.encoder.num_tokens
        return "attention" if token else "grad_cam"

    def _target(self, classes: Sequence[str], labels_are: str) -> Callable[[Tensor], Tensor]:
        """Return what picks the explained one of the outputs (B, C): that of the class asked for, else the largest; of
        several numbers none is largest in a way that means anything, so the first."""
        name = None if self.class_name is None else str(self.class_name)
        if name is not None and name not in classes:
            raise ConfigError(f"task.class_name: the run knows no {one_line(name)!r}{nearest(name, list(classes))}")
        if name is not None or labels_are == "numbers":
            index = 0 if name is None else classes.index(name)
            return lambda outputs: outputs[:, index]
        return lambda outputs: outputs.max(dim=1).values


@torch.no_grad()
def _by_attention(model: Model, layer: int, images: Tensor) -> Explained:
    """Explain by the attention of the tokens that are pooled, in one layer."""
    with noted_weights(model.encoder, [layer]) as noted:
        outputs = model(images)
    return _of_pooled(model, outputs, noted[0].mean(dim=1))  # a readout may look at the same layer afterwards


@torch.no_grad()
def _by_rollout(model: Model, layers: Sequence[int], images: Tensor) -> Explained:
    """Explain by the attention of the tokens that are pooled, rolled out over the layers from the first."""
    with noted_weights(model.encoder, layers) as noted:
        outputs = model(images)
    return _of_pooled(model, outputs, rollout(noted[: len(layers)], model.encoder.num_tokens))


def _of_pooled(model: Model, outputs: Tensor, rows: Tensor) -> Explained:
    """Return the explanation by the rows (B, Q, N) of attention, of which the leading ones are pooled."""
    values = on_patches(rows[:, : num_pooled(model.encoder)].mean(dim=1), model.encoder)
    return Explained(outputs, values, values.sum(dim=(1, 2)))


@torch.no_grad()
def _by_queries(model: Model, layer: int, images: Tensor) -> Explained:
    """Explain by the attention of VQT's queries in one layer, the mean over heads and queries."""
    seen = model.observe(images, model.readout.reads)
    with noted_weights(model.encoder, [layer]) as noted:
        outputs = model.logits(model.readout(seen))
    values = on_patches(noted[0].mean(dim=(1, 2)), model.encoder)
    return Explained(outputs, values, values.sum(dim=(1, 2)))


def _by_gradients(model: Model, target: Callable[[Tensor], Tensor], layer: int | None, images: Tensor) -> Explained:
    values = grad_cam(model, images, target, layer=layer)
    with torch.no_grad():
        return Explained(model(images), values, None)


def _edge(model: Model) -> int:
    """Return by how many pixels what the backbone sees exceeds the image on each side."""
    return 0 if model.encoder.border is None else model.encoder.border.thickness


def overlay(values: Tensor, picture: Image.Image, geometry: Geometry, *, edge: int = 0) -> Image.Image:
    """Return a picture under the colours of a map (h, w), whose largest value is the last colour; in grey where a
    centre crop does not show it. `edge`: px that the map exceeds the image by, on each side."""
    factor = math.ceil(_SMALLEST / max(picture.size)) if max(picture.size) < _SMALLEST else 1
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    height, width = sides_of(geometry.size)
    whole = F.interpolate(values[None, None], size=(height + 2 * edge, width + 2 * edge), mode="bilinear")
    rows, columns = geometry.shown_part(*picture.size)
    shown = (rows.stop - (rows.start or 0), columns.stop - (columns.start or 0))
    inner = F.interpolate(whole[:, :, edge : edge + height, edge : edge + width], size=shown, mode="bilinear")[0, 0]
    strength = (inner / inner.max().clamp(min=torch.finfo(inner.dtype).tiny)).numpy()
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None].repeat(3, axis=2)
    colours = 255 * matplotlib.colormaps[_COLOURS](strength)[..., :3]
    grey[rows, columns] = (1 - _OPACITY) * grey[rows, columns] + _OPACITY * colours
    return Image.fromarray(grey.round().astype(np.uint8))
