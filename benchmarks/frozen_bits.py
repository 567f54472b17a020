"""This benchmark measures what frozen matrices in 8 and 4 bit (`backbone.frozen_bits`) cost and save.

    python benchmarks/frozen_bits.py FOLDER [--model vit_tiny_patch16_224] [--checkpoint FILE] [--images 200]

FOLDER holds pictures, at any depth. For each number of bits it prints the MiB of the matrices in the blocks; how far
the features of the pictures move, as a share of their length (mean and highest), and their cosine with those of fp32;
for how many pictures the nearest of the others stays the same; and the CPU time of a training step of LoRA, forward and
backward, as a multiple of that with fp32 matrices (the contenders take turns; medians).
"""

import argparse
from functools import partial
from pathlib import Path
from time import process_time

import timm
import torch
from PIL import Image
from timing import medians, training_step
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

import peft_vision
from peft_vision.backbone.frozen_weights import frozen_bytes
from peft_vision.backbone.weights import load_weights

_BITS = (None, 8, 4)
_AT_ONCE = 20
_CLASSES = 10


def pictures(folder: Path, count: int, side: int) -> Tensor:
    """Return pictures of a folder, evenly spread over their sorted paths, (count, 3, side, side) in uint8."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    squashed = (Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for path in chosen)
    return torch.stack([pil_to_tensor(picture) for picture in squashed])


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.features(part) for part in images.split(_AT_ONCE)])


def nearest(found: Tensor) -> Tensor:
    """Return for each of the features the index of the most similar other one."""
    unit = F.normalize(found, dim=1)
    return (unit @ unit.T).fill_diagonal_(-1).argmax(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    options = parser.parse_args()
    torch.manual_seed(0)
    vit = timm.create_model(options.model, num_classes=0).eval()
    if options.checkpoint is not None:
        load_weights(vit, options.checkpoint)
    models = {
        bits: peft_vision.adapt(vit, method="lora", num_classes=_CLASSES, frozen_bits=bits).eval() for bits in _BITS
    }
    images = pictures(options.folder, options.images, vit.patch_embed.img_size[0])
    labels = torch.randint(0, _CLASSES, (options.batch,))

    def step(model: nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            training_step(model, images[: options.batch], labels)

    seen = {bits: features(model, images) for bits, model in models.items()}
    steps = {str(bits): partial(step, model) for bits, model in models.items()}
    seconds = medians(steps, options.repeats, torch.device("cpu"), clock=process_time)
    expected, neighbours = seen[None], nearest(seen[None])
    held = frozen_bytes(models[8].encoder)
    print(f"{options.model}, {options.images} pictures, batch {options.batch}, torch {torch.__version__}")
    print("| bits | MiB | features move, % | at most | cosine | same neighbour, % | step |")
    print("|---|---|---|---|---|---|---|")
    for bits, found in seen.items():
        moved = 100 * (found - expected).norm(dim=1) / expected.norm(dim=1)
        cosine = F.cosine_similarity(found, expected, dim=1).mean().item()
        same = 100 * (nearest(found) == neighbours).float().mean().item()
        num_bytes = 4 * held.numbers if bits is None else frozen_bytes(models[bits].encoder).num_bytes
        row = [bits or 32, f"{num_bytes / 2**20:.2f}", f"{moved.mean():.2f}", f"{moved.max():.2f}"]
        row += [f"{cosine:.5f}", f"{same:.1f}", f"{seconds[str(bits)] / seconds['None']:.2f}"]
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
