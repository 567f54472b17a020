"""This benchmark measures the memory that a training step of each method needs beyond the weights.

    python benchmarks/memory.py [--model vit_base_patch16_224] [--batch 16] [--device cpu] [METHOD ...]

Each method trains for three steps in a process of its own. On a CPU the figure is the most resident memory during the
steps less what was resident before them, on a GPU the most that torch had allocated less what it had before. Nothing is
stored: `vqt` sends the images through the backbone, as with augmented or too many images. METHOD is a name, or a name
with options such as vqt:num_queries=10.
"""

import argparse
import subprocess
import sys

import timm
import torch
from timing import training_step

import peft_vision
from peft_vision.core.environment import forget_peak, peak_mib

METHODS = ["vpt_shallow", "linear", "vqt", "vqt:num_queries=10", "vqt:num_queries=20", "vpt_deep", "full"]


def measure(method: str, options: argparse.Namespace) -> float:
    """Return the MiB that training steps of the method need beyond what was held before them."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    name, _, values = method.partition(":")
    settings = dict(value.split("=") for value in values.split(",") if value)
    vit = timm.create_model(options.model, num_classes=0)
    model = peft_vision.adapt(vit, method=name, num_classes=100, **{key: int(value) for key, value in settings.items()})
    del vit
    model.to(device).train()
    images = torch.randn(options.batch, 3, *model.encoder.vit.patch_embed.img_size, device=device)
    labels = torch.randint(0, 100, (options.batch,), device=device)
    with torch.no_grad():
        model(images[:1])  # what libraries allocate once
    forget_peak(device)
    before = peak_mib(device)
    for _ in range(3):
        training_step(model, images, labels)
    return peak_mib(device) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options.methods[0], options))
        return
    print(f"{options.model}, batch {options.batch}, {options.device}, fp32, torch {torch.__version__}")
    common = ["--child", "--model", options.model, "--batch", str(options.batch), "--device", options.device]
    first = None
    for method in options.methods:
        command = [sys.executable, __file__, method, *common]
        mib = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        first = first or mib
        each, share = mib / options.batch, mib / first
        print(f"{method:22}{mib:8.0f} MiB{each:8.1f} MiB an image{share:7.2f} of {options.methods[0]}")


if __name__ == "__main__":
    main()
