"""Released configurations, value by value, as they stand in the published codes.

KMnP/vpt, andytu28/VQT, ZhangYuanhan-AI/NOAH, JieShibo/PETL-ViT, luogen1996/RepAdapter, dongzelian/SSF,
visinf/adapter_plus and AnanyaKumar/transfer_learning. A value is a set where the code tries several. `base_rate` is the
rate for batches of 256; `rates` are those of all epochs for the rate of a setting.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

DECAYS = {0.01, 0.001, 0.0001, 0.0}
TEN = {50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05}
FIVE_SEEDS = {42, 44, 82, 100, 800}


@dataclass(frozen=True)
class Released:
    """`source`: the files that say so, of a repository."""

    source: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def but(self, source: str, **values: Any) -> "Released":
        """The same with other values, or further ones, from another file; dots are written as two underscores."""
        named = {key.replace("__", "."): value for key, value in values.items()}
        return Released(f"{self.source}; {source}", {**self.values, **named})


def timms(start: float, floor: float, rate: float) -> list[float]:
    """The rates of timm's scheduler, stepped when an epoch is over."""
    stepper = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = CosineLRScheduler(stepper, t_initial=100, warmup_t=10, lr_min=floor, warmup_lr_init=start)
    found = []
    for epoch in range(100):
        found.append(stepper.param_groups[0]["lr"])
        scheduler.step(epoch)
    return found


def by_epoch(warmup: int, epochs: int, rate: float) -> list[float]:
    """VPT's WarmupCosineSchedule, src/solver/lr_scheduler.py, or torch's CosineAnnealingLR without a warm-up."""
    cosine = [(1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2 for epoch in range(epochs)]
    return [rate * (epoch / warmup if epoch < warmup else cosine[epoch]) for epoch in range(epochs)]


def lightnings(start: float, floor: float, rate: float) -> list[float]:
    """Adapter+'s LinearWarmupCosineAnnealingLR, modeling/lr_scheduler.py, stepped when an epoch is over."""
    late = [max(0, epoch - 1) for epoch in range(100)]
    cosine = [floor + (rate - floor) * (1 + math.cos(math.pi * (epoch - 10) / 90)) / 2 for epoch in late]
    return [start + epoch * (rate - start) / 9 if epoch < 10 else cosine[place] for place, epoch in enumerate(late)]


VPT = Released(
    "KMnP/vpt: tune_vtab.py, configs/base-*.yaml, src/solver/{optimizer,lr_scheduler}.py, src/data/tf_dataset.py",
    {
        "backbone.name": {"vit_base_patch16_224.orig_in21k"},
        "backbone.normalization": {"imagenet"},
        "data.source": {"tfds"},
        "data.augment": {"none"},
        "data.resize": {"squash"},
        "head.std": {"fan_out"},  # src/models/mlp.py: kaiming_normal_, mode fan_out
        "trainer.epochs": {100},
        "trainer.keep": {"last"},
        "rates": lambda rate: by_epoch(10, 100, rate),
        "seeds": FIVE_SEEDS,
    },
)
VPT_DEEP = VPT.but(
    "demo.ipynb",
    optimizer={"SGD"},
    optimizer__momentum={0.9},
    base_rate=TEN,
    optimizer__weight_decay=DECAYS,
    trainer__batch_size={128, 64},
    method__dropout={0.1},
)
VPT_SHALLOW = VPT_DEEP.but("demo.ipynb", method__dropout={0.0})
VPT_LINEAR = VPT.but(
    "configs/base-linear.yaml",
    optimizer={"sgd"},
    optimizer__momentum={0.9},
    base_rate=TEN,
    optimizer__weight_decay=DECAYS,
    trainer__batch_size={1024},
)
VPT_FULL = VPT.but(
    "configs/base-finetune.yaml",
    base_rate={0.001, 0.0001, 0.0005, 0.005},
    trainer__batch_size={384},
    rates=lambda rate: by_epoch(5, 100, rate),
    steps={("AdamW", 0.01, 1e-6, "weights"), ("SGD", 0.0)},
)
VPT_CONVNEXT = VPT.but(
    "tune_vtab.py: prompt_resnet; src/models/convnext.py",
    backbone__name={"convnext_base.fb_in22k"},
    optimizer={"SGD"},
    optimizer__momentum={0.9},
    base_rate={5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01},
    optimizer__weight_decay=DECAYS,
    trainer__batch_size={128},
    method__location={"pad"},
)
CONVNEXT_LINEAR = VPT_LINEAR.but("tune_vtab.py: linear", backbone__name={"convnext_base.fb_in22k"})
CONVNEXT_FULL = VPT_FULL.but(
    "tune_vtab.py: finetune_resnet",
    backbone__name={"convnext_base.fb_in22k"},
    base_rate={0.5, 0.25, 0.05, 0.025, 0.005, 0.0025, 0.0005, 0.00025},
)
FGVC = {
    "data.source": {"release"},
    "data.augment": {"crop_flip"},
    "data.resize": {"crop"},
    "seeds": {0},
}


def fgvc(vtab: Released, **values: Any) -> Released:
    """The configuration for FGVC, which has that of VTAB-1k but for its data."""
    named = {key.replace(".", "__"): value for key, value in FGVC.items()}
    return vtab.but("tune_fgvc.py, src/data/transforms.py", **named, **values)


VQT = VPT.but(
    "andytu28/VQT: head2toe_train.py, head2toe_sparsity_train.py, run_demo_exp.sh, scripts/VQT/*.sh",
    backbone__name={"vit_base_patch16_224.augreg_in1k"},  # the nearest; its own is a file on a drive
    optimizer={"Adam"},
    base_rate={1.0, 0.5, 0.25, 0.1, 0.05},
    optimizer__weight_decay=DECAYS,
    trainer__batch_size={128},
    method__dropout={0.1},
    queries_and_share={(1, 0.7), (10, None), (20, None)},
    phases={((1.0, False), (0.5, True), (0.5, True)), ((1.0, False),)},
)
NOAH = Released(
    "ZhangYuanhan-AI/NOAH: configs/*/VTAB/*.sh, supernet_train_prompt.py, model/supernet_vision_transformer_timm.py",
    {
        "backbone.name": {"vit_base_patch16_224.orig_in21k"},
        "backbone.normalization": {"imagenet"},
        "backbone.drop_path": {0.1},
        "data.source": {"processed"},  # data/vtab-source/get_vtab1k.py saves JPEGs
        "data.augment": {"none"},
        "data.resize": {"squash"},
        "head.std": {0.02},
        "optimizer": {"AdamW"},
        "optimizer.lr": {1e-3},
        "optimizer.weight_decay": {1e-4},
        "optimizer.eps": {1e-8},
        "optimizer.decays": {"matrices"},
        "trainer.batch_size": {64},
        "trainer.epochs": {100},
        "trainer.keep": {"best"},
        "trainer.label_smoothing": {0.0},
        "rates": lambda rate: timms(1e-6, 1e-5, rate),
        "seeds": {0},
        "stage": {"peek"},
    },
)
LORA = NOAH.but(
    "experiments/LoRA/ViT-B_prompt_lora_8.yaml",
    method__targets={("qkv",)},
    method__rank={8},
    method__scale={1.0},
    method__dropout={0.1},
    method__initial={"backbone"},
)
ADAPTER = NOAH.but(
    "experiments/Adapter/ViT-B_prompt_adapter_8.yaml, model/module/adapter_super.py",
    method__placement={"mlp"},
    method__rank={8},
    method__scale={1.0},
    method__dropout={0.1},
    method__activation={"quick_gelu"},
    method__initial={"backbone"},
)
PETL = NOAH.but("JieShibo/PETL-ViT: FacT/fact_*.py, convpass/vtab/train.py", optimizer__decays={"all"}, seeds={42})
SCALES = {0.01, 0.1, 1.0, 10.0, 100.0}
CONVPASS = PETL.but(
    "convpass/vtab/convpass.py, configs/convpass/*.yaml",
    method__rank={8},
    method__scale=SCALES,
    method__dropout={0.1},
    method__initial={"identity", "xavier"},
)
FACT_TK = PETL.but("FacT/configs/tk/*.yaml", method__rank={16, 32}, method__scale=SCALES, method__dropout={0.1})
FACT_TT = PETL.but("FacT/configs/tt/*.yaml", method__rank={4, 8, 16}, method__scale=SCALES, method__dropout={0.1})
REPADAPTER = PETL.but(
    "luogen1996/RepAdapter: train.py, repadapter.py, scripts/search_repblock.sh",
    method__rank={8},
    method__groups={2},
    method__scale={0.1, 0.5, 1.0, 5.0, 10.0},
    method__dropout={0.1},
)
SSF = NOAH.but(
    "dongzelian/SSF: train_scripts/vit/vtab/*/train_ssf.sh",
    backbone__name={"vit_base_patch16_224.augreg_in21k"},
    backbone__normalization={"own"},
    backbone__drop_path={0.0, 0.1, 0.2},
    optimizer__lr={1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2},
    optimizer__weight_decay={5e-5, 5e-2},
    rates={5e-3: timms(1e-7, 1e-8, 5e-3)},  # of the commonest rate
    seeds={42},  # timm's default
)
ADAPTER_PLUS = NOAH.but(
    "visinf/adapter_plus: conf/**, modeling/adaptermodel.py, adapter_plus/vit_adapter.py",
    backbone__normalization={"own"},
    trainer__keep={"last"},
    method__placement={"layer"},
    method__rank={8},
    method__activation={"gelu"},
    method__initial={"small"},
    method__channel_scale={True},
    method__dropout={0.0},
    method__drop_path={0.1},
    data__source={"tfds"},
    seeds={18, 45, 25},
    stage={"final"},  # of 100 epochs, the last, val_every_n_epoch: 100
    rates=lambda rate: lightnings(rate / 100, rate / 1000, rate),
)
LP_FT = Released(
    "AnanyaKumar/transfer_learning: scripts/run_adaptation_experiments.py, configs/adaptation/cifar_stl.yaml",
    {
        "optimizer": {"SGD"},
        "optimizer.momentum": {0.9},
        "optimizer.weight_decay": {0.0},
        "optimizer.lr": {3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2},
        "trainer.batch_size": {64},
        "trainer.epochs": {20},
        "trainer.keep": {"best"},
        "rates": lambda rate: by_epoch(0, 20, rate),
        "seeds": {0, 1, 2},
        "stage": {"peek"},
    },
)
LP_FT_FIRST = LP_FT.but("its first commit", optimizer__lr={3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2})
LP_FT_BEHIND = LP_FT.but("lp_then_ft_experiments, val_mode", optimizer__lr={1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7})


def resnet50(lp_ft: Released, *, eval_mode: bool = False) -> Released:
    """The configuration with MoCo v2's ResNet-50, whose batch norms keep their statistics in evaluation mode alone."""
    values = {"backbone__name": {"resnet50.tv_in1k"}, "data__augment": {"none"}, "data__resize": {"squash"}}
    return lp_ft.but("use_net_val_mode", method__eval_mode={eval_mode}, **values)


STRENGTHS = tuple(10 ** (-7 + 9 * place / 49) for place in range(50))
