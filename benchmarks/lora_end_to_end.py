"""This benchmark times a whole LoRA run by the command against a plain script of timm, peft and a DataLoader.

    python benchmarks/lora_end_to_end.py [--data FOLDER --checkpoint FILE] [--repeats 2]

FOLDER holds train/<class>/ and test/<class>/. Without it a folder of random pictures is drawn and the weights are
random, so that accuracies say nothing. The settings are those of experiment=cifar10_1000: ViT-Ti/16 at 96 px, 1,000
images, 12 epochs, batches of 32; LoRA of rank 8 on the fused qkv, AdamW with a cosine schedule, all test images scored
at the end. Both start from nothing in turns and are timed from outside. The script decodes each picture in every epoch,
in worker processes, as torchvision's ImageFolder does; the command decodes it once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from PIL import Image

SIZE = 96
MODEL = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def plain(data: Path, checkpoint: str, options: argparse.Namespace) -> float:
    """Train and score as a careful user's script does, and return the accuracy on the test images."""
    import timm
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    torch.manual_seed(0)
    resized = [transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(SIZE)]
    as_tensor = transforms.Compose([*resized, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    train, test = (ImageFolder(data / part, as_tensor) for part in ("train", "test"))
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: options.images]
    loading = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    batches = DataLoader(Subset(train, chosen.tolist()), options.batch_size, shuffle=True, **loading)

    model = timm.create_model(MODEL, img_size=SIZE, num_classes=len(train.classes), checkpoint_path="")
    if checkpoint:
        timm.models.load_checkpoint(model, checkpoint, strict=False, filter_fn=_without_head(model))
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(batches))
    for _ in range(options.epochs):
        model.train()
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in DataLoader(test, 256, num_workers=options.workers):
            right += int((model(images).argmax(dim=1) == labels).sum())
    return right / len(test)


def _without_head(model: object) -> object:
    """Return a filter of a checkpoint's tensors: timm's own, without the head of other classes."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    def filtered(state: dict, _: object) -> dict:
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        return checkpoint_filter_fn(kept, model)

    return filtered


def command(data: Path, checkpoint: str, options: argparse.Namespace, runs: Path) -> float:
    """Train and score by the command, and return the accuracy on the test images."""
    words = [sys.executable, "-m", "peft_vision.cli", "experiment=cifar10_1000", f"data.path={data}", "method=lora"]
    words += ["method.targets=[qkv]", f"runs={runs}", f"data.train_size={options.images}", "tracker=none"]
    words += [f"trainer.epochs={options.epochs}", f"trainer.batch_size={options.batch_size}"]
    words += [f"backbone.checkpoint={checkpoint}"] if checkpoint else ["backbone.pretrained=false"]
    subprocess.run(words, check=True, capture_output=True)
    (result,) = runs.glob("*/result.json")
    return json.loads(result.read_text())["metrics"]["test/accuracy"]


def draw(folder: Path, images: int) -> None:
    """Write random pictures of 32 x 32: `images` to train on in ten classes, and twice as many to test on."""
    generator = np.random.default_rng(0)
    for part, count in {"train": images, "test": 2 * images}.items():
        for place in range(count):
            path = folder / part / f"class{place % 10}" / f"{place:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="run the plain script alone and print its accuracy")
    options = parser.parse_args()
    if options.plain:
        print(plain(options.data, options.checkpoint, options))
        return
    seconds: dict[str, list[float]] = {"script": [], "command": []}
    accuracy: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.data is None:
            draw(folder / "data", options.images)
        data = (options.data or folder / "data").resolve()
        words = [sys.executable, __file__, "--plain", f"--data={data}", f"--checkpoint={options.checkpoint}"]
        words += [f"--{name}={getattr(options, name)}" for name in ("images", "epochs", "workers")]
        words += [f"--batch-size={options.batch_size}"]
        for turn in range(options.repeats):
            started = perf_counter()
            printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            seconds["script"].append(perf_counter() - started)
            accuracy["script"] = float(printed)
            started = perf_counter()
            accuracy["command"] = command(data, options.checkpoint, options, folder / f"runs{turn}")
            seconds["command"].append(perf_counter() - started)
    print("| | seconds, each turn | test accuracy, % |\n|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {', '.join(f'{one:.1f}' for one in taken)} | {100 * accuracy[name]:.1f} |")
    ratio = median(ours / theirs for ours, theirs in zip(seconds["command"], seconds["script"], strict=True))
    print(f"\ncommand / script: {ratio:.2f}")


if __name__ == "__main__":
    main()
