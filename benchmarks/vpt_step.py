"""This benchmark measures how much VPT-deep gains from never computing the prompts' outputs.

    python benchmarks/vpt_step.py [--model vit_small_patch16_224] [--size 224] [--prompts 10 50 100] [--batch 8]

It times, in turns, a training step (forward and backward) of VPT-deep here, one of the same model with prompts
concatenated in front of every timm block, and a forward pass without gradients, and prints medians as ratios. `kept` is
the memory that autograd keeps for the backward pass, parameters left out.
"""

import copy

import torch
from timing import backbone_for, batch_for, kept_mib, medians, step_options, training_step
from torch import Tensor, nn

import peft_vision


class ConcatenatingBlock(nn.Module):
    """A timm block with fresh prompts behind the class token and registers, where rotary positions leave them alone,
    and without the prompts of the block before, as in the paper. The last block's prompts are not pooled."""

    def __init__(self, block: nn.Module, prompts: Tensor, *, prefix: int, first: bool, last: bool) -> None:
        super().__init__()
        self.block = block
        self.prompts = nn.Parameter(prompts.detach().clone())
        self.prefix = prefix
        self.skipped = prefix if first else prefix + len(prompts)
        self.last = last
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens += len(prompts)

    def forward(self, tokens: Tensor, **positions: Tensor) -> Tensor:
        prompts = self.prompts.expand(len(tokens), -1, -1)
        prompted = torch.cat([tokens[:, : self.prefix], prompts, tokens[:, self.skipped :]], dim=1)
        tokens = self.block(prompted, **positions)
        if not self.last:
            return tokens
        return torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix + len(self.prompts) :]], dim=1)


def concatenating(vit: nn.Module, model: nn.Module) -> nn.Module:
    """Return a module that computes the same function as `model` by concatenation."""
    vit = copy.deepcopy(vit).requires_grad_(False)
    for index, block in enumerate(vit.blocks):
        vit.blocks[index] = ConcatenatingBlock(
            block,
            model.encoder.layers[index].context.prompts,
            prefix=vit.num_prefix_tokens,
            first=index == 0,
            last=index == len(vit.blocks) - 1,
        )
    return nn.Sequential(vit, copy.deepcopy(model.head))


def main() -> None:
    options, device = step_options(__doc__, model="vit_small_patch16_224", prompts=[10, 50, 100], batch=8, repeats=10)
    vit = backbone_for(options)
    images, labels = batch_for(vit, options)
    print("prompts  speed-up over concatenation  step / forward pass  kept MiB here / concatenated")
    for num_prompts in options.prompts:
        ours = peft_vision.adapt(vit, method="vpt_deep", num_classes=100, num_prompts=num_prompts).to(device)
        concatenated = concatenating(vit, ours)
        torch.testing.assert_close(ours(images), concatenated(images), rtol=1e-4, atol=1e-4)

        def forward() -> None:
            with torch.no_grad():
                vit(images)

        seconds = medians(
            {
                "ours": lambda ours=ours: training_step(ours, images, labels),
                "theirs": lambda concatenated=concatenated: training_step(concatenated, images, labels),
                "forward": forward,
            },
            options.repeats,
            device,
        )
        speed_up, forwards = seconds["theirs"] / seconds["ours"], seconds["ours"] / seconds["forward"]
        print(
            f"{num_prompts:7}  {speed_up:27.2f}  {forwards:19.2f}"
            f"  {kept_mib(ours, images):13.0f} / {kept_mib(concatenated, images):.0f}"
        )


if __name__ == "__main__":
    main()
