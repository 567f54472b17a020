"""`peft-vision task=bench`: what a person learns of the cost of each method."""

import json
import re

import pytest

import peft_vision
from command import call
from peft_vision.backbone.load import Backbone
from peft_vision.core.composition import option
from preloaded import measured_in_forks

QUICK = ("task=bench", "backbone=vit_micro", "backbone.architecture.depth=2", "trainer.batch_size=4", "device=cpu")
QUICK += ("task.warmup=1", "task.repeats=2", "task.num_classes=7")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The outcome of a comparison with a method that fails, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "mine" / "method").mkdir(parents=True)
    # no backbone here has so many layers, which is known when the method meets one
    (folder / "mine" / "method" / "deepest.yaml").write_text("defaults: [vpt_deep, _self_]\nlayers: [99]\n")
    methods = "task.methods=[deepest,vqt,vpt_deep]"
    with measured_in_forks():
        outcome = call(*QUICK, "--config-dir", "mine", methods, "method.num_prompts=3", cwd=folder)
    return outcome, folder / "runs" / ".bench"


@pytest.fixture(scope="module")
def record(comparison):
    return json.loads((comparison[1] / "vit_micro-b4-cpu.json").read_text())


def test_a_method_that_fails_is_a_row_that_says_why_and_the_others_are_measured(comparison):
    outcome, _ = comparison
    assert outcome.code == 1
    assert outcome.err.endswith("peft-vision: 1 of 5 not measured: deepest; the table says why\n")
    assert "Traceback" not in outcome.out + outcome.err
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("deepest")]
    assert "layers" in row
    assert "99" in row


def test_the_table_names_each_method_with_its_parameters(comparison):
    outcome, _ = comparison
    backbone = Backbone(**{key: value for key, value in option("backbone", "vit_micro").items() if key != "_target_"})
    vit = backbone.load()
    vit.blocks = vit.blocks[:2]
    for method, options in {"vqt": {}, "vpt_deep": {"num_prompts": 3}, "full": {}}.items():
        counts = peft_vision.adapt(vit, method=method, num_classes=7, **options).parameter_counts()
        (row,) = [line for line in outcome.out.splitlines() if line.startswith(f"{method} ")]
        assert row.split()[1:3] == [f"{counts.method:,}", f"{counts.head:,}"]


def test_every_figure_is_there_and_positive(record):
    *measured, failed = record["methods"]
    assert (measured[0]["method"], measured[-1]["method"]) == ("forward pass", "full")
    assert (failed["method"], "seconds" in failed) == ("deepest", False)
    for row in measured:
        assert min(row["seconds"].values()) > 0
        assert 0 <= row["memory_mib"] < row["peak_mib"]
    for row in measured[1:]:
        assert row["of_forward"] == row["seconds"]["step"] / row["seconds"]["forward"]


def test_what_can_be_stored_is_measured_on_the_store_too(record):
    stored = {row["method"] for row in record["methods"] if row.get("stored_of_forward")}
    assert stored == {"vqt"}


def test_the_document_says_how_it_was_made_and_names_no_folder(comparison):
    text = (comparison[1] / "vit_micro-b4-cpu.md").read_text()
    assert text.startswith("    peft-vision task=bench backbone=vit_micro ")
    assert "random weights, 32 px, batches of 4, fp32, AdamW; CPU" in text
    assert text.count("\n| ") == 2 + 5
    assert str(comparison[1]) not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("task.methods=[linear,lorra]", "task.methods: no method 'lorra'; there are .*; did you mean lora[?]"),
        ("task.methods=linear", "task.methods: got 'linear', should be a list"),
        ("task.methods=[]", "task.methods: got \\[\\], should have at least 1"),
        ("task.repeats=0", "task.repeats: got 0, should be greater than 0"),
        ("device=gpu", "device: got 'gpu', should be auto, cpu, cuda, cuda:N or mps"),
        ("device=cuda:99", "device: cuda:99 asked for, but .*"),
        ("optimizer=lbfgs", "optimizer: LBFGS solves for a head and makes no steps; use optimizer=adamw"),
        ("~optimizer", "optimizer: missing"),
        ("task.weights=true backbone.checkpoint=nowhere.npz", "backbone.checkpoint: no file .*nowhere.npz"),
        ("out=/dev/null/here", "cannot write /dev/null/here: .*\nset out=FOLDER to a folder that can be .*"),
    ],
)
def test_a_mistake_is_named_before_anything_is_measured(arguments, said, tmp_path):
    outcome = call(*QUICK, *arguments.split(), cwd=tmp_path)
    assert re.fullmatch(said, outcome.error), outcome.error
    assert list(tmp_path.iterdir()) == []
