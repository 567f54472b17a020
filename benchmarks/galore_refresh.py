"""This benchmark compares the time to find the subspaces of a backbone's matrices with galore-torch's, and the results.

    python benchmarks/galore_refresh.py [--model vit_base_patch16_224] [--rank 64] [--batch 96] [--device cpu]

The gradients are those of one batch of noise and random weights; in the last block only the class token counts, so that
the gradients there have no more dimensions than the batch has images. The algorithms take turns at each matrix.
`overlap` is the squared cosine to the subspace that a decomposition in float64 finds, the mean over its dimensions and
the least over all matrices. `power` starts from the subspace of another batch's gradient.
"""

import argparse
from collections.abc import Callable
from time import perf_counter

import timm
import torch
from galore_torch.galore_projector import GaLoreProjector
from timing import training_step
from torch import Tensor

import peft_vision
from peft_vision.optimizer.projection import leading

MATRICES = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")
PART = 16  # images at a time
ALGORITHMS = ("eigh", "svd", "randomised", "power")


def gradients(options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Return the gradients of each matrix, in one batch and in another."""
    torch.manual_seed(0)
    vit = timm.create_model(options.model, num_classes=0)
    model = peft_vision.adapt(vit, method="full", num_classes=100).to(options.device).train()
    size = model.encoder.vit.patch_embed.img_size
    batches: list[list[Tensor]] = []
    for _ in range(2):
        matrices = [p for name, p in model.named_parameters() if "blocks" in name and name.endswith(MATRICES)]
        sums = [torch.zeros_like(matrix) for matrix in matrices]
        for start in range(0, options.batch, PART):
            count = min(PART, options.batch - start)
            images = torch.randn(count, 3, *size, device=options.device)
            training_step(model, images, torch.randint(0, 100, (count,), device=options.device))
            torch._foreach_add_(sums, [matrix.grad for matrix in matrices], alpha=count / options.batch)
        batches.append(sums)
    return list(zip(*batches, strict=True))


def theirs(gradient: Tensor, rank: int) -> Tensor:
    """Return galore-torch's basis of the shorter side, (d, rank)."""
    projector = GaLoreProjector(rank)
    if gradient.shape[0] >= gradient.shape[1]:
        return projector.get_orthogonal_matrix(gradient, rank, type="right").T
    return projector.get_orthogonal_matrix(gradient, rank, type="left")


def ours(gradient: Tensor, rank: int, algorithm: str, before: Tensor | None = None) -> Tensor:
    """Return the basis of the shorter side, (d, rank), as this project finds it."""
    matrix = gradient.T if gradient.shape[0] >= gradient.shape[1] else gradient
    return leading(matrix, rank, algorithm=algorithm, before=before, seed=0)


def overlap(basis: Tensor, exact: Tensor) -> float:
    return float((basis.double().T @ exact).square().sum() / basis.shape[1])


def timed(act: Callable[[], Tensor]) -> tuple[float, Tensor]:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    started = perf_counter()
    basis = act()
    synchronize()
    return perf_counter() - started, basis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    pairs = gradients(options)
    seconds = dict.fromkeys(("galore-torch", *ALGORITHMS), 0.0)
    overlaps = dict.fromkeys(seconds, 1.0)
    for gradient, earlier in pairs:
        exact = ours(gradient.double(), options.rank, "svd")
        before = ours(earlier, options.rank, "eigh")
        contenders = {"galore-torch": lambda gradient=gradient: theirs(gradient, options.rank)}
        for name in ALGORITHMS:
            contenders[name] = lambda gradient=gradient, name=name, before=before: ours(
                gradient, options.rank, name, before
            )
        for name, act in contenders.items():
            took, basis = timed(act)
            seconds[name] += took
            overlaps[name] = min(overlaps[name], overlap(basis, exact))
    matrices = f"{len(pairs)} matrices of {options.model}, rank {options.rank}, batch {options.batch}"
    print(f"{matrices}, {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("              seconds  galore-torch's by it  least overlap")
    for name, total in seconds.items():
        print(f"{name:12}  {total:7.2f}  {seconds['galore-torch'] / total:20.1f}  {overlaps[name]:13.5f}")


if __name__ == "__main__":
    main()
