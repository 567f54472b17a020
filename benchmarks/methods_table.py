"""This benchmark runs every method on the same small task with the same budget, for the table of docs/results.md.

    python benchmarks/methods_table.py --out FOLDER [--methods lora,ssf] experiment=cifar10_1000 data.path=... [...]

Further arguments go to `peft-vision` as they are. For each method three learning rates are tried with seed 0 on the
training images less a fifth, and scored on that fifth; the best rate (of equal ones the smallest) is then used on all
training images with seeds 0, 1 and 2, and each of these runs reads the test images once. Finished runs are not
repeated, so the same command continues where it was stopped, and prints the table once all runs are done.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

PROBES, CHANGES, WEIGHTS = ("3e-3", "1e-2", "3e-2"), ("1e-3", "3e-3", "1e-2"), ("1e-4", "3e-4", "1e-3")
"""Learning rates for what is added beside a frozen stream or as tokens, for what changes it, for whole weights."""
METHODS = {
    **dict.fromkeys(("linear", "head2toe", "vqt", "vpt_shallow", "vpt_deep"), PROBES),
    **dict.fromkeys(("full", "partial"), WEIGHTS),
    **dict.fromkeys(("lora", "lora_dora", "ssf", "bitfit", "layer_norm", "convpass", "repadapter"), CHANGES),
    **dict.fromkeys(("adaptformer", "adapter_plus", "adapter_houlsby", "adapter_pfeiffer"), CHANGES),
    **dict.fromkeys(("fact_tt", "fact_tk", "vpt_bias", "vpt_lora", "vqt_lora", "vqt_adaptformer", "vqt_vpt"), CHANGES),
}
OPTIONS = {"lora_dora": ("method=lora", "method.dora=true")}
HEADER = "| method | trained in the method, in the head | validation at each rate | rate | test accuracy, % |"


def results(folder: Path, *arguments: str) -> list[dict]:
    """Run what is left of the sweep that `arguments` describe, and return all its results."""
    command = [sys.executable, "-m", "peft_vision.cli", "-m", f"runs={folder}", "tracker=none", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def row(name: str, out: Path, common: list[str]) -> tuple[float, str]:
    """Return the method's mean test accuracy in percent, and its line of the table."""
    options = OPTIONS.get(name, (f"method={name}",))
    rates = f"optimizer.lr={','.join(METHODS[name])}"
    tuned = results(out / "tune" / name, *common, *options, rates, "seed=0", "data.val_fraction=0.2")
    scores = {run["config"]["optimizer"]["lr"]: 100 * run["metrics"]["val/accuracy"] for run in tuned}
    losses = {run["config"]["optimizer"]["lr"]: run["metrics"]["val/loss"] for run in tuned}
    best = max(sorted(scores), key=lambda rate: (scores[rate], -losses[rate]))  # as everywhere: docs/protocol.md
    final = results(out / "final" / name, *common, *options, f"optimizer.lr={best}", "seed=0,1,2")
    accuracies = [100 * run["metrics"]["test/accuracy"] for run in final]
    sizes = final[0]["parameters"]
    tried = ", ".join(f"{scores[rate]:.1f}" for rate in sorted(scores))
    line = f"| `{name}` | {sizes['method']:,}, {sizes['head']:,} | {tried} | {best:g} | "
    return mean(accuracies), line + f"{mean(accuracies):.1f} ± {stdev(accuracies):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, with commas between them")
    options, common = parser.parse_known_args()
    rows = [row(name, options.out.absolute(), common) for name in options.methods.split(",")]
    print(HEADER, "|---|---|---|---|---|", *(line for _, line in sorted(rows)), sep="\n")


if __name__ == "__main__":
    main()
