"""Every option of every method acts: another value trains something else, or is refused with the reason."""

from functools import cache
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from composed import composed
from peft_vision.core.composition import option
from peft_vision.core.config import NOT_HASHED, ConfigError, locate
from peft_vision.method.selection import head_columns
from shipped import METHODS, adapted

OTHER = {  # another right value for each
    "activation": lambda now: {"relu": "gelu", "gelu": "quick_gelu"}[now],
    "alpha": lambda now: 2 * now,
    "channel_scale": lambda now: not now,
    "deep": lambda now: not now,
    "dora": lambda now: not now,
    "drop_path": lambda now: now + 0.3,
    "dropout": lambda now: now + 0.3,
    "eval_mode": lambda now: not now,
    "factorisation": lambda now: {"tt": "tk", "tk": "tt"}[now],
    "groups": lambda now: 2 * now,
    "initial": lambda now: {"small": "zero_up", "zero_up": "backbone", "identity": "xavier"}[now],
    "keep_fraction": lambda now: 0.5,
    "lasso": lambda now: 2 * now,
    "layers": lambda now: "last-2",
    "location": lambda now: "pad",
    "normalize": lambda now: not now,
    "num_prompts": lambda now: now + 1,
    "num_queries": lambda now: now + 1,
    "parts": lambda now: "lora" if isinstance(now, str) else dict(list(now.items())[:1]),
    "pool_prompts": lambda now: not now,
    "placement": lambda now: "layer" if now == "mlp" else "mlp",
    "probe_first": lambda now: not now,
    "projection": lambda now: 8,
    "rank": lambda now: now // 2,
    "rank_stabilised": lambda now: not now,
    "scale": lambda now: 2 * now,
    "selects_as_released": lambda now: not now,
    "summary": lambda now: "weighted_sum",
    "targets": lambda now: ["q"],
}
ONLY_WITH = {  # what acts where another option asks for it, as its file says
    ("vqt", "lasso"): {"keep_fraction": 0.7},
    ("vqt", "selects_as_released"): {"keep_fraction": 0.7},
    **{(method, "eval_mode"): {"architecture": {"drop_path_rate": 0.5}} for method in ("full", "partial", "lp_ft")},
}
PACES = ("lr_factors", "weight_decays")  # of what an optimizer steps: tests/optimizer/test_paces.py
REFUSED = {
    ("linear", "layers"),
    ("vpt_deep", "location"),  # pixels surround an image once
    *((method, "pool_prompts") for method in ("vpt_deep", "vpt_shallow")),  # the class token alone is pooled
}
BESIDE = {("vpt_shallow", "location"): {"num_prompts": 4}}  # which tiles the larger image
FIELDS = [(method, field) for method in METHODS for field in option("method", method) if field != "_target_"]


def trained(method: str, **options: Any) -> list[Tensor]:
    """What a training of two steps a phase comes across, from the same seed: logits, losses and, last, weights."""
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model = adapted(method, **{"probe_first": False, **options})
    seen = []
    for _ in model.phases[model.begun - 1 :]:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], eps=1e-30)
        torch.manual_seed(0)
        for _ in range(2):
            optimizer.param_groups[0]["lr"] = 0.01 * model.phase.lr_factor
            optimizer.zero_grad()
            logits = model(images)
            loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0]))
            if model.phase.lasso:
                loss = loss + model.phase.lasso * head_columns(model.head).norm(dim=0).sum()
            loss.backward()
            optimizer.step()
            seen += [logits.detach(), loss.detach()]
        if model.begun < len(model.phases):
            model.begin_next_phase(seed=0)
    return [*seen, *(tensor.clone() for tensor in model.tuned_state().values())]


as_shipped = cache(trained)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def marked_incidental(method: str, field: str) -> bool:
    hint = get_type_hints(locate(option("method", method)["_target_"], "method"), include_extras=True)[field]
    return NOT_HASHED in getattr(hint, "__metadata__", ())


@pytest.mark.parametrize("method", METHODS)
def test_equal_options_train_the_same(method):
    assert same(as_shipped(method), trained(method))


@pytest.mark.parametrize(("method", "field"), FIELDS, ids="-".join)
def test_another_value_trains_something_else_or_is_refused(method, field):
    now = option("method", method)[field]
    if marked_incidental(method, field):
        assert field == "lr"  # where `optimizer.lr` starts
        return
    if field in PACES:
        return
    if field == "probe_first":
        phases = [adapted(method, probe_first=first).phases for first in (True, False)]
        assert [len(those) for those in phases] == [len(phases[1]) + 1, len(phases[1])]
        return
    changed = {field: OTHER[field](now)}
    if (method, field) in REFUSED:
        with pytest.raises(ConfigError, match=f"^method.{field}: got "):
            adapted(method, **changed)
        return
    needed, beside = ONLY_WITH.get((method, field), {}), BESIDE.get((method, field), {})
    before = trained(method, **beside) if beside else as_shipped(method)
    assert same(before, trained(method, **beside, **changed)) is bool(needed)
    if needed:
        assert not same(trained(method, **needed), trained(method, **needed, **changed))


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            {"probe_first": True},
            {},
            r"method\.parts\.lora\.probe_first: the probe is in front of all parts; set method\.",
        ),
        ({"layers": "last-1"}, {"layers": "last-2"}, r"method\.parts\.lora\.layers: got 'last-1', but method\.layers="),
    ],
    ids=["probe_first", "layers"],
)
def test_what_a_part_asks_for_in_vain_is_refused(part, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        adapted("combined", parts={"lora": part, "vqt": {}}, **options)
    nested = {**option("method", "combined"), **options, "parts": {"lora": {**option("method", "lora"), **part}}}
    with pytest.raises(ConfigError, match=r"^method\.parts\.both\.parts\.lora\."):
        adapted("combined", parts={"both": nested, "vqt": {}})


def test_a_run_asks_so_before_it_reads_anything():
    experiment = composed("data=digits", "method=combined", "method.parts={lora:{probe_first:true},vqt:{}}")
    with pytest.raises(ConfigError, match=r"^method\.parts\.lora\.probe_first: "):
        experiment.checks()["method",]()
