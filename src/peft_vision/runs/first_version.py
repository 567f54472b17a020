"""This module finds the runs that version 0.1.0 trained differently with the same values, so that they are not reused:

drop rates        a backbone that was not trained as a whole never dropped anything
initial values    FacT's factors and VPT's projection were not initialised as in their authors' code
precision         under bf16 the head computed in bf16 too, so that logits were rounded
random bases      were drawn without the run's seed
views             were fresh augmentations where there was no room to store them
head.norm=batch   used statistics of parts of a batch, or of one process's images
"""

from peft_vision.backbone.load import Backbone
from peft_vision.features.store import Features
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.optimizer.base import Optimizer
from peft_vision.runs.run_records import Result
from peft_vision.training.trainer import Trainer


def trained_otherwise(
    *,
    method: Method,
    backbone: Backbone,
    optimizer: Optimizer,
    head: Head,
    trainer: Trainer,
    features: Features,
    result: Result | None,
) -> bool:
    """Return whether version 0.1.0 trained something else with these values. `result`: that of the run in question,
    None if it has not ended."""
    environment = {} if result is None else result.environment
    on_gpu = environment.get("device", "cpu") != "cpu"
    rounded = trainer.precision == "bf16" or (trainer.precision == "auto" and on_gpu)
    splits = {} if result is None else result.store.splits
    without_room = features.views > 0 and (result is None or splits["train"].reason is not None)
    in_parts = trainer.accumulate != 1 or environment.get("processes", 1) > 1
    return (
        method.trained_otherwise(drops=backbone.drops)
        or rounded
        or vars(optimizer).get("basis") == "random"
        or without_room
        or (vars(head).get("norm") == "batch" and in_parts)
    )
