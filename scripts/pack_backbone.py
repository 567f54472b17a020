"""This script turns a run of full fine-tuning into a backbone file: the encoder in half precision, its preprocessing.

python scripts/pack_backbone.py runs/full-vit_micro-.../ src/peft_vision/backbone/vit_micro.safetensors
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save

from peft_vision.models.adapter import read_adapter

PREFIX = "encoder.vit."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("file", type=Path, help="safetensors file to write")
    options = parser.parse_args()

    recipe, tensors = read_adapter(options.run / "adapter.safetensors")
    result = json.loads((options.run / "result.json").read_text())
    encoder = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    halved = {name: tensor.to(torch.float16) for name, tensor in encoder.items()}
    furthest = max((halved[name].float() - tensor).abs().max().item() for name, tensor in encoder.items())
    metadata = {
        "preprocessing": json.dumps(recipe.preprocessing.record()),
        "trained_by": json.dumps({key: result[key] for key in ("name", "identity", "metrics")}),
    }
    options.file.write_bytes(save(halved, metadata=metadata))
    size = options.file.stat().st_size / 2**20
    print(f"{len(halved)} tensors, {size:.2f} MiB, largest change by half precision {furthest:.1e}")


if __name__ == "__main__":
    main()
