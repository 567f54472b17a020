"""Each protocol's resolved values are those of the released configuration, or its head says that they are not."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

import released as code
from asked_runs import PROTOCOLS, asked
from peft_vision.core.config import CONFIG_DIR
from peft_vision.optimizer.grid import Grid
from peft_vision.optimizer.lbfgs import LBFGS
from peft_vision.runs.experiment import Experiment
from released import Released, fgvc

NORMALISED = {"backbone.normalization": "images are normalised as the weights expect"}
SMOOTH = {"rates": "moves with every step"}
SMALL = {"head.std": "heads begin small"}
DECAY = {"steps": "weight decay is what it says, of matrices and prompts"}
VPT = {**NORMALISED, **SMOOTH, **SMALL}
NOAH = {
    **NORMALISED,
    "rates": "the cosine moves with every step and ends at zero",
    "head.std": "heads begin smaller",
    "trainer.keep": "the last epoch",
    "stage": "tested once",
    "seeds": "seeds, the last epoch, tested once",
}
WITHOUT_BIASES = {"optimizer.decays": "biases are not decayed"}
SAME: Mapping[str, str] = {}
PROTOCOL: dict[str, dict[str, tuple[Released, Mapping[str, str]]]] = {
    "vtab/vpt": {
        "vpt_deep": (code.VPT_DEEP, VPT),
        "vpt_shallow": (code.VPT_SHALLOW, VPT),
        "linear": (code.VPT_LINEAR, VPT),
        "full": (code.VPT_FULL, {**VPT, **DECAY}),
        "bitfit": (code.VPT_FULL, {**VPT, **DECAY}),
    },
    "vtab/vpt_paper": {
        "vpt_deep": (code.VPT_DEEP, SAME),
        "vpt_shallow": (code.VPT_SHALLOW, SAME),
        "linear": (code.VPT_LINEAR, SAME),
        "full": (code.VPT_FULL, SAME),
        "bitfit": (code.VPT_FULL, SAME),
    },
    "vtab/vpt_convnext": {
        "vpt_shallow": (code.VPT_CONVNEXT, VPT),
        "linear": (code.CONVNEXT_LINEAR, VPT),
        "full": (code.CONVNEXT_FULL, {**VPT, **DECAY}),
    },
    "vtab/vpt_convnext_paper": {
        "vpt_shallow": (code.VPT_CONVNEXT, SAME),
        "linear": (code.CONVNEXT_LINEAR, SAME),
        "full": (code.CONVNEXT_FULL, SAME),
    },
    "vtab/vqt": {"vqt": (code.VQT, {**VPT, "phases": "the last phase trains at the whole rate"})},
    "vtab/vqt_paper": {"vqt": (code.VQT, SAME)},
    "vtab/lora": {
        "lora": (
            code.LORA,
            {
                **NOAH,
                "optimizer.lr": "validation chooses rate and decay",
                "optimizer.weight_decay": "validation chooses rate and decay",
                "method.initial": "attaching changes nothing",
            },
        )
    },
    "vtab/lora_paper": {"lora": (code.LORA, SAME)},
    "vtab/adapters": {
        "lora": (code.LORA, {**NOAH, "method.initial": "LoRA's attaching changes nothing"}),
        "adapter_pfeiffer": (code.ADAPTER, NOAH),
        "convpass": (code.CONVPASS, {**NOAH, **WITHOUT_BIASES}),
        "fact_tk": (code.FACT_TK, {**NOAH, **WITHOUT_BIASES}),
        "fact_tt": (code.FACT_TT, {**NOAH, **WITHOUT_BIASES}),
        "repadapter": (code.REPADAPTER, {**NOAH, **WITHOUT_BIASES}),
        "ssf": (
            code.SSF,
            {
                **{key: words for key, words in NOAH.items() if key != "backbone.normalization"},
                "backbone.name": "SSF has these weights, not AugReg's",
            },
        ),
        "adapter_plus": (
            code.ADAPTER_PLUS,
            {
                "data.source": "Adapter+'s figures are of lossless images",
                "head.std": "heads begin smaller",
                "rates": "the cosine moves with every step",
                "seeds": "three seeds",
            },
        ),
    },
    "vtab/adapters_paper": {
        "lora": (code.LORA, {"seeds": "NOAH's seed of 0"}),
        "adapter_pfeiffer": (code.ADAPTER, {"seeds": "NOAH's seed of 0"}),
        "convpass": (code.CONVPASS, SAME),
        "fact_tk": (code.FACT_TK, SAME),
        "fact_tt": (code.FACT_TT, SAME),
        "repadapter": (code.REPADAPTER, SAME),
        "ssf": (code.SSF, SAME),
        "adapter_plus": (
            code.ADAPTER_PLUS,
            {
                "data.source": "images are lossless",
                "rates": "Adapter+'s cosine begins behind its warm-up",
                "seeds": "it has three seeds",
                "stage": "the test images choose",
            },
        ),
    },
    "fgvc/vpt": {
        "vpt_deep": (fgvc(code.VPT_DEEP, base_rate=code.TEN - {0.05}), {**VPT, "seeds": "three seeds"}),
        "vpt_shallow": (fgvc(code.VPT_SHALLOW, base_rate=code.TEN - {0.05}), {**VPT, "seeds": "three seeds"}),
        "linear": (fgvc(code.VPT_LINEAR, optimizer={"SGD"}), {**VPT, "seeds": "three seeds"}),
        "full": (fgvc(code.VPT_FULL), {**VPT, **DECAY, "seeds": "three seeds"}),
        "bitfit": (fgvc(code.VPT_FULL), {**VPT, **DECAY, "seeds": "three seeds"}),
    },
    "fgvc/vpt_paper": {
        "vpt_deep": (fgvc(code.VPT_DEEP, base_rate=code.TEN - {0.05}), SAME),
        "vpt_shallow": (fgvc(code.VPT_SHALLOW, base_rate=code.TEN - {0.05}), SAME),
        "linear": (fgvc(code.VPT_LINEAR, optimizer={"SGD"}), SAME),
        "full": (fgvc(code.VPT_FULL), SAME),
        "bitfit": (fgvc(code.VPT_FULL), SAME),
    },
    "lp_ft_vs_ft": {
        "full": (code.LP_FT_FIRST, {**SMOOTH, "stage": "validation chooses"}),
        "lp_ft": (code.LP_FT_BEHIND, {**SMOOTH, "stage": "validation chooses"}),
    },
    "lp_ft_vs_ft_paper": {"full": (code.LP_FT, SAME), "lp_ft": (code.LP_FT, SAME)},
    "lp_ft_resnet50": {
        "full": (code.resnet50(code.LP_FT_FIRST), {**SMOOTH, "stage": "validation chooses"}),
        "lp_ft": (code.resnet50(code.LP_FT_BEHIND, eval_mode=True), {**SMOOTH, "stage": "validation chooses"}),
    },
    "lp_ft_resnet50_paper": {
        "full": (code.resnet50(code.LP_FT), SAME),
        "lp_ft": (code.resnet50(code.LP_FT, eval_mode=True), SAME),
    },
}
"""The released configuration of each method, and by key the words of the head that name a value as another."""
NOWHERE = {
    "vtab/vqt": {"linear", "full", "head2toe"},
    "vtab/adapters": {"adapter_houlsby", "bitfit", "layer_norm", "adaptformer"},
    "lp_ft_vs_ft_paper": {"linear", "vpt_deep", "lora"},
    "lp_ft_vs_ft": {"linear", "vpt_deep", "lora"},
    "lp_ft_resnet50": {"linear"},
    "lp_ft_resnet50_paper": {"linear"},
}
"""Methods whose settings no released code holds; the probe of LP-FT has a test of its own."""
NOWHERE |= {f"{name}_paper": methods for name, methods in NOWHERE.items() if name.startswith("vtab")}
CASES = [(name, method) for name, methods in PROTOCOL.items() for method in methods]


def runs(name: str) -> tuple[Experiment, ...]:
    return tuple(experiment for experiment, _ in asked(name))


def head(name: str) -> str:
    """The comment that a protocol opens with, as one line."""
    text = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    return re.sub(r"\s*\n# ?", " ", text[: text.index("\ndefaults:")])


def plain(value: Any) -> Any:
    """To six digits, so that a rate that was scaled is the same."""
    return float(f"{value:.6g}") if isinstance(value, float) and not isinstance(value, bool) else value


def rates(experiment: Experiment, lr: float) -> list[float]:
    """The rate of the last step of each epoch."""
    epochs = experiment.trainer.epochs
    return [lr * experiment.schedule.factor(7 * epoch + 6, 7 * epochs) for epoch in range(epochs)]


def own(experiment: Experiment, key: str) -> set[Any]:
    """The values that a run has for a key; several where a solver tries several."""
    optimizer, batch_size = experiment.optimizer, experiment.trainer.batch_size
    match key:
        case "optimizer":
            return {optimizer.algorithm if isinstance(optimizer, Grid) else type(optimizer).__name__}
        case "base_rate":
            return {lr * 256 / batch_size for lr in own(experiment, "optimizer.lr")}
        case "steps":
            adamw_values = (optimizer.eps, optimizer.decays) if type(optimizer).__name__ == "AdamW" else ()
            return {(type(optimizer).__name__, optimizer.weight_decay, *adamw_values)}
        case "queries_and_share":
            return {(experiment.method.num_queries, experiment.method.keep_fraction)}
        case "phases":
            return {tuple((phase.lr_factor, phase.live_readout) for phase in experiment.method.phases(None))}
        case "seeds" | "stage":
            decides = experiment.data.stage == "tune"
            return set() if decides else {experiment.seed if key == "seeds" else experiment.data.stage}
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    several = isinstance(optimizer, Grid) and isinstance(value, tuple)
    return set(value) if several else {value}


def has(experiments: list[Experiment], key: str, expected: Any) -> bool:
    """Whether the runs have exactly the `expected` values between them."""
    if key == "rates":
        settings = [(lr, experiment) for experiment in unlike(experiments) for lr in own(experiment, "optimizer.lr")]
        if isinstance(expected, dict):
            settings = [(lr, experiment) for lr, experiment in settings if lr in expected]
            assert settings
        of = expected.get if isinstance(expected, dict) else expected
        return all(rates(experiment, lr) == pytest.approx(of(lr), rel=1e-6) for lr, experiment in settings)
    found = set().union(*(own(experiment, key) for experiment in experiments))
    return set(map(plain, found)) == set(map(plain, expected))


def unlike(experiments: list[Experiment]) -> list[Experiment]:
    """One of those whose rates are the same."""
    kinds = {
        (repr(experiment.optimizer), repr(experiment.schedule), experiment.trainer.epochs): experiment
        for experiment in experiments
    }
    return list(kinds.values())


def test_every_method_of_every_protocol_is_compared_or_released_nowhere():
    assert PROTOCOL.keys() == PROTOCOLS.keys() | {"lp_ft_vs_ft", "lp_ft_resnet50"}
    for name, methods in PROTOCOL.items():
        assert {experiment.choices["method"] for experiment in runs(name)} == methods.keys() | NOWHERE.get(name, set())


@pytest.mark.parametrize(("name", "method"), CASES)
def test_values_are_those_of_the_released_code_or_named_in_the_head(name, method):
    released, otherwise = PROTOCOL[name][method]
    assert otherwise.keys() <= released.values.keys()
    experiments = [experiment for experiment in runs(name) if experiment.choices["method"] == method]
    for key, expected in released.values.items():
        same = has(experiments, key, expected)
        assert same != (key in otherwise), f"{key}: {released.source}"
    for key, words in otherwise.items():
        assert words in head(name), key


@pytest.mark.parametrize("name", ["lp_ft_vs_ft_paper", "lp_ft_resnet50_paper"])
def test_lp_ft_solves_for_the_strengths_of_its_code(name):
    linear = next(experiment for experiment in runs(name) if experiment.choices["method"] == "linear")
    behind = next(experiment for experiment in runs(name) if experiment.choices["method"] == "lp_ft")
    for solver in (linear.optimizer, behind.probe):
        assert isinstance(solver, LBFGS)
        assert list(solver.C) == pytest.approx(list(code.STRENGTHS), rel=1e-3)
    assert behind.method.eval_mode
