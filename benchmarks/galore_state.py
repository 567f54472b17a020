"""This benchmark measures what optimizers keep between steps: the bytes of their state after two steps of noise.

python benchmarks/galore_state.py [--model vit_base_patch16_224] [--rank 64]
"""

import argparse

import timm
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import peft_vision
from peft_vision.core.config import CONFIG_DIR, build
from peft_vision.optimizer.base import Stepper
from peft_vision.optimizer.restore import footprint

MIB = 2**20


def state_bytes(model_name: str, *choices: str) -> float:
    """Return the bytes of the state of the optimizer that these overrides compose."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", ["data=digits", *choices], return_hydra_config=False)
    node, method = config.optimizer, config.method
    torch.manual_seed(0)
    vit = timm.create_model(model_name, num_classes=0)
    options = {} if method._target_.endswith("Full") else {"rank": method.rank}
    name = "full" if method._target_.endswith("Full") else "lora"
    model = peft_vision.adapt(vit, method=name, num_classes=100, **options)
    stepper = build(OmegaConf.to_container(node, resolve=True), Stepper, "optimizer").create(model, seed=0)
    for _ in range(2):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        stepper.step()
    return footprint(stepper)["state_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--rank", type=int, default=64)
    options = parser.parse_args()
    galore = ("method=full", "optimizer=galore_adamw", f"optimizer.rank={options.rank}", "optimizer.basis=randomised")
    rows = {
        "adamw": ("method=full", "optimizer=adamw"),
        "galore_adamw": galore,
        "galore_adamw, 8 bit": (*galore, "optimizer.bits=8"),
        "galore_sgd": (*galore, "optimizer.algorithm=sgd"),
        "apollo": ("method=full", "optimizer=apollo", f"optimizer.rank={options.rank}"),
        "lora, adamw": ("method=lora", "optimizer=adamw"),
    }
    print(f"{options.model}, rank {options.rank}, head of 100 classes, torch {torch.__version__}")
    print("                     state, MiB  saved, %")
    whole = 0.0
    for name, choices in rows.items():
        held = state_bytes(options.model, *choices)
        whole = whole or held
        print(f"{name:19}  {held / MIB:10.1f}  {100 * (1 - held / whole):8.1f}")


if __name__ == "__main__":
    main()
