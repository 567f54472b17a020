"""This benchmark measures a run on a GPU against the model alone, and against Hugging Face's `peft` in a plain loop.

    python benchmarks/gpu.py [--models vit_base_patch16_224 vit_small_patch16_224] [--batch 64] [--rounds 5]

It prints Markdown, in images per second in bf16 (medians, and the lowest and highest of the rounds):

- `model alone`: updates with one batch that lies on the device; `run, device` and `run, host`: epochs of a run whose
  images lie on the device, or come from the CPU; `idle`: the share of an epoch in which no kernel runs;
- `peft`: Hugging Face's LoRA of the same rank on the same matrices, its step alone and its epochs with a DataLoader of
  worker processes and pinned memory, which crops and flips as the run does; `concatenation`: VPT-deep with prompts that
  are concatenated in front of every timm block; `here`: plain steps, and on a GPU those that are one CUDA graph;
- the modes of trainer.compile; and whether weights are the same, bit for bit, wherever images lie, which is tried with
  deterministic kernels in a process of its own.

`--tiny` is for a CPU: it shows that everything runs.
"""

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter

import timm
import torch
from lora_step import by_peft
from plain_loop import PlainLoop, loading
from torch import nn
from vpt_step import concatenating

import peft_vision
from peft_vision.core.device_memory import DeviceRoom
from peft_vision.core.distributed import World
from peft_vision.core.environment import forget_peak, peak_mib
from peft_vision.data.images import Images, shuffled
from peft_vision.models.model import Model
from peft_vision.optimizer.base import AdamW
from peft_vision.schedule.schedules import Constant
from peft_vision.training.inputs import Inputs
from peft_vision.training.step import Batch
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer

METHODS = {"lora": {"targets": ("qkv",)}, "vpt_deep": {}, "adaptformer": {}, "bitfit": {}, "linear": {}, "full": {}}
CLASSES = 100
ADAMW = AdamW(lr=1e-4, weight_decay=1e-4, betas=(0.9, 0.999), eps=1e-8, decays="matrices")
GIB = {"device": "auto", "host": 0.0}


class Bench:
    """The sizes of what is measured, and the measuring."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.world = World(rank=0, size=1, device=self.device)
        self.size = 32 if options.tiny else 224
        self.steps = {"here": {}}
        if self.device.type == "cuda":
            self.steps["here, `cuda_graph`"] = {"compile": "cuda_graph"}
        self.gib = {place: 1.0 if gib == "auto" and self.device.type == "cpu" else gib for place, gib in GIB.items()}
        generator = torch.Generator().manual_seed(0)
        shape = (options.images, 3, self.size, self.size)
        self.images = Images(
            torch.randint(0, CLASSES, shape[:1], generator=generator),
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "flip_crop",
        )

    def trainer(self, **changed: object) -> Trainer:
        values = {"epochs": 1, "batch_size": self.options.batch, "accumulate": 1, "eval_batch_size": self.options.batch}
        values |= {"clip_norm": None, "label_smoothing": 0.0, "precision": "bf16", "checkpointing": False}
        values |= {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
        values |= {"keep_predictions": False}
        return Trainer(**{**values, "compile": False, "save_seconds": 1e9, "keep": "last", **changed})

    def vit(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        small = {"img_size": self.size, "depth": 2} if self.options.tiny else {}
        return timm.create_model(name, num_classes=CLASSES, **small).eval()

    def model(self, name: str, method: str) -> Model:
        return peft_vision.adapt(self.vit(name), method=method, num_classes=CLASSES, **METHODS[method]).to(self.device)

    def rates(self, act: Callable[[], object], images: int) -> list[float]:
        """Return images per second of each round, of an act on so many images, after two rounds to warm up."""
        rates = []
        for number in range(self.options.rounds + 2):
            self.wait()
            started = perf_counter()
            act()
            self.wait()
            if number >= 2:
                rates.append(images / (perf_counter() - started))
        return rates

    def wait(self) -> None:
        torch.get_device_module(self.device).synchronize()

    def batch(self) -> Batch:
        inputs = self.images.pixels[: self.options.batch].to(self.device)
        return Batch([(inputs, self.images.labels[: self.options.batch].to(self.device))], size=self.options.batch)

    def alone(self, model: Model, trainer: Trainer) -> list[float]:
        """Return the rates of updates with one batch that lies on the device."""
        batch, steps = self.batch(), self.options.steps
        with trainer.rounded_once(model, self.device):
            stepper = ADAMW.create(model, seed=0)
            update = trainer.updates(model, stepper, self.world)
            return self.rates(lambda: [update(batch, 1e-4) for _ in range(steps)], steps * self.options.batch)

    def run(self, model: Model, place: str, **changed: object) -> list[float]:
        """Return the rates of the epochs of a run, after two to warm up, as its own clock tells them. `changed`:
        options of the trainer."""
        trainer, state, seconds = self.trainer(epochs=self.options.rounds + 2, **changed), TrainState(), []
        training = Training(
            schedule=Constant(warmup=0.0),
            seed=0,
            workers=self.options.workers,
            world=self.world,
            state=state,
            record=lambda row: seconds.append(state.train_seconds),
            save=lambda _: None,
            device_memory_gib={"data": self.gib[place], "features": self.gib[place]},
        )
        trainer.fit(model, self.images, None, training, optimizer=ADAMW)
        assert state.inputs["lie_on"] == place, state.inputs
        return [len(self.images) / (now - before) for before, now in pairwise(seconds[1:])]

    def idle(self, model: Model, place: str) -> float | None:
        """Return the share of an epoch, after a first one, in which no kernel runs; None on a CPU."""
        if self.device.type != "cuda":
            return None
        room = DeviceRoom(self.device, {"data": self.gib[place], "features": 0.0})
        trainer, inputs = self.trainer(), Inputs(self.images, room)
        with trainer.rounded_once(model, self.device):
            update = trainer.updates(model, ADAMW.create(model, seed=0), self.world)

            def epoch(number: int) -> None:
                for batch in trainer.batches(inputs, 0, number, self.options.workers, self.world):
                    update(batch, 1e-4)
                self.wait()

            epoch(0)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                started = perf_counter()
                epoch(1)
                seconds = perf_counter() - started
        spans = sorted((event.time_range.start, event.time_range.end) for event in profile.events())
        busy, reached = 0.0, 0.0
        for start, end in spans:  # kernels of both streams overlap
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return max(0.0, 1 - busy / 1e6 / seconds)


def shown(rates: list[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def runs_table(bench: Bench, name: str) -> Iterator[str]:
    """Yield the rows of a run against the model alone, for each method."""
    yield "| method | model alone | run, device | of alone | run, host | of alone | idle, device / host | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for method in bench.options.methods:
        forget_peak(bench.device)
        alone = bench.alone(bench.model(name, method), bench.trainer())
        peak = peak_mib(bench.device)
        epochs = {place: bench.run(bench.model(name, method), place) for place in GIB}
        idle = [bench.idle(bench.model(name, method), place) for place in GIB]
        parts = [f"{shown(rates)} | {100 * median(rates) / median(alone):.0f} %" for rates in epochs.values()]
        waits = " / ".join("—" if share is None else f"{100 * share:.0f} %" for share in idle)
        yield f"| `{method}` | {shown(alone)} | {' | '.join(parts)} | {waits} | {peak:,.0f} |"


def repeated(act: Callable[..., object], *arguments: object, times: int) -> None:
    for _ in range(times):
        act(*arguments)


def others_table(bench: Bench, name: str) -> Iterator[str]:
    """Yield the rows against Hugging Face's peft and against concatenation."""
    yield "| | step alone | epochs, of the step's rate | peak MiB |"
    yield "|---|---|---|---|"
    vit, batch = bench.vit(name), bench.batch()
    inputs, labels = batch.parts[0]
    ours = {method: bench.model(name, method) for method in ("lora", "vpt_deep")}
    vit.reset_classifier(0)
    rank = next(iter(ours["lora"].encoder.layers[0].attn.qkv.down.values())).shape[0]
    theirs = {
        "lora": ("peft", by_peft(bench.vit(name), rank).to(bench.device)),
        "vpt_deep": ("concatenation", concatenating(vit.to(bench.device), ours["vpt_deep"]).to(bench.device)),
    }
    for method, (label, model) in theirs.items():
        loop = PlainLoop(model, copy.deepcopy(ours[method].normalize), bench.device, bf16=True)
        forget_peak(bench.device)
        steps = partial(repeated, loop.step, inputs, labels, times=bench.options.steps)
        alone = bench.rates(steps, bench.options.steps * bench.options.batch)
        peak = peak_mib(bench.device)
        loader = loading(
            bench.images, batch_size=bench.options.batch, workers=bench.options.workers, device=bench.device
        )
        epochs = bench.rates(lambda loop=loop, loader=loader: loop.epoch(loader), len(bench.images))
        yield f"| `{method}`, {label} | {shown(alone)} | {shown(epochs)} | {peak:,.0f} |"
        for label, changed in bench.steps.items():
            forget_peak(bench.device)
            here_alone = bench.alone(bench.model(name, method), bench.trainer(**changed))
            peak = peak_mib(bench.device)
            here = bench.run(bench.model(name, method), "device", **changed)
            times = [f"{median(a) / median(b):.2f} times" for a, b in ((here_alone, alone), (here, epochs))]
            shares = f"{shown(here_alone)}, {times[0]} | {shown(here)}, {times[1]}"
            yield f"| `{method}`, {label} | {shares}, {100 * median(here) / median(here_alone):.0f} % | {peak:,.0f} |"


def compile_table(bench: Bench, name: str) -> Iterator[str]:
    """Yield the rows of the modes of trainer.compile, for LoRA."""
    yield "| trainer.compile | model alone | of false | seconds to compile and warm up |"
    yield "|---|---|---|---|"
    plain = None
    for mode in bench.options.compile:
        torch.compiler.reset()
        started = perf_counter()
        trainer = bench.trainer(compile={"false": False}.get(mode, mode))
        rates = bench.alone(bench.model(name, "lora"), trainer)
        measured = bench.options.rounds * bench.options.steps * bench.options.batch / median(rates)
        plain = plain or median(rates)
        first = max(0.0, perf_counter() - started - measured)
        yield f"| {mode} | {shown(rates)} | {median(rates) / plain:.2f} | {first:.0f} |"


def same_bits(bench: Bench, name: str) -> str:
    """Return whether batches, and the weights after two epochs, are equal wherever images lie."""
    torch.use_deterministic_algorithms(True)
    room = DeviceRoom(bench.device, {"data": bench.gib["device"], "features": 0.0})
    order = shuffled(len(bench.images), batch_size=bench.options.batch, seed=0, epoch=0)
    pairs = zip(
        Inputs(bench.images, room).batches(order, seed=5, workers=0),
        bench.images.batches(order, seed=5, workers=0),
        strict=True,
    )
    batches = all(torch.equal(ours.cpu(), cpus) for (ours, _), (cpus, _) in pairs)
    bench.options.rounds = 0
    states = []
    for place in GIB:
        model = bench.model(name, "lora")
        bench.run(model, place)
        states.append(model.tuned_state())
    weights = all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    return f"batches {'equal' if batches else 'DIFFER'}, weights {'equal' if weights else 'DIFFER'}"


def same_bits_elsewhere(bench: Bench) -> str:
    """Return what `same_bits` tells in a process whose products are deterministic, which on a CPU they are here."""
    if bench.device.type == "cpu":
        return same_bits(bench, [bench.options.compiled, *bench.options.models][-1])
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    told = subprocess.run([sys.executable, *sys.argv, "--bits"], env=environment, capture_output=True, text=True)
    return told.stdout.strip() or told.stderr.strip()[-400:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["vit_base_patch16_224", "vit_small_patch16_224"])
    parser.add_argument("--compiled", default="vit_tiny_patch16_224", help="the model of the modes of compile")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--compile", nargs="+", default=["false", "cuda_graph", "default", "reduce-overhead"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=2048, help="images of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="two layers, 32 px, few images: seconds on a CPU")
    parser.add_argument("--bits", action="store_true", help="only compare bits")
    options = parser.parse_args()
    if options.tiny:
        options.models, options.methods = ["vit_tiny_patch16_224"], ["lora", "linear"]
        options.compile = options.compile[:1]
        options.batch, options.images, options.rounds, options.steps, options.workers = 4, 10, 1, 1, 0
    started = perf_counter()
    bench = Bench(options)
    if options.bits:
        print(same_bits(bench, [options.compiled, *options.models][-1]))
        return
    named = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else str(bench.device)
    print(f"{named}, torch {torch.__version__}, timm {timm.__version__}; bf16, batches of {options.batch}, ", end="")
    print(f"{bench.size} px, medians of {options.rounds} rounds (lowest to highest), images per second")
    for name in options.models:
        print(f"\n{name}: a run\n", *runs_table(bench, name), sep="\n")
        print(f"\n{name}: others\n", *others_table(bench, name), sep="\n")
    print(f"\n{options.compiled}: trainer.compile, LoRA\n", *compile_table(bench, options.compiled), sep="\n")
    print(f"\nbits, device against host: {same_bits_elsewhere(bench)}")
    print(f"\n{perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
