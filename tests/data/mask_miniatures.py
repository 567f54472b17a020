"""Small sets of pictures with masks, drawn: `masked(folder, count)` and what it is made of."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "road", "car")
VOID = 9


def pixels(key: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (height, width, 3) and its mask (height, width), which only `key` decides: patches of 4 pixels, of one
    class each, whose colour says which. The first patch is void."""
    generator = np.random.default_rng(key)
    patches = generator.integers(0, len(CLASSES), (-(-height // 4), -(-width // 4)), dtype=np.uint8)
    patches[0, 0] = VOID
    mask = np.kron(patches, np.ones((4, 4), dtype=np.uint8))[:height, :width]
    return np.stack([mask * 25, 255 - mask * 25, np.full_like(mask, 7)], axis=-1), mask


def drawn(root: Path, images: str, masks: str, *, names: list[str], first: int = 0, sides=(24, 20)) -> None:
    """Pictures and masks of these names, in folders below `root`."""
    for place, name in enumerate(names):
        picture, mask = pixels(first + place, *sides)
        for folder, values in ((images, picture), (masks, mask)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def masked(root: Path, counts: dict[str, int], **given) -> Path:
    """Splits of so many pictures each, in train/images, train/masks and so on."""
    for place, (split, count) in enumerate(counts.items()):
        names = [f"{number:02d}" for number in range(count)]
        drawn(root, f"{split}/images", f"{split}/masks", names=names, first=100 * place, **given)
    return root
