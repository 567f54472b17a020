"""Measured figures beside published ones, with made-up runs: means by hand, and nothing averaged away."""

import csv
import io
from importlib import resources

import pytest
import yaml

from boards import boards, options
from made_up_runs import write_attempt, write_run
from peft_vision.core.config import ConfigError
from peft_vision.published.tables import BENCHMARKS
from peft_vision.report.comparison import compare
from peft_vision.report.published_comparison import published_comparisons

VTAB = BENCHMARKS["vtab"]
MINIATURE = {
    "data": {"_target_": "peft_vision.data.digits.Digits", "miniature": True, "source": "processed", "test_size": 40}
}


def write(runs, method, data, accuracies=(0.6, 0.62), **values):
    for seed, accuracy in enumerate(accuracies):
        write_run(runs, method=method, data=data, seed=seed, test=accuracy, group=VTAB.groups.get(data), **values)


@pytest.fixture
def whole(tmp_path):
    """VPT-deep on all 19 tasks: 60 and 62 % on natural ones, 70 and 72 on specialized, 50 and 52 on structured."""
    for data, group in VTAB.groups.items():
        first = {"natural": 0.60, "specialized": 0.70, "structured": 0.50}[group]
        write(tmp_path, "vpt_deep", data, (first, first + 0.02))
    return tmp_path


def cells(runs, method="vpt_deep", tables=("vpt_vtab",)):
    (found,) = [comparison for comparison in published_comparisons(boards(runs), tables) if comparison.method == method]
    return {cell.label: cell for cell in found.cells}


def test_every_task_and_both_means_are_set_beside_the_published(whole):
    found = cells(whole)
    assert list(found)[:2] == ["Caltech101", "CIFAR-100"]
    assert len(found) == 19 + 3 + 2
    cifar = found["CIFAR-100"]
    assert (cifar.published, cifar.measured.n) == (78.8, 2)
    assert cifar.measured.mean == pytest.approx(0.61)
    assert cifar.difference == pytest.approx(61 - 78.8)
    by_hand = {"natural (7)": 61, "specialized (4)": 71, "structured (8)": 51, "mean of 3 groups": 61}
    by_hand["mean of 19"] = (7 * 61 + 4 * 71 + 8 * 51) / 19
    assert {label: 100 * found[label].measured.mean for label in by_hand} == pytest.approx(by_hand)
    assert found["mean of 19"].published == pytest.approx(69.43, abs=0.005)
    assert found["mean of 3 groups"].published == 71.96
    assert found["mean of 19"].measured.std == pytest.approx(0.02 / 2**0.5)  # over seeds, each with a mean of its own


def test_what_is_missing_or_failed_stays_visible_and_no_mean_hides_it(tmp_path):
    write(tmp_path, "vpt_deep", "vtab/cifar100")
    write(tmp_path, "vpt_deep", "vtab/svhn", (0.7, 0.72))
    write(tmp_path, "linear", "vtab/dtd")
    write_attempt(tmp_path, method="vpt_deep", data="vtab/dtd", error="out of memory")
    found = cells(tmp_path)
    assert (found["DTD"].status, found["DTD"].measured) == ("failed", None)
    assert found["DTD"].published == 65.8
    assert (found["Pets"].status, found["natural (7)"].status) == ("missing", "2 of 7")
    assert (found["mean of 19"].status, found["mean of 19"].measured) == ("2 of 19", None)
    so_far = found["mean of the 2 measured"]
    assert so_far.published == pytest.approx((78.8 + 78.1) / 2)
    assert so_far.measured.mean == pytest.approx((0.61 + 0.71) / 2)


def test_two_versions_of_a_data_set_are_not_mixed(tmp_path):
    write(tmp_path, "vpt_deep", "vtab/cifar100")
    write(tmp_path, "vpt_deep", "vtab/cifar100", source="another: 900 train", lr=0.01)
    assert cells(tmp_path)["CIFAR-100"].status == "2 versions"


def test_where_only_means_were_published_they_are_compared(tmp_path):
    for data in VTAB.of_group("specialized"):
        write(tmp_path / "runs", "convpass", data)
    content = yaml.safe_load((resources.files("peft_vision.published") / "adapters_vtab.yaml").read_text())
    content["rows"] = {"convpass": {"name": "Convpass", "groups": {"specialized": 85.3}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    found = cells(tmp_path / "runs", "convpass", (str(tmp_path / "mine.yaml"),))
    assert (found["EuroSAT"].published, found["EuroSAT"].difference) == (None, None)
    assert found["specialized (4)"].difference == pytest.approx(61 - 85.3)
    assert found["mean of the 4 measured"].published is None


def test_a_note_tells_where_a_row_was_read_and_what_was_not(tmp_path, capsys):
    write(tmp_path / "runs", "adapter_plus", "vtab/dtd")
    write(tmp_path / "runs", "convpass", "vtab/dtd")
    compare([tmp_path / "runs"], tmp_path / "out", options(published=("adapters_vtab",)))
    said = capsys.readouterr().out
    assert "- convpass, published: read in PETL-ViT, convpass/README.md; Jie and Deng" in said
    assert "within 0.1; seen in no source: mean of groups; Steitz and Roth" in said


def test_a_report_tells_how_the_runs_differ_and_that_miniatures_prove_nothing(tmp_path, capsys):
    write(tmp_path / "runs", "vpt_deep", "vtab/cifar100", config=MINIATURE)
    out = tmp_path / "out"
    compare([tmp_path / "runs"], out, options(published=("vpt_vtab",)))
    said = capsys.readouterr().out
    words = "miniature data: these figures prove nothing about accuracy"
    assert f"- {words}\n" in said
    assert "- measured with the weights vit_tiny_patch16_224, published with vit_base_patch16_224.orig_in21k\n" in said
    assert "- measured on images of data.source=processed, published on: TensorFlow Datasets, lossless\n" in said
    assert "- tested on at most 40 images of a data set; published: all\n" in said
    assert "- no run here of full, linear, bitfit, vpt_shallow\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("CIFAR-100 ")]
    assert line.split() == ["CIFAR-100", "78.8", "61.00", "±", "1.41", "-17.80"]
    assert "mean of 19" in said
    rows = list(csv.DictReader(io.StringIO((out / "published.csv").read_text())))
    assert len(rows) == 19 + 3 + 2 + 1
    cifar = next(row for row in rows if row["column"] == "CIFAR-100")
    assert (cifar["published"], cifar["n"], cifar["miniature"], cifar["status"]) == ("78.8", "2", "True", "scored")
    assert float(cifar["measured"]) == pytest.approx(61)
    latex = (out / "published.tex").read_text()
    assert r"CIFAR-100 & 78.8 & 61.00 $\pm$ 1.41 & -17.80 \\" in latex
    assert r"Pets & 88.3 & \textit{missing} &  \\" in latex
    assert words in latex
    page = (out / "report.html").read_text()
    assert '<p class="warning">Miniature data: these figures prove nothing about accuracy.</p>' in page
    assert 'id="published"' in page


@pytest.mark.parametrize(
    ("data", "resize", "augment", "nearest"),
    [
        ("living17", "squash", "none", "resize=crop, data.augment=crop_flip"),
        ("living17", "crop", "crop_flip", None),
        ("cifar10", "crop", "crop_flip", "resize=squash, data.augment=none"),
        ("cifar10", "squash", "none", None),
        ("imagenet", "squash", "none", None),  # nobody knows how its images were shown
    ],
)
def test_images_that_are_shown_otherwise_than_published_are_marked(data, resize, augment, nearest, tmp_path):
    shown = {"data": {"_target_": "Breeds", "resize": resize, "augment": augment}}
    write(tmp_path, "full", data, config=shown)
    (found,) = published_comparisons(boards(tmp_path), ["lp_ft"])
    title = BENCHMARKS["lp_ft"].titles[data]
    own = f"images of {title} shown by data.resize={resize}, data.augment={augment}"
    expected = [f"{own}; nearest to the paper's code: data.{nearest}"] if nearest else []
    assert [words for words in found.differs if words.startswith("images of")] == expected


def test_without_a_table_a_report_has_nothing_of_it(tmp_path):
    write(tmp_path / "runs", "vpt_deep", "vtab/cifar100")
    compare([tmp_path / "runs"], tmp_path / "out", options())
    assert not (tmp_path / "out" / "published.csv").exists()
    assert 'id="published"' not in (tmp_path / "out" / "report.html").read_text()


def test_a_table_that_concerns_none_of_the_runs_is_said(tmp_path, caplog):
    write(tmp_path / "runs", "vpt_deep", "digits")
    compare([tmp_path / "runs"], tmp_path / "out", options(published=("vpt_vtab",)))
    assert "no run here is of a method and a data set of vpt_vtab" in caplog.text


def test_an_unknown_table_is_refused_before_anything_is_written(tmp_path):
    write(tmp_path / "runs", "vpt_deep", "vtab/cifar100")
    with pytest.raises(ConfigError, match="no table 'vpt'"):
        compare([tmp_path / "runs"], tmp_path / "out", options(published=("vpt",)))
    assert not (tmp_path / "out").exists()
