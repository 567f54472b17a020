"""This benchmark measures how much VQT gains from the feature store and from folding the keys into the queries.

    python benchmarks/vqt_step.py [--model vit_base_patch16_224] [--queries 1 10] [--batch 16] [--device cpu]

It times a training step (forward and backward, queries with the dropout of the paper's runs) of VQT here, from images
and from stored observations, the fetch of a random batch from memory included; of the official way, which concatenates
the queries with the image's tokens, attends explicitly and lets autograd follow all of it; and of the same with torch's
fused attention. They take turns; medians are printed as ratios. `logits` is the largest difference of logits from the
official way, without dropout.
"""

import argparse

import timm
import torch
from timing import medians, training_step
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision
from peft_vision.models.observations import Observed

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Concatenating(nn.Module):
    """A module that computes VQT as its authors do, around untouched timm blocks, with the queries and the head of
    `model`."""

    def __init__(self, vit: nn.Module, model: nn.Module, *, fused: bool) -> None:
        super().__init__()
        self.vit = vit
        self.queries = nn.ParameterList(module.prompts.detach().clone() for module in model.readout.queries)
        self.head = nn.Linear(model.readout.width, model.head[-1].out_features)
        self.head.load_state_dict(model.head[-1].state_dict())
        self.dropout = nn.Dropout(model.readout.queries[0].dropout.p)
        self.fused = fused

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images (B, 3, S, S)."""
        tokens = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images)))
        summaries = []
        for block, queries in zip(self.vit.blocks, self.queries, strict=True):
            count = len(queries)
            queries = self.dropout(queries.expand(len(tokens), -1, -1))
            both = self._block(block, torch.cat([queries, tokens], dim=1), count)
            summaries.append(both[:, :count].flatten(1))
            tokens = both[:, count:]
        features = [self.vit.norm(tokens)[:, 0], *summaries]
        return self.head(torch.cat([F.normalize(feature) for feature in features], dim=1))

    def _block(self, block: nn.Module, tokens: Tensor, count: int) -> Tensor:
        attention = block.attn
        qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1, :, :, count:], qkv[2, :, :, count:]
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query * attention.scale @ key.mT).softmax(dim=-1) @ value
        tokens = tokens + attention.proj(mixed.transpose(1, 2).flatten(2))
        return tokens + block.mlp(block.norm2(tokens))


def stored(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Observed:
    """Return observations of `images`, four times over, so that a batch is not always the same memory."""
    model.round_observations_to(dtype)
    with torch.no_grad():
        seen = model.observe(images)
    rows = {kind: seen.pack(kind).repeat(4, *[1] * (seen.pack(kind).ndim - 1)) for kind in ("features", "contexts")}
    return Observed(
        torch.zeros(4 * len(images), dtype=torch.int64), {kind: row.to(dtype) for kind, row in rows.items()}
    )


def stored_step(model: nn.Module, source: Observed, labels: Tensor) -> None:
    """Fetch a batch from `source`, and run forward and backward."""
    indices = torch.randperm(len(source))[: len(labels)]
    seen, _ = next(source.batches([indices], seed=None, workers=0))
    training_step(model, seen, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--types", nargs="+", choices=list(TYPES), default=["fp16", "fp32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)

    vit = timm.create_model(options.model, num_classes=0).eval().requires_grad_(False).to(device)
    images = torch.randn(options.batch, 3, *vit.patch_embed.img_size, device=device)
    labels = torch.randint(0, 100, (options.batch,), device=device)
    threads = torch.get_num_threads()
    print(f"{options.model}, batch {options.batch}, {device}, {threads} threads, torch {torch.__version__}")
    for num_queries in options.queries:
        model = peft_vision.adapt(vit, method="vqt", num_classes=100, num_queries=num_queries).to(device).train()
        official = {fused: Concatenating(vit, model, fused=fused) for fused in (False, True)}
        contenders = {
            "official": lambda official=official: training_step(official[False], images, labels),
            "official, fused attention": lambda official=official: training_step(official[True], images, labels),
            "here, no store": lambda model=model: training_step(model, images, labels),
        }
        sources = {name: stored(model, images, TYPES[name]) for name in options.types}
        for name, source in sources.items():
            contenders[f"here, {name} store"] = lambda model=model, source=source: stored_step(model, source, labels)
        seconds = medians(contenders, options.repeats, device)
        expected = official[False].eval()(images)
        official[False].train()
        for name, taken in seconds.items():
            line = f"{num_queries:3} queries  {name:26}{seconds['official'] / taken:7.1f} times faster  {taken:7.3f} s"
            if "store" in name and "no" not in name:
                source = sources[name.split()[1]]
                seen, _ = next(source.batches([torch.arange(options.batch)], seed=None, workers=0))
                difference = (model.eval()(seen.to(device)) - expected).abs().max().item()
                model.train()
                size = sum(rows[0].nbytes for rows in source.rows.values()) / 2**20
                line += f"  logits {difference:.0e}  {size:.2f} MiB an image"
            print(line)


if __name__ == "__main__":
    main()
