"""This module measures, in one process, a training step as a run makes it and the forward pass it is compared with.

A step begins with a random batch in memory and ends with updated weights. The forward pass, measured in turns with it,
is timm's own, of the bare backbone and a head, without gradients.
"""

import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peft_vision.core.config import ConfigError, build
from peft_vision.core.device_memory import DeviceRoom
from peft_vision.core.environment import forget_peak, peak_mib
from peft_vision.core.output import first_line
from peft_vision.core.preprocessing import Normalize
from peft_vision.core.seeding import derive
from peft_vision.core.stopping import follow_parent
from peft_vision.costs.setting import BenchSetting
from peft_vision.data.images import Source
from peft_vision.features.fill import observed_at_once
from peft_vision.method.base import Method
from peft_vision.models.model import Model
from peft_vision.models.observations import Observed
from peft_vision.training.checks import check_whole_batch
from peft_vision.training.inputs import Inputs
from peft_vision.training.step import Batch
from peft_vision.training.trainer import stepping

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Measured:
    """The measurements of one method. `parameters`: numbers of trained parameters in `method` and `head`, or the size
    of the `backbone`. `seconds`: medians of `forward`, `step` and, if observations can be stored, `stored_step`.
    `memory_mib`: memory that the steps needed beyond what was held before them; `peak_mib`: both together. `phase`: the
    phase that was measured, the first that is not a probe before all else."""

    parameters: dict[str, int]
    seconds: dict[str, float]
    memory_mib: float
    peak_mib: float
    phase: str | None


def measure_forward(setting: BenchSetting) -> Measured:
    """Measure the forward pass alone."""
    bare = _bare(setting)
    forward = _forward(bare, setting)
    memory = _memory(forward, bare, setting)
    size = sum(parameter.numel() for parameter in bare[1].parameters())
    return Measured({"backbone": size}, medians({"forward": forward}, setting), *memory, phase=None)


def measure_step(setting: BenchSetting, method: Mapping[str, Any]) -> Measured:
    """Measure a training step of `method`, in turns with a forward pass."""
    model = setting.model(build(method, Method, "method"))
    if model.phase.group == "probe":  # which costs what every probe does
        model.begin_next_phase(seed=derive(setting.seed, "initialisation"))
    counts = model.parameter_counts()
    setting.optimizer.check(model)
    check_whole_batch(model, setting.trainer, processes=1)
    images = setting.images()
    stepper = setting.optimizer.create(model, seed=setting.seed)
    update = setting.trainer.updates(model, stepper, setting.world)
    lr = setting.optimizer.lr * model.phase.lr_factor

    def steps(source: Source) -> Callable[[], Tensor]:
        batches = endless(source, setting)
        return lambda: update(next(batches), lr)

    step = steps(images)
    contenders = {"forward": forward_pass(setting), "step": step}
    if model.frozen is not None:
        contenders["stored_step"] = steps(observed(model, images, setting))
    with stepping(setting.optimizer, stepper), setting.trainer.rounded_once(model, setting.world.device):
        memory = _memory(step, model, setting)
        seconds = medians(contenders, setting)
    return Measured({"method": counts.method, "head": counts.head}, seconds, *memory, phase=model.phase.name)


def _bare(setting: BenchSetting) -> nn.Sequential:
    """Return a frozen module from images to logits: normalisation, timm's model and a head; for segmentation, a linear
    layer on the pooled features, so that its time is that of the backbone alone."""
    vit = setting.vit()
    segments = setting.head.reads != "features"
    head = (nn.Linear if segments else setting.head.build)(vit.num_features, setting.num_classes)
    bare = nn.Sequential(Normalize(setting.backbone.preprocessing()), vit, head)
    return bare.requires_grad_(False).eval().to(setting.world.device)


def forward_pass(setting: BenchSetting) -> Callable[[], None]:
    """Return a function that runs the bare backbone and a head on a new batch at each call."""
    return _forward(_bare(setting), setting)


def _forward(bare: nn.Module, setting: BenchSetting) -> Callable[[], None]:
    batches = endless(setting.images(), setting)
    compute = setting.trainer.compute(bare, setting.world)

    def forward() -> None:
        with torch.no_grad(), setting.trainer.autocast(setting.world.device):
            for images, _ in next(batches).parts:
                compute(images)

    return forward


def endless(source: Source, setting: BenchSetting) -> Iterator[Batch]:
    """Yield random batches on the device, epoch after epoch, as a run gets them."""
    inputs = Inputs(source, DeviceRoom(setting.world.device, {"data": "auto", "features": "auto"}))
    epochs = (setting.trainer.batches(inputs, setting.seed, epoch, workers=0, world=setting.world) for epoch in count())
    return chain.from_iterable(epochs)


def observed(model: Model, images: Source, setting: BenchSetting) -> Observed:
    """Return, in memory, the observations that the store would hold of `images`."""
    device = setting.world.device
    at_once = observed_at_once(setting.trainer.eval_batch_size, device)
    with torch.no_grad(), setting.trainer.autocast(device):
        batches = images.in_order(batch_size=at_once, workers=0)
        seen = [model.observe(pixels.to(device)) for pixels, _ in batches]
    rows = {kind: torch.cat([part.pack(kind).to("cpu", model.type_of(kind)) for part in seen]) for kind in model.frozen}
    return Observed(images.labels, rows)


def _memory(act: Callable[[], object], model: nn.Module, setting: BenchSetting) -> tuple[float, float]:
    """Return the MiB that `act` needs beyond what is held before its first call, gradients and the optimizer's state
    included, and the MiB held at the peak."""
    device = setting.world.device
    _rehearse(model, setting)
    forget_peak(device)
    before = peak_mib(device)
    for _ in range(setting.warmup):
        act()
    forget_peak(device)
    for _ in range(setting.steps):
        act()
    peak = peak_mib(device)
    return peak - before, peak


def _rehearse(model: nn.Module, setting: BenchSetting) -> None:
    """Pass one image through `model`, so that libraries allocate what they allocate once."""
    mode = model.training
    shown = setting.backbone.preprocessing()
    image = torch.zeros(1, *shown.shape, dtype=torch.uint8, device=setting.world.device)
    with torch.no_grad(), setting.trainer.autocast(setting.world.device):
        model.eval()(image)
    model.train(mode)


def medians(contenders: Mapping[Name, Callable[[], object]], setting: BenchSetting) -> dict[Name, float]:
    """Return the median seconds of one call of each; the contenders take turns, so that a slow moment of the machine
    affects all of them."""
    wait = torch.get_device_module(setting.world.device).synchronize
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    for _ in range(setting.warmup + setting.repeats):
        for name, act in contenders.items():
            wait()
            started = perf_counter()
            for _ in range(setting.steps):
                act()
            wait()
            seconds[name].append((perf_counter() - started) / setting.steps)
    return {name: median(taken[setting.warmup :]) for name, taken in seconds.items()}


@dataclass(frozen=True)
class Failure:
    """The reason, in one line, why a function returned nothing; `traceback` is for the author of the function."""

    reason: str
    traceback: str


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of `function(*arguments)`, called in a process of its own, or a Failure. The process ends with
    the call, however that ends, and with this process."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_call, args=(sender, function, arguments))
    try:
        process.start()
        sender.close()
        outcome = receiver.recv()
    except EOFError:
        process.join()
        outcome = Failure(_ending(process.exitcode), "")
    except BaseException:  # such as Ctrl-C or SIGTERM: the process only measures, so that nothing is lost
        if process.pid is not None:
            process.kill()
        raise
    finally:
        if process.pid is not None:
            process.join()
        receiver.close()
    return outcome


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Call `function` in the new process and send back its result, or a Failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this
    follow_parent()
    logging.getLogger("peft_vision").setLevel(logging.ERROR)
    try:
        outcome = function(*arguments)
    except ConfigError as error:
        outcome = Failure("; ".join(str(error).splitlines()), "")
    except Exception as error:
        said = f": {first_line(error)}" if str(error).strip() else ""
        outcome = Failure(f"{type(error).__name__}{said}", traceback.format_exc())
    sender.send(outcome)
    sender.close()


def _ending(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
    return f"its process ended {how}"
