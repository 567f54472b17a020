"""`layers`: a method works in those that were chosen, and the others stay bare."""

import re
from unittest.mock import patch

import pytest
import torch

from conftest import tiny_vit
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.intermediates import group_widths
from peft_vision.core.config import ConfigError
from peft_vision.models.model import Model
from reference import assert_computes, randomised, tuned
from shipped import METHODS, adapted

WORK_IN_LAYERS = [method for method in METHODS if method not in ("linear", "head2toe")]
TRAVELS = "vpt_shallow"  # its prompts leave the layer they enter
BEFORE = ("vit.patch_embed.", "vit.pos_embed", "vit.cls_token")
BEHIND = ("vit.norm.",)


def assert_only_in(model: Model, indices: set[int], *, beside: tuple[str, ...]) -> None:
    """What trains and what was added is in these layers, in each of them, or `beside`; queries are counted."""
    encoder = model.encoder
    bare = {f"vit.{name}" for name, _ in tiny_vit().named_parameters()}
    changed = {name for name, each in encoder.named_parameters() if each.requires_grad or name not in bare}
    shared = {name for name in changed if name.startswith(("fact_", "vit.blocks.0.context.project"))}
    elsewhere = {name for name in changed - shared if not name.startswith(("vit.blocks.", *beside))}
    assert elsewhere == set()
    assert {int(name.split(".")[2]) for name in changed if name.startswith("vit.blocks.")} in (indices, set())
    queries = getattr(model.readout, "indices", ())
    assert changed or queries
    assert set(queries) in (indices, set())


@pytest.mark.parametrize("method", WORK_IN_LAYERS)
def test_the_last_layer_alone(method):
    assert_only_in(adapted(method, layers="last-1"), {2}, beside=BEHIND)


@pytest.mark.parametrize("method", [method for method in WORK_IN_LAYERS if method != TRAVELS])
def test_a_layer_in_the_middle_alone(method):
    assert_only_in(adapted(method, layers=[1]), {1}, beside=())


@pytest.mark.parametrize("method", [method for method in WORK_IN_LAYERS if method != TRAVELS])
def test_the_first_layers_alone(method):
    assert_only_in(adapted(method, layers="first-2"), {0, 1}, beside=BEFORE)


@pytest.mark.parametrize("method", ["vpt_deep", "lora", "ssf", "bitfit", "adaptformer", "full", "vqt", "head2toe"])
def test_all_layers_are_the_same_by_any_name(method, images):
    expected = adapted(method, layers="all").eval()(images)
    for layers in ("first-3", "last-3", [2, 0, 1]):
        assert torch.equal(adapted(method, layers=layers).eval()(images), expected)


@pytest.mark.parametrize(
    ("layers", "trains"),
    [("first-1", ("blocks.0.", *BEFORE)), ([1], ("blocks.1.",)), ("last-1", ("blocks.2.", "norm."))],
    ids=str,
)
@pytest.mark.parametrize(("method", "ending"), [("bitfit", "bias"), ("layer_norm", ("weight", "bias")), ("full", "")])
def test_what_stands_before_goes_with_the_first_layer_and_what_stands_behind_with_the_last(
    method, ending, layers, trains
):
    names = [name for name, _ in tiny_vit().named_parameters() if name.endswith(ending)]
    names = [name for name in names if "norm" in name or method != "layer_norm"]
    trains = tuple(name.removeprefix("vit.") for name in trains)
    vit = adapted(method, layers=layers).encoder.vit
    found = [name for name, parameter in vit.named_parameters() if parameter.requires_grad]
    assert found == [name for name in names if name.startswith(trains)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shallow_prompts_enter_the_first_of_the_last_layers(count, images):
    model = randomised("vpt_shallow", layers=f"last-{count}", num_prompts=4)
    vit = tiny_vit()
    tokens = vit._pos_embed(vit.patch_embed(images))
    for index, block in enumerate(vit.blocks):
        if index == 3 - count:
            prompts = model.encoder.layers[index].entrance.prompts.prompts
            tokens = torch.cat([tokens, prompts.expand(len(images), -1, -1)], dim=1)
        tokens = block(tokens)
    assert_computes(model, images, model.head(vit.norm(tokens)[:, 0]))


@pytest.mark.parametrize("layers", ["first-1", [0], [0, 2], "first-2"], ids=str)
def test_shallow_prompts_cannot_stop_before_the_last_layer(layers):
    got = tuple(layers) if isinstance(layers, list) else layers
    message = f"method.layers: got {got!r}, but shallow prompts travel to the last layer: all or last-N"
    with pytest.raises(ConfigError, match=re.escape(message)):
        adapted("vpt_shallow", layers=layers)


def test_queries_of_some_layers_give_what_the_same_queries_give_among_all(images):
    some, every = adapted("vqt", layers=[2, 0], num_queries=2).eval(), adapted("vqt", num_queries=2).eval()
    for queries, index in zip(some.readout.queries, (0, 2), strict=True):
        queries.load_state_dict(every.readout.queries[index].state_dict())
    pooled, first, _, last = every.features(images).split([32, 64, 64, 64], dim=1)
    torch.testing.assert_close(some.features(images), torch.cat([pooled, first, last], dim=1))


@pytest.mark.parametrize(
    ("layers", "groups"),
    [([1], [5, 6, 7, 8]), ("first-1", [0, 1, 2, 3, 4]), ("last-1", [9, 10, 11, 12])],  # 0: what enters the first layer
    ids=str,
)
def test_head2toe_reads_some_layers_and_the_end(layers, groups, images):
    every = adapted("head2toe").eval().features(images).split(group_widths(trunk_of(tiny_vit())), dim=1)
    expected = torch.cat([every[group] for group in [*groups, 13, 14]], dim=1)
    model = adapted("head2toe", layers=layers).eval()
    torch.testing.assert_close(model.features(images), expected)
    assert model.readout.width == expected.shape[1]
    kept = model.head[0](model.features(images)).split([every[group].shape[1] for group in [*groups, 13, 14]], dim=1)
    for group in kept:
        torch.testing.assert_close(group.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("layers", ["last-0", "last-01", "first-", "some", "", "All", "last-1 ", "first-1.5"])
def test_a_word_that_names_no_layers_is_refused(layers):
    message = f"method.layers: got {layers!r}, should be all, first-N, last-N, or a list such as [0,11], where 0 is"
    with pytest.raises(ConfigError, match=re.escape(message)):
        adapted("lora", layers=layers)


@pytest.mark.parametrize("layers", [[], [1, 1]], ids=str)
def test_a_list_names_each_layer_once_and_at_least_one(layers):
    with pytest.raises(ConfigError, match=re.escape(f"method.layers: got {layers!r}, should name each layer once")):
        adapted("lora", layers=layers)


@pytest.mark.parametrize("layers", [[-1], [1.5], ["1", "x"], 2, None, True], ids=str)
def test_what_is_no_list_of_layers_is_refused_in_one_line(layers):
    with pytest.raises(
        ConfigError, match=r"^method\.layers: got .*, should be all, first-N, last-N, or a list [^\n]*$"
    ):
        adapted("lora", layers=layers)


@pytest.mark.parametrize("method", ["lora", "vqt", "head2toe", "vpt_shallow", "full", "vqt_lora"])
@pytest.mark.parametrize("layers", ["first-99", "last-4", [7], [0, 3]], ids=str)
def test_layers_that_the_backbone_lacks_are_named_with_those_it_has(layers, method):
    got = tuple(layers) if isinstance(layers, list) else layers
    message = f"method.layers: got {got!r}, but this backbone has 3 layers, 0 to 2"
    with pytest.raises(ConfigError, match=re.escape(message)):
        adapted(method, layers=layers)


@pytest.mark.parametrize("layers", ["last-1", [0, 1, 2]], ids=str)
def test_a_linear_probe_works_in_no_layer(layers):
    with pytest.raises(ConfigError, match=r"^method\.layers: got .*, but a linear probe works in no layer"):
        adapted("linear", layers=layers)


@pytest.mark.parametrize(
    ("method", "options", "depth"),
    [
        ("linear", {}, 3),
        ("vqt", {"layers": [0]}, 3),
        ("lora", {}, 0),
        ("lora", {"layers": [1]}, 1),
        ("lora", {"layers": "last-1"}, 2),
        ("vpt_shallow", {"layers": "last-1"}, 2),
        ("vpt_deep", {"layers": "last-1"}, 2),
        ("bitfit", {"layers": "last-2"}, 1),
        ("partial", {}, 2),
        ("fact_tt", {"layers": "last-1"}, 2),
        ("ssf", {"layers": "first-1"}, 0),
        ("combined", {"parts": {"lora": {"layers": [2]}, "adaptformer": {"layers": [1]}}}, 1),
    ],
)
def test_the_frozen_stage_ends_where_the_first_changed_layer_begins(method, options, depth):
    assert adapted(method, **options).depth == depth


@pytest.mark.parametrize(
    ("method", "options", "frozen"),
    [
        ("linear", {}, {"features"}),
        ("vqt", {"layers": [1]}, {"features", "contexts"}),
        ("combined", {"parts": ["vqt"]}, {"features", "contexts"}),
        ("lora", {}, None),
        ("lora", {"layers": "last-1"}, {"tokens"}),
        ("vqt_lora", {"layers": "last-1"}, {"tokens"}),
        ("combined", {"parts": {"lora": {"layers": "last-1"}, "vqt": {}}}, None),  # queries look everywhere
        ("combined", {"parts": {"lora": {"layers": "last-1"}, "vqt": {"layers": "last-2"}}}, None),
        ("combined", {"parts": {"lora": {"layers": "last-2"}, "vqt": {"layers": "last-1"}}}, {"tokens"}),
    ],
)
def test_what_never_changes_is_what_can_be_stored(method, options, frozen):
    model = adapted(method, **options)
    assert model.frozen == frozen
    assert frozen is None or model.depth > 0


@pytest.mark.parametrize("architecture", [{}, {"global_pool": "avg", "reg_tokens": 2, "pre_norm": True}], ids=str)
@pytest.mark.parametrize("method", [method for method in WORK_IN_LAYERS if method != "vqt"])
def test_going_on_from_tokens_gives_the_same_logits_and_gradients(method, architecture, images):
    model = randomised(method, architecture=architecture, layers="last-1")
    seen = model.observe(images)
    assert seen.tokens.shape == (5, model.encoder.num_tokens, 32)
    assert seen.tokens.shape[1:] == model.encoder.observed_shapes(depth=2)["tokens"]
    assert not seen.tokens.requires_grad
    unfrozen = randomised(method, architecture=architecture, layers="last-1")
    with patch.object(Model, "frozen", None):  # as if all of it had to be computed each time
        assert unfrozen.observe(images).tokens is None
        assert unfrozen.observe(images).features is not None
        expected = unfrozen(images)
    found = model(seen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for each, other in zip(tuned(model).values(), tuned(unfrozen).values(), strict=True):
        gradient, *_ = torch.autograd.grad(found.square().sum(), each, retain_graph=True, materialize_grads=True)
        same, *_ = torch.autograd.grad(expected.square().sum(), other, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-5)
