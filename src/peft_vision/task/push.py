"""This module pushes a saved adapter to the Hugging Face hub: the adapter file, the config, notes and a model card.

The pushed files name no folder of this machine: of absolute paths in the config only the last part is kept, and the
tracker, the device and the folders of runs are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from peft_vision.backbone.source import HUB, without_places
from peft_vision.core.config import ConfigError, component
from peft_vision.core.output import Console
from peft_vision.models.adapter import write_adapter
from peft_vision.models.on_hub import ADAPTER, CONFIG, check_access, check_repository, push
from peft_vision.runs.run import place, refuse_run, writing
from peft_vision.runs.saved import Saved, open_saved
from peft_vision.task.base import Task
from peft_vision.task.model_card import CARD, BackboneOrigin, CardFacts, backbone_origin, model_card, results_of

NOTES = "peft_vision.json"
FILES = (CARD, NOTES, CONFIG, ADAPTER)
_LEFT_OUT = ("tracker", "runs", "device", "task", "run", "checkpoint", "out")


@component
class Push(Task):
    """A task that pushes a saved adapter. `repo`: owner/name; `private`: whether only its owner may see it; `replace`:
    whether files of the same name in a repository with other content are replaced; `dry_run`: whether the folder is
    written only."""

    repo: str
    private: bool
    replace: bool
    dry_run: bool

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Write the folder and push it. ConfigError, with the folder kept, where the hub refuses it."""
        check_repository(self.repo)
        if not self.dry_run:
            check_access()
        saved = open_saved(str(config["run"]), checkpoint=config["checkpoint"], device=torch.device("cpu"))
        folder = saved.output(config["out"], "hub")
        if folder.resolve() == saved.folder.resolve():
            raise ConfigError(f"out: {folder} is the run itself; set another folder for the files that are pushed")
        refuse_run(folder)
        _write(saved, folder, self.repo)
        console = Console(soft_wrap=True)
        console.print(f"saved     {folder}: {', '.join(FILES)}")
        if self.dry_run:
            console.print("pushed    nothing, as task.dry_run=true asks")
            return
        pushed = push(folder, FILES, self.repo, private=self.private, replace=self.replace)
        seen_by = "private" if pushed.private else "public"
        console.print(f"pushed    {pushed.url} ({seen_by})" if pushed.is_new else f"pushed    before: {pushed.url}")
        console.print(f"loads by  import peft_vision; model = peft_vision.load({f'{HUB}{self.repo}'!r})")


def _write(saved: Saved, folder: Path, repository: str) -> None:
    """Write the files of the adapter into `folder`, each whole."""
    results = results_of(saved.folder)
    origin = backbone_origin(saved)
    facts = CardFacts(
        title=repository,
        library="peft-vision",
        loads=_loads(repository, origin),
        results=results,
        backbone=origin,
    )
    public = saved.recipe.without_places()
    notes = {
        "classes": list(saved.recipe.classes),
        "preprocessing": saved.recipe.preprocessing.record(),
        "backbone": public.backbone,
        "seed": saved.config["seed"],
        "metrics": {str(result.seed): result.metrics for result in results},
    }
    config = {key: value for key, value in saved.config.items() if key not in _LEFT_OUT}
    texts = {
        CARD: model_card(saved, facts),
        NOTES: f"{json.dumps(notes, indent=2)}\n",
        CONFIG: yaml.safe_dump(without_places(config), sort_keys=False),
    }
    for name, text in texts.items():
        place(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"), key="out")
    if public == saved.recipe:
        with writing(folder, key="out"):
            content = (saved.folder / ADAPTER).read_bytes()
        place(folder / ADAPTER, lambda path: path.write_bytes(content), key="out")
    else:
        place(folder / ADAPTER, lambda path: write_adapter(saved.model, path, recipe=public), key="out")


def _loads(repository: str, origin: BackboneOrigin) -> str:
    """Return the lines of Python that load the pushed model. Weights of the user's own are not in the repository."""
    name = repr(f"{HUB}{repository}")
    if origin.file is None:
        return f"import peft_vision\n\nmodel = peft_vision.load({name})  # images to logits"
    return "\n".join(
        [
            "import peft_vision, timm",
            "",
            f"vit = timm.create_model({origin.name!r}, num_classes=0)  # with the arguments in config.yaml",
            f"...  # load the weights {origin.file!r} into it",
            f"model = peft_vision.load({name}, vit)  # images to logits",
        ]
    )
