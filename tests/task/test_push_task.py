"""A run goes to a hub and comes back: the hub's own client talks to a small server on this machine."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants

import peft_vision
from command import Outcome, call
from hub_server import READER, WRITER, HubServer, ServedRepository
from peft_vision.backbone.source import without_places
from peft_vision.core.config import ConfigError
from peft_vision.models.on_hub import fetched
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import Result
from peft_vision.runs.saved import open_saved, open_several
from peft_vision.task.model_card import (
    BackboneOrigin,
    CardFacts,
    backbone_origin,
    escaped,
    model_card,
    results_of,
)
from peft_vision.task.push import FILES
from peft_vision.task.serve import named_runs

# the hub's client hands files to its own library in a way that this one will not take for ever
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/digits-linear"
PUSH = ("task=push", f"task.repo={REPO}")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A finished run, and one beside it that has another seed and other figures."""
    folder = shutil.copytree(trained, tmp_path / "runs" / trained.name)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["path"] = str(tmp_path / "pictures")  # as that of a folder of pictures
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    twin = shutil.copytree(trained, tmp_path / "runs" / trained.name.replace("-s0-", "-s1-"))
    result = Run(twin).read_result()
    metrics = {**result.metrics, "test/accuracy": result.metrics["test/accuracy"] / 2}
    Run(twin).write_result(result.model_copy(update={"seed": 1, "metrics": metrics}))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose server is another one
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def pushed(run: Path, *words: str) -> Outcome:
    outcome = call(*PUSH, f"run={run}", *words, cwd=run.parent)
    assert WRITER not in outcome.out + outcome.err
    return outcome


def logits(model: torch.nn.Module) -> torch.Tensor:
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        return model(images)


def test_a_run_goes_to_the_hub_and_comes_back(run, hub, tmp_path, monkeypatch):
    outcome = pushed(run)
    assert outcome.code == 0, outcome
    repository = hub.repositories[REPO]
    assert repository.private
    assert "(private)" in outcome.out
    assert set(repository.files) == {".gitattributes", *FILES}
    assert repository.in_lfs == {"adapter.safetensors"}
    assert not any(str(tmp_path).encode() in content for content in repository.files.values())
    model = open_saved(str(run), checkpoint=None, device=torch.device("cpu")).model
    name = f"hf-hub:{REPO}"
    for loaded in (peft_vision.load(name), peft_vision.load(f"{name}@main", vit_of(run))):
        assert torch.equal(logits(loaded), logits(model))
    again = pushed(run)
    assert again.code == 0
    assert "pushed    before" in again.out
    assert len(repository.commits) == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(peft_vision.load(name)), logits(model))
    outcome = call("task=export", f"run={name}", "task.format=adapter", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert (tmp_path / "digits-linear" / "export" / "adapter.safetensors").read_bytes() == (
        run / "adapter.safetensors"
    ).read_bytes()


def test_a_push_replaces_no_run(run, tmp_path):
    twin = run.with_name(run.name.replace("-s0-", "-s1-"))
    before = {path: path.read_bytes() for path in twin.iterdir() if path.is_file()}
    outcome = call(*PUSH, f"run={run}", f"out={twin}", "task.dry_run=true", cwd=tmp_path)
    assert outcome.error == f"out: {twin} is the folder of a run, whose adapter would be replaced; name another"
    assert {path: path.read_bytes() for path in twin.iterdir() if path.is_file()} == before


def test_a_run_on_the_hub_is_an_adapter_among_others(run, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pushed(run).code == 0
    adapters = peft_vision.AdapterSet(vit_of(run))
    model = adapters.add("theirs", f"hf-hub:{REPO}")
    assert torch.equal(logits(model), logits(adapters.add("ours", run)))
    folders = named_runs([f"hf-hub:{REPO}", str(run)])
    assert list(folders) == [REPO.partition("/")[2], run.name]
    served, opened = open_several(folders, checkpoint=None, device=torch.device("cpu"))
    assert torch.equal(logits(served.model(run.name)), logits(model))
    assert opened[run.name].recipe.classes == opened[REPO.partition("/")[2]].recipe.classes


def vit_of(run: Path):
    from peft_vision.backbone.load import Backbone, load_backbone
    from peft_vision.core.config import build

    node = yaml.safe_load((run / "config.yaml").read_text())["backbone"]
    return load_backbone(build(node, Backbone, "backbone"), seed=0)


def test_a_dry_run_writes_the_folder_with_a_card_and_asks_nobody(run, hub):
    outcome = pushed(run, "task.dry_run=true")
    assert outcome.code == 0, outcome
    assert hub.asked == []
    assert sorted(path.name for path in (run / "hub").iterdir()) == sorted(FILES)
    card = ModelCard.load(run / "hub" / "README.md")
    header = card.data.to_dict()
    assert (header["library_name"], header["pipeline_tag"]) == ("peft-vision", "image-classification")
    assert "license" not in header  # of a random backbone
    results = [Run(run).read_result().metrics["test/accuracy"], Run(run).read_result().metrics["test/accuracy"] / 2]
    (first, _) = card.data.eval_results
    assert first.metric_value == pytest.approx(sum(results) / 2)
    assert "of seeds 0, 1" in card.text
    assert (
        f"| test/accuracy | {50 * sum(results):.2f} ± {100 * (results[0] - results[1]) / 2**0.5:.2f} % |" in card.text
    )
    assert f'peft_vision.load("hf-hub:{REPO}")' in card.text.replace("'", '"')
    notes = json.loads((run / "hub" / "peft_vision.json").read_text())
    assert notes["classes"] == [str(digit) for digit in range(10)]
    assert set(notes["metrics"]) == {"0", "1"}
    assert "tracker" not in (run / "hub" / "config.yaml").read_text()


def other_content(hub: HubServer) -> None:
    hub.repositories[REPO] = ServedRepository(private=True)
    hub.repositories[REPO].files["model.bin"] = b"of somebody else"


REFUSED = {
    "unknown token": ({"HF_TOKEN": "hf_nobody"}, {}, None, r"does not accept this token \(401\); log in"),
    "no right": ({"HF_TOKEN": READER}, {}, None, r"may not write to me/digits-linear \(403\); it needs the right"),
    "no token": ({"HF_TOKEN": ""}, {}, None, "no token for http://.*; log in on this machine"),
    "other content": ({}, {}, other_content, r"holds other content \(model.bin\)\ntask.replace=true puts"),
    "public": (
        {},
        {},
        lambda hub: hub.repositories.update({REPO: ServedRepository(private=False)}),
        "is public; task.private=false pushes to it",
    ),
    "storage": ({}, {"^/lfs/": 403}, None, r"(may not write|broke off|refuses).*"),
    "changed": ({}, {"/commit/": 412}, None, r"has changed meanwhile \(412\)"),
    "teapot": ({}, {"/preupload/": 418}, None, r"refuses me/digits-linear \(418\): no, Bearer \(token\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_refuses_is_a_line_and_nothing_is_lost(case, run, hub, monkeypatch):
    variables, refuse, prepare, message = REFUSED[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "none"))
    hub.refuse = refuse
    if prepare is not None:
        prepare(hub)
    before = {name: dict(found.files) for name, found in hub.repositories.items()}
    error = pushed(run).error
    assert re.search(message, error), error
    assert error.count("\n") <= 1
    if case not in ("no token", "other content", "public"):
        assert "nothing is lost" in error
    if case != "no token":
        assert sorted(path.name for path in (run / "hub").iterdir()) == sorted(FILES)
    assert {name: found.files for name, found in hub.repositories.items() if name in before} == before


def test_other_content_is_replaced_where_that_is_asked_for(run, hub):
    other_content(hub)
    hub.repositories[REPO].files["README.md"] = b"an older card"
    assert pushed(run, "task.replace=true").code == 0
    files = hub.repositories[REPO].files
    assert files["model.bin"] == b"of somebody else"
    assert files["README.md"].startswith(b"---\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:me/none", "the hub has no me/none, or it is private"),
        (f"hf-hub:{REPO}@v9", "has no revision 'v9'"),
        (f"hf-hub:{REPO}", "has no adapter.safetensors, which task=push writes"),
        ("hf-hub:me/a/b", "is not hf-hub:owner/name"),
    ],
)
def test_a_run_that_the_hub_does_not_have_is_a_line(name, message, hub):
    hub.repositories[REPO] = ServedRepository(private=False)
    with pytest.raises(ConfigError, match=message):
        fetched(name)


def test_without_a_network_a_line_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    error = call(*PUSH, f"run={run}", cwd=run).error
    assert re.search(r"no network to .*HF_HUB_OFFLINE is set\)\ntask.dry_run=true writes the folder only", error)
    with pytest.raises(ConfigError, match=r"me/none is not in .*, and no network to"):
        fetched("hf-hub:me/none")


@pytest.mark.parametrize("repo", ["digits", "me/a/b", "/x", "me/..", "me/x y"])
def test_a_name_that_no_repository_can_have_is_refused(repo, run):
    error = call("task=push", f"task.repo='{repo}'", f"run={run}", cwd=run).error
    assert error.endswith("should be owner/name, such as me/flowers-lora")


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://evil/x.png)",
    "a | b\n---\nlicense: none",
    "```\n# heading",
    "www.evil.com @everyone",
    "\u202egnp.exe",
    *map(str, range(60)),
]


def test_no_text_of_others_is_more_than_text_in_a_card(trained):
    saved = open_saved(str(trained), checkpoint=None, device=torch.device("cpu"))
    saved.model.recipe = replace(saved.recipe, classes=tuple(HOSTILE))
    origin = BackboneOrigin(name="a`b\n---\n", page="me/\n---\nx: y", file=None, licence="weird: [licence]")
    facts = CardFacts(title="</h1>\n---\n", library="x", loads="import x  # ```\n", results=[], backbone=origin)
    text = model_card(saved, facts)
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(header)["license_name"] == "weird: [licence]"
    assert not re.search(r"<(?!\w+@)|(?<!\\)!\[|(?<!\\)\]\(|www\.evil|\u202e", body)
    assert body.count("```") == 2
    assert "and 16 more in the file" in body


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"name": "vit_base_patch16_224.orig_in21k", "pretrained": True},
            ("timm/vit_base_patch16_224.orig_in21k", None, "apache-2.0"),
        ),
        ({"checkpoint": "package:vit_micro.safetensors"}, (None, None, "mit")),
        ({"checkpoint": "/home/me/vit.safetensors"}, (None, "vit.safetensors", None)),
    ],
)
def test_the_licence_of_the_backbone_is_that_of_its_weights(values, expected, trained):
    saved = open_saved(str(trained), checkpoint=None, device=torch.device("cpu"))
    saved = replace(saved, config={**saved.config, "backbone": {**saved.config["backbone"], **values}})
    origin = backbone_origin(saved)
    assert (origin.page, origin.file, origin.licence) == expected


def test_a_place_of_this_machine_is_its_last_part():
    config = {"path": "/home/me/pets", "names": ["~/x.pt", "a/b", "local-dir:/w/vit"], "rate": 0.1, "win": "C:\\a\\b"}
    assert without_places(config) == {
        "path": "pets",
        "names": ["x.pt", "a/b", "local-dir:vit"],
        "rate": 0.1,
        "win": "b",
    }


def test_seeds_that_divide_the_images_each_by_itself_are_of_one_setting(trained, tmp_path):
    """As with data.split_seed=${seed}; the last has its own seed, and the split of another."""
    for seed, split_seed in ((0, 0), (1, 1), (2, 2), (3, 0)):
        folder = shutil.copytree(trained, tmp_path / trained.name.replace("-s0-", f"-s{seed}-"))
        result = Run(folder).read_result()
        data = {**result.config["data"], "split_seed": split_seed}
        Run(folder).write_result(result.model_copy(update={"seed": seed, "config": {**result.config, "data": data}}))
    assert [result.seed for result in results_of(tmp_path / trained.name)] == [0, 3]
    shutil.rmtree(folder)
    assert [result.seed for result in results_of(tmp_path / trained.name)] == [0, 1, 2]


def test_a_run_of_an_unknown_class_is_on_no_card_but_its_own(trained, tmp_path):
    """As where the extension of a neighbour is not installed here."""
    for seed in range(3):
        folder = shutil.copytree(trained, tmp_path / trained.name.replace("-s0-", f"-s{seed}-"))
        result = Run(folder).read_result()
        unknown = {"method": {**result.config["method"], "_target_": "nobody.has.This"}} if seed == 2 else {}
        config = {**result.config, **unknown}
        Run(folder).write_result(result.model_copy(update={"seed": seed, "config": config}))
    assert [result.seed for result in results_of(tmp_path / trained.name)] == [0, 1]
    assert [result.seed for result in results_of(folder)] == [2]


def test_every_fraction_on_a_card_is_in_percent(trained):
    saved = open_saved(str(trained), checkpoint=None, device=torch.device("cpu"))
    result = Run(trained).read_result()
    masks = {"name": "mean_iou", "higher_is_better": True, "is_fraction": True}
    metrics = {"test/loss": 0.25, "test/mean_iou": 0.5, "test/pixel_accuracy": 0.93}
    judged = Result(**{**result.written(), "chosen_by": masks, "metrics": metrics})
    text = model_card(saved, CardFacts("run", "x", "import x", [judged], backbone_origin(saved)))
    shown = dict(re.findall(r"\| (test/\S+) \| (.+) \|", text.replace("\\", "")))
    assert shown == {"test/loss": "0.25", "test/mean_iou": "50.00 %", "test/pixel_accuracy": "93.00 %"}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/Ann Lee/secret project/my pets: 4 train", "my pets: 4 train"),
        ("/home/me: 3 test, b/a;c/pets: 4 train + 1 test images", "pets: 4 train + 1 test images"),
        ("~/a b/labels.csv: 4 train", "labels.csv: 4 train"),
        ("digits: 4 train; a/b, and 5/6 of /data/x", "digits: 4 train; a/b, and 5/6 of x"),
    ],
)
def test_a_card_names_no_folder_above_the_data(source, shown, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / trained.name)
    result = Run(run).read_result()
    Run(run).write_result(result.model_copy(update={"data": result.data.model_copy(update={"source": source})}))
    saved = open_saved(str(run), checkpoint=None, device=torch.device("cpu"))
    facts = CardFacts("run", "x", "import x", results_of(run), backbone_origin(saved))
    assert f"\n\n{escaped(shown)}.\n\n" in model_card(saved, facts)


def test_what_is_escaped_reads_as_before():
    assert escaped("lora_qv, 0.1") == r"lora\_qv, 0.1"
