"""This benchmark compares a step of many settings at once, as optimizer=grid trains a method, with steps of each.

    python benchmarks/methods_together.py [--model vit_tiny_patch16_224] [--size 96] [--batch 16] [--settings 1 4 8]
                                          [--seeds 1]

For each method and number of settings S it prints the time of one step of all together as a multiple of S steps of one
setting, or, with K seeds, each with images of its own, of S x K steps. They take turns; the times are medians of the
CPU's seconds, or of the clock on a GPU.
"""

import argparse
from time import perf_counter, process_time

import timm
import torch
from timing import medians

import peft_vision
from peft_vision.core.composition import option
from peft_vision.core.config import build
from peft_vision.core.distributed import World
from peft_vision.models.model import Model
from peft_vision.optimizer.base import AdamW
from peft_vision.optimizer.grid import Grid
from peft_vision.schedule.schedules import Constant
from peft_vision.training.step import Batch
from peft_vision.training.together import Together
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer

_CLASSES = 100
METHODS = {
    "lora": {"method": "lora"},
    "lora, last 6 layers": {"method": "lora", "layers": "last-6"},
    "vpt_deep": {"method": "vpt_deep", "num_prompts": 10},
    "bitfit": {"method": "bitfit"},
}


def training(device: torch.device, model: Model, seeds: int) -> Training:
    """Return a training in which other seeds begin with the same values, which cost what any do."""
    return Training(
        schedule=Constant(warmup=0.0),
        seed=0,
        workers=0,
        world=World(rank=0, size=1, device=device),
        state=TrainState(),
        record=lambda row: None,
        save=lambda state: None,
        initial={seed: model.tuned_state() for seed in range(1, seeds)},
    )


def shuffled(batch: Batch, seed: int) -> Batch:
    """Return the images of a batch in another order, in memory of their own."""
    order = torch.randperm(batch.size, generator=torch.Generator().manual_seed(seed)).to(batch.parts[0][1].device)
    return Batch([(images[order], labels[order]) for images, labels in batch.parts], batch.size)


def compared(model: Model, batch: Batch, count: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds of a step of `count` settings at once, and of a step of one."""
    device = torch.device(options.device)
    trainer: Trainer = build({**option("trainer", "default"), "batch_size": options.batch}, Trainer, "trainer")
    here = training(device, model, options.seeds)
    rates = tuple(1e-3 * 2**-number for number in range(count))
    rule = {"algorithm": "adamw", "betas": (0.9, 0.999), "momentum": 0.9}
    grid = Grid(lr=rates, weight_decay=(0.01,), seeds=tuple(range(options.seeds)), **rule)
    together = Together(model, grid, trainer, here)
    batches = [shuffled(batch, seed) for seed in range(options.seeds)]
    together.check_same(batches)
    single = Together(model, grid, trainer, here).members[0].model  # a copy
    optimizer = AdamW(lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, decays="matrices")
    update = trainer.updates(single, optimizer.create(single, seed=0), here.world)
    contenders = {"together": lambda: together.update(batches, 1.0), "alone": lambda: update(batch, 1e-3)}
    clock = process_time if device.type == "cpu" else perf_counter
    found = medians(contenders, options.repeats, device, clock=clock)
    return found["together"], found["alone"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--settings", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    vit = timm.create_model(options.model, num_classes=0, img_size=options.size).eval()
    images = torch.randint(0, 256, (options.batch, 3, options.size, options.size), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (options.batch,))
    batch = Batch([(images.to(options.device), labels.to(options.device))], size=options.batch)
    where = f"{options.device}, torch {torch.__version__}"
    print(f"{options.model}, {options.size} px, batch {options.batch}, seeds: {options.seeds}, {where}")
    print(f"| method | {' | '.join(f'{count} settings' for count in options.settings)} |")
    print("|---" * (len(options.settings) + 1) + "|")
    for name, values in METHODS.items():
        zero = {"dropout": 0.0} if "dropout" in option("method", values["method"]) else {}
        model = peft_vision.adapt(vit, num_classes=_CLASSES, **values, **zero).to(options.device).train()
        cells = []
        for count in options.settings:
            together, alone = compared(model, batch, count, options)
            cells.append(f"{together / (count * options.seeds * alone):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
