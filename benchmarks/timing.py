"""This module measures the time of contenders that take turns, and the memory that autograd keeps."""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Run forward and backward on one batch."""
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()


def kept_mib(model: nn.Module, images: Tensor) -> float:
    """Return the MiB that autograd keeps after one forward pass, without the parameters."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    return sum(kept.values()) / 2**20


def step_options(
    text: str | None, *, model: str, prompts: list[int], batch: int, repeats: int
) -> tuple[argparse.Namespace, torch.device]:
    """Read a command line whose defaults these are, seed the random numbers, and return the device too."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model)
    parser.add_argument("--prompts", type=int, nargs="+", default=prompts)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="side of the images in pixels; the model's own without it")
    options = parser.parse_args()
    torch.manual_seed(0)
    return options, torch.device(options.device)


def backbone_for(options: argparse.Namespace, **arguments: object) -> nn.Module:
    """Return timm's model of that name and size, with random weights, on the device."""
    size = {} if options.size is None else {"img_size": options.size}
    return timm.create_model(options.model, num_classes=0, **size, **arguments).eval().to(torch.device(options.device))


def batch_for(backbone: nn.Module, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Say what is measured, and return images and labels on the device."""
    device = torch.device(options.device)
    threads = torch.get_num_threads()
    print(f"{options.model}, batch {options.batch}, {device}, {threads} threads, torch {torch.__version__}")
    images = torch.randn(options.batch, 3, *backbone.patch_embed.img_size, device=device)
    return images, torch.randint(0, 100, (options.batch,), device=device)


def medians(
    contenders: dict[str, Callable[[], None]],
    repeats: int,
    device: torch.device,
    *,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each; the contenders take turns, so that a slow moment of the machine affects all of
    them. `clock`: time.process_time counts the CPU's seconds, on a machine that others use."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 2):  # two rounds to warm up
        for name, contender in contenders.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = clock()
            contender()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                seconds[name].append(clock() - started)
    return {name: median(times) for name, times in seconds.items()}
