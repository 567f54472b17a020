"""This benchmark measures how much VPT-deep on Swin gains from projecting prompts once a step.

    python benchmarks/swin_step.py [--model swin_tiny_patch4_window7_224] [--prompts 10 50] [--batch 4] [--device cpu]

It times, in turns, a training step (forward and backward) of VPT-deep here, and one of the same model with the prompts
copied into every window before attention, as in the paper's code. It prints medians as ratios. `kept` is the memory
that autograd keeps for the backward pass, parameters left out.
"""

import copy

import torch
from timing import backbone_for, batch_for, kept_mib, medians, step_options, training_step
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision


class PromptedWindows(nn.Module):
    """timm's attention of windows (B * W, A, D) with prompts in front of each, whose outputs are thrown away:
    fresh ones replace them before the next block."""

    def __init__(self, attention: WindowAttention, block: SwinTransformerBlock, prompts: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.norm = (block.norm1,)  # in a tuple, so not registered twice
        self.prompts = nn.Parameter(prompts.detach().clone())

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B * W, A, D) to (B * W, A, D)."""
        attention, count = self.attention, len(self.prompts)
        prompts = self.norm[0](self.prompts).expand(len(windows), -1, -1)
        tokens = torch.cat([prompts, windows], dim=1)
        q, k, v = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * attention.scale) @ k.mT + F.pad(attention._get_rel_pos_bias(), (count, 0, count, 0))
        if mask is not None:
            scores = scores.unflatten(0, (-1, len(mask))) + F.pad(mask, (count, 0, count, 0)).unsqueeze(1)
            scores = scores.flatten(0, 1)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return attention.proj(mixed)[:, count:]


def copying(swin: nn.Module, model: nn.Module) -> nn.Module:
    """Return a module that computes the same function as `model` with prompts in every window."""
    swin = copy.deepcopy(swin).requires_grad_(False)
    blocks = [block for group in swin.layers for block in group.blocks]
    for block, layer in zip(blocks, model.encoder.layers, strict=True):
        block.attn = PromptedWindows(block.attn, block, layer.context.prompts)
    return nn.Sequential(swin, copy.deepcopy(model.head))


def main() -> None:
    options, device = step_options(__doc__, model="swin_tiny_patch4_window7_224", prompts=[10, 50], batch=4, repeats=5)
    swin = backbone_for(options, drop_path_rate=0.0)
    images, labels = batch_for(swin, options)
    print("prompts  speed-up over copies in every window  kept MiB here / with copies")
    for num_prompts in options.prompts:
        ours = peft_vision.adapt(swin, method="vpt_deep", num_classes=100, num_prompts=num_prompts).to(device)
        copied = copying(swin, ours).to(device)
        torch.testing.assert_close(ours(images), copied(images), rtol=1e-4, atol=1e-4)
        seconds = medians(
            {
                "ours": lambda ours=ours: training_step(ours, images, labels),
                "theirs": lambda copied=copied: training_step(copied, images, labels),
            },
            options.repeats,
            device,
        )
        speed_up = seconds["theirs"] / seconds["ours"]
        print(f"{num_prompts:7}  {speed_up:37.2f}  {kept_mib(ours, images):13.0f} / {kept_mib(copied, images):.0f}")


if __name__ == "__main__":
    main()
