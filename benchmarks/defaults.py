"""This benchmark compares each method's default learning rate with the best of a grid, chosen on validation.

    python benchmarks/defaults.py --methods linear lora --data "digits: data=digits data.train_size=500" \\
        "photos: data=image_folder data.path=photos" --backbones "micro: backbone=vit_micro"

For each method, data set and backbone one sweep tries the default rate times 1/100 to 10 and, if weights are decayed,
the default decay, none and a tenfold one. For each seed validation chooses the setting (of equal ones the smallest
rate). The last column is the test accuracy that the default loses against the chosen setting, mean over seeds; a loss
of more than --bound points is marked and sets the exit code. With --solvers a probe may also choose optimizer=grid and
lbfgs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml

from peft_vision.core.composition import option
from peft_vision.core.config import CONFIG_DIR

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
DECAYS = (0.0, 1.0, 10.0)


@dataclass(frozen=True)
class Case:
    """A method on a data set and a backbone; `arguments` choose the latter two."""

    method: str
    data: str
    backbone: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """The scores of one run: whether it is the default, its setting in words, its accuracies in percent, and its loss
    on validation."""

    is_default: bool
    setting: str
    lr: float
    seed: int
    val: float
    test: float
    val_loss: float


def named(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """Return arguments of the command by the name in front of the colon."""
    return {name.strip(): tuple(words.split()) for name, _, words in (text.partition(":") for text in texts)}


def sweeps(case: Case, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yield the arguments of each sweep of one case, without seeds."""
    lr = option("method", case.method)["lr"][options.optimizer]
    rates = ",".join(f"{lr * factor:.3g}" for factor in options.factors)
    decays = ",".join(f"{options.decay * factor:g}" for factor in options.decays)
    yield (f"optimizer={options.optimizer}", f"optimizer.lr={rates}", f"optimizer.weight_decay={decays}")
    if options.solvers and case.method == "linear":
        yield ("optimizer=grid",)
        yield ("optimizer=lbfgs",)


def scored(case: Case, folder: Path, options: argparse.Namespace) -> list[Scored]:
    """Run what has not been run yet, and return the scores of all runs."""
    for sweep in sweeps(case, options):
        seeds = ",".join(map(str, range(options.seeds)))
        words = ["-m", f"method={case.method}", *case.arguments, *sweep, f"seed={seeds}", f"runs={folder}"]
        words += ["tracker=none", "hydra.sweeper.report=null", *options.also]
        subprocess.run([sys.executable, "-m", "peft_vision.cli", *words], check=True, stdout=subprocess.DEVNULL)
    lr = option("method", case.method)["lr"][options.optimizer]
    found = []
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        optimizer, metrics = result["config"]["optimizer"], result["metrics"]
        steps = result["choices"]["optimizer"] == options.optimizer
        setting = (
            f"lr={optimizer['lr']:g} decay={optimizer['weight_decay']:g}" if steps else result["choices"]["optimizer"]
        )
        default = steps and abs(optimizer["lr"] / lr - 1) < 1e-6 and optimizer["weight_decay"] == options.decay
        val, test = 100 * metrics["val/accuracy"], 100 * metrics["test/accuracy"]
        found.append(
            Scored(default, setting, optimizer["lr"] if steps else 0.0, result["seed"], val, test, metrics["val/loss"])
        )
    return found


def loss(runs: list[Scored]) -> tuple[float, float, float, dict[str, int]]:
    """Return the default's test accuracy, mean over seeds; what it loses against the settings that validation chose, as
    mean and standard deviation over seeds; and how often each setting was chosen."""
    chosen: dict[str, int] = defaultdict(int)
    default, best = [], []
    for seed in sorted({run.seed for run in runs}):
        seed_runs = [run for run in runs if run.seed == seed]
        winner = min(seed_runs, key=lambda run: (-round(run.val, 9), run.val_loss, run.lr))
        chosen[winner.setting] += 1
        default += [run.test for run in seed_runs if run.is_default]
        best.append(winner.test)
    gaps = [high - low for low, high in zip(default, best, strict=True)]
    return mean(default), mean(gaps), stdev(gaps) if gaps[1:] else 0.0, dict(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="NAME: ARGUMENTS")
    parser.add_argument("--backbones", nargs="+", required=True, help="NAME: ARGUMENTS")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="of the default rate")
    parser.add_argument("--decays", type=float, nargs="+", default=DECAYS, help="of the default decay")
    parser.add_argument("--bound", type=float, default=1.5, help="points that a default may lose")
    parser.add_argument("--solvers", action="store_true")
    parser.add_argument("--runs", type=Path, help="where runs are kept, to go on from; else they are thrown away")
    parser.add_argument("--also", nargs="*", default=[], help="further arguments of every run")
    options = parser.parse_args()
    file = CONFIG_DIR / "optimizer" / f"{options.optimizer}.yaml"
    options.decay = float(yaml.safe_load(file.read_text())["weight_decay"])
    worst = 0.0
    print("| method | data | backbone | default, % | chosen on validation | loses, points |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for method in options.methods:
            for data, data_arguments in named(options.data).items():
                for backbone, backbone_arguments in named(options.backbones).items():
                    case = Case(method, data, backbone, (*data_arguments, *backbone_arguments))
                    folder = (options.runs or Path(scratch)) / f"{method}-{data}-{backbone}"
                    default, gap, deviation, chosen = loss(scored(case, folder.absolute(), options))
                    worst = max(worst, gap)
                    often = ", ".join(f"{setting} ({count})" for setting, count in chosen.items())
                    mark = " **" if gap > options.bound else ""
                    cells = [method, data, backbone, f"{default:.2f}", often, f"{gap:.2f} ± {deviation:.2f}{mark}"]
                    print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nworst {worst:.2f} points")
    sys.exit(worst > options.bound)


if __name__ == "__main__":
    main()
