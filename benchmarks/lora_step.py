"""This benchmark compares a LoRA training step with that of Hugging Face's `peft` on the same timm backbone.

    python benchmarks/lora_step.py [--model vit_small_patch16_224] [--rank 8] [--batch 16] [--device cpu]

Both update the fused qkv of every layer at the same rank with the same scale and train a linear head; a step is
forward, backward and an update by AdamW. They take turns; medians are printed as ratios. `kept` is the memory that
autograd keeps after one forward pass; `peak` is the most memory that a few steps need beyond what was held before them,
each contender in a process of its own; `logits` is the largest difference of logits after both got the same updates.
"""

import argparse
import subprocess
import sys

import peft
import timm
import torch
from timing import kept_mib, medians, training_step
from torch import nn

import peft_vision
from peft_vision.core.environment import forget_peak, peak_mib

_STEPS = 3


def by_peft(vit: nn.Module, rank: int) -> nn.Module:
    """Return `vit` with the same updates by Hugging Face's peft."""
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"], modules_to_save=["head"])
    return peft.get_peft_model(vit, config)


def copy_updates(peft_model: nn.Module, ours: nn.Module) -> None:
    """Make both models compute the same, with updates that are not zero."""
    state = peft_model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if "lora_B" in name:
                tensor.normal_(0, 0.02)
        for index, layer in enumerate(ours.encoder.layers):
            prefix = f"base_model.model.blocks.{index}.attn.qkv.lora"
            layer.attn.qkv.down["qkv"].copy_(state[f"{prefix}_A.default.weight"])
            layer.attn.qkv.up["qkv"].copy_(state[f"{prefix}_B.default.weight"])
        head = "base_model.model.head.modules_to_save.default"
        ours.head[-1].weight.copy_(state[f"{head}.weight"])
        ours.head[-1].bias.copy_(state[f"{head}.bias"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.add_argument("--alone", choices=["peft", "here"], help="print the peak of this one and nothing else")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)

    vit = timm.create_model(options.model, num_classes=100).eval()
    ours = peft_vision.adapt(
        vit, method="lora", num_classes=100, targets=("qkv",), rank=options.rank, alpha=options.rank
    ).to(device)
    peft_model = by_peft(vit, options.rank).to(device)
    copy_updates(peft_model, ours)
    images = torch.randn(options.batch, 3, *vit.patch_embed.img_size, device=device)
    labels = torch.randint(0, 100, (options.batch,), device=device)
    with torch.no_grad():
        difference = (ours.eval()(images) - peft_model.eval()(images)).abs().max().item()

    def step_of(model: nn.Module):
        model.train()
        stepper = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                training_step(model, images, labels)
            stepper.step()

        return step

    steps = {"peft": step_of(peft_model), "here": step_of(ours)}
    if options.alone:
        forget_peak(device)
        before = peak_mib(device)
        for _ in range(_STEPS):
            steps[options.alone]()
        print(peak_mib(device) - before)
        return
    seconds = medians(steps, options.repeats, device)
    print(f"{options.model}, batch {options.batch}, rank {options.rank} on qkv, {device}, torch {torch.__version__}")
    for name, model in {"peft": peft_model, "here": ours}.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        line = f"{name}  {seconds['peft'] / seconds[name]:5.2f} times as fast  {seconds[name]:7.4f} s"
        line += f"  kept {kept_mib(model, images):7.1f} MiB  {trained:,} parameters"
        alone = subprocess.check_output([sys.executable, *sys.argv, "--alone", name], text=True)
        line += f"  peak {float(alone):,.0f} MiB"
        print(line)
    print(f"logits  {difference:.0e}")


if __name__ == "__main__":
    main()
