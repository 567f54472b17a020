"""This benchmark measures images a second of batches whose images belong to several adapters on one backbone.

    python benchmarks/serving.py [--model vit_tiny_patch16_224] [--method lora] [--adapters 1 8 64] [--batch 64]
        [--image-size 224]

`mixed` answers a batch in one pass, `switching` adapter by adapter, each with the images of its own; `one` is a batch
of a single adapter, answered by its own model: what no set of adapters can exceed by much. They take turns; the table
holds medians of one run. `memory` is that of all tensors, in backbones.
"""

import argparse
import copy
import tempfile
from itertools import chain
from pathlib import Path

import timm
import torch
from timing import medians
from torch import nn

import peft_vision
from peft_vision import AdapterSet


def filled(vit: nn.Module, method: str, count: int, folder: Path) -> AdapterSet:
    """Return a set of adapters of one method, with 10 or 100 classes and other values each."""
    adapters = AdapterSet(vit)
    models = [peft_vision.adapt(copy.deepcopy(vit).cpu(), method=method, num_classes=many) for many in (10, 100)]
    for number in range(count):
        path = folder / f"{number}.safetensors"
        model = models[number % len(models)]
        with torch.no_grad():
            for parameter in model.trained().values():
                parameter.add_(0.02 * torch.randn_like(parameter))
        peft_vision.save(model, path)
        adapters.add(f"adapter {number}", path)
    return adapters


def memory(adapters: AdapterSet) -> int:
    """Return the bytes of all tensors of the models of a set, those that lie in one place counted once."""
    models = [adapters.model(name) for name in adapters.names]
    tensors = chain.from_iterable([*model.parameters(), *model.buffers()] for model in models)
    return sum({(held := tensor.untyped_storage()).data_ptr(): held.nbytes() for tensor in tensors}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)

    vit = timm.create_model(options.model, num_classes=0, img_size=options.image_size).eval().to(device)
    backbone = sum(parameter.nbytes for parameter in vit.parameters())
    images = torch.randn(options.batch, 3, *vit.patch_embed.img_size, device=device)
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    setting = f"{options.model}, {options.method}, batches of {options.batch}, {options.image_size} px"
    print(f"{setting}, {device}, {threads}, torch {torch.__version__}\n")
    print("| adapters | mixed, images/s | switching, images/s | one, images/s | mixed / switching | memory |")
    print("|---|---|---|---|---|---|")
    for count in options.adapters:
        with tempfile.TemporaryDirectory() as folder:
            adapters = filled(vit, options.method, count, Path(folder))
        print(row(adapters, images, options.repeats, device, backbone))


def row(adapters: AdapterSet, images: torch.Tensor, repeats: int, device: torch.device, backbone: int) -> str:
    """Return a line of the table for a batch that is divided evenly among the adapters, in a mixed order."""
    names = [adapters.names[place % len(adapters)] for place in range(len(images))]
    places = {name: [place for place, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}

    def switching() -> None:
        with torch.no_grad():
            for name, own in places.items():
                adapters(images[own], name)

    contenders = {
        "mixed": lambda: adapters(images, names),
        "switching": switching,
        "one": lambda: adapters(images, [names[0]] * len(images)),
    }
    seconds = medians(contenders, repeats, device)
    rates = [f"{len(images) / seconds[name]:.1f}" for name in contenders]
    ratio = f"{seconds['switching'] / seconds['mixed']:.2f}"
    return f"| {len(adapters)} | {' | '.join(rates)} | {ratio} | {memory(adapters) / backbone:.2f} |"


if __name__ == "__main__":
    main()
