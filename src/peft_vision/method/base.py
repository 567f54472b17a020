"""What a method is: it adds what it tunes to a frozen encoder and lets it train."""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import PositiveFloat

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import INCIDENTAL, component


@component
class Method(ABC):
    """`lr`: the learning rate that suits this method with each optimizer; `optimizer.lr` starts from it."""

    lr: Annotated[dict[Literal["sgd", "adamw"], PositiveFloat], INCIDENTAL]

    @abstractmethod
    def attach(self, encoder: Encoder) -> None:
        """Adds parameters to `encoder`, or sets `requires_grad` on its own; all of it is frozen before. What trains
        afterwards is what `requires_grad` says, and exactly that is saved."""
