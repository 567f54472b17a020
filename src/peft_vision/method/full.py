"""Full fine-tuning: every parameter of the backbone trains, and drop path and dropout are active as it does."""

from peft_vision.backbone.encoder import Encoder
from peft_vision.config import component
from peft_vision.method.base import Method


@component
class Full(Method):
    def attach(self, encoder: Encoder) -> None:
        """Trains all of it."""
        encoder.requires_grad_(True)
