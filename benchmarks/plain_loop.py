"""This module is the loop that benchmarks compare with: plain PyTorch, as a careful user writes it.

Images lie in memory as uint8; worker processes crop and flip them, one at a time, and page-locked memory carries the
batches to a GPU. A step is autocast where asked for, backward, and torch's own AdamW.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from peft_vision.data.augment import flip_crop
from peft_vision.data.images import Images


class Cropped(Dataset):
    """The images of a split, one at a time, cropped and flipped at random."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**31, ()))
        (cropped,) = flip_crop(self.images.pixels[index : index + 1], torch.tensor([index]), seed=seed)
        return cropped, self.images.labels[index]


def loading(images: Images, *, batch_size: int, workers: int, device: torch.device) -> DataLoader:
    """Return a loader of uint8 images and labels in a random order."""
    return DataLoader(
        Cropped(images),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


class PlainLoop:
    """The training of what requires a gradient in `model`, behind `normalize`, which takes uint8 images."""

    def __init__(self, model: nn.Module, normalize: nn.Module, device: torch.device, *, bf16: bool) -> None:
        self.model, self.normalize, self.device, self.bf16 = model.train(), normalize.to(device), device, bf16
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.stepper = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Update the model once by a batch on the device."""
        self.stepper.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(self.normalize(images)), labels)
        loss.backward()
        self.stepper.step()

    def epoch(self, loader: DataLoader) -> None:
        """Update the model by every batch of the loader."""
        for images, labels in loader:
            self.step(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))
