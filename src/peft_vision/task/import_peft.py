"""This module turns a Hugging Face `peft` LoRA of a timm ViT into a folder for task=evaluate, predict and export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from peft_vision.backbone.load import Backbone, load_backbone
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError, build, component, shortened
from peft_vision.core.output import Console
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.exchange.hf_peft import Imported
from peft_vision.models.adapter import Recipe, load_tuned, write_adapter
from peft_vision.runs.run import place, refuse_run, writing
from peft_vision.task.base import Task


@component
class ImportPeft(Task):
    """A task that imports a LoRA of `peft`. `classes`: their names, in the order of the logits; None: as the folder
    says, else numbers. `resize`: how images are resized; None: as the folder says, else crop."""

    classes: tuple[str, ...] | None
    resize: Literal["squash", "crop"] | None

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Import the LoRA that was trained on `backbone`. ConfigError if the folder names other weights by hash."""
        folder, out = (Path(str(config[key])).expanduser().absolute() for key in ("file", "out"))
        refuse_run(out)
        backbone: Backbone = build(config["backbone"], Backbone, "backbone")
        try:
            imported = Imported(folder)
        except ValueError as error:
            raise ConfigError(f"file: {error}") from error
        recipe = self._recipe(imported, backbone)
        backbone.check()
        vit = load_backbone(backbone, seed=config["seed"])
        held, expected = backbone.record(vit), recipe.backbone["hash"]
        found = held["hash"]
        if expected not in (None, found):
            raise ConfigError(
                f"file: {folder} was trained on other weights ({recipe.backbone['name']}, hash {expected[:12]}) than "
                f"these (hash {found[:12]})\nchoose backbone=... and backbone.checkpoint=FILE to match"
            )
        recipe.backbone.update(held)
        model = recipe.assemble(vit, seed=0)
        try:
            load_tuned(model, imported.tensors)
        except ValueError as error:
            raise ConfigError(f"file: {folder} does not fit {backbone.name}: {error}") from error
        with writing(out, key="out"):
            out.mkdir(parents=True, exist_ok=True)
        place(out / "adapter.safetensors", lambda path: write_adapter(model, path), key="out")
        reading = imported.notes.get("data", {})
        kept = shortened(
            {
                "backbone": config["backbone"],
                "method": recipe.method,
                "data": {**reading, "resize": self.resize or reading.get("resize") or "crop"},
                "seed": config["seed"],
            }
        )
        place(
            out / "config.yaml",
            lambda path: path.write_text(yaml.safe_dump(kept, sort_keys=False)),
            key="out",
        )
        counts = model.parameter_counts()
        console = Console(soft_wrap=True)
        console.print(f"read      {counts.method:,} parameters of a LoRA, {counts.head:,} of its head")
        console.print(f"saved     {out}/adapter.safetensors and config.yaml")

    def _recipe(self, imported: Imported, backbone: Backbone) -> Recipe:
        """Return the recipe, with the hash of the weights that the LoRA was trained on, or None if it is unknown."""
        notes = imported.notes
        classes = tuple(str(index) for index in range(imported.num_classes))
        preprocessing, trained_on = backbone.preprocessing(), {"name": backbone.name, "hash": None}
        if notes:
            if (kind := notes["labels_are"]) != "classes":
                raise ConfigError(f"file: peft_vision.json: labels_are is {kind}, and imports have one class a picture")
            try:
                classes = tuple(notes["classes"])
                preprocessing = Preprocessing.restore(notes["preprocessing"])
                trained_on = {key: notes["backbone"][key] for key in ("name", "hash")}
            except (KeyError, ValueError) as error:
                raise ConfigError(f"file: peft_vision.json: {error}; remove it to go without") from error
            bits = notes["backbone"].get("frozen_bits")
            if bits != backbone.frozen_bits:
                meant, said = ("null" if one is None else one for one in (bits, backbone.frozen_bits))
                raise ConfigError(f"file: it was trained with backbone.frozen_bits={meant}, and here that is {said}")
        classes = self.classes or classes
        if len(classes) != imported.num_classes:
            raise ConfigError(f"task.classes: {len(classes)} names for the {imported.num_classes} outputs of the head")
        return Recipe(
            method=imported.method(),
            head=option("head", "linear"),
            classes=classes,
            preprocessing=preprocessing,
            backbone=trained_on,
        )
