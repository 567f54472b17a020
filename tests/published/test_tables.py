"""The figures of papers that are shipped."""

from statistics import fmean

import pytest

from peft_vision.composition import options
from peft_vision.config import ConfigError
from peft_vision.published.tables import shipped, table

GROUPS = {"natural": 7, "specialized": 4, "structured": 8}
PUBLISHED = [(name, method) for name in shipped() for method in table(name).content.rows]


def test_vtab_is_19_tasks_in_three_groups():
    vtab = table("vpt_vtab").benchmark
    assert {group: len(vtab.of_group(group)) for group in GROUPS} == GROUPS


@pytest.mark.parametrize(("name", "method"), PUBLISHED)
def test_means_follow_from_the_figures_as_far_as_they_were_rounded(name, method):
    its, row = table(name), table(name).content.rows[method]
    assert method in options("method")
    for group, published in row.groups.items():
        assert its.group(method, group) == pytest.approx(published, abs=0.051 + 0.005)
    if row.mean is not None:
        assert its.mean(method) == pytest.approx(row.mean, abs=0.051)
    if row.values is not None:
        assert its.mean(method) == pytest.approx(fmean(row.values))


def test_both_means_of_vpt_deep_are_those_that_papers_mix_up():
    """69.43 over 19 tasks, 71.97 over three groups."""
    vtab = table("vpt_vtab")
    assert round(vtab.mean("vpt_deep"), 2) == 69.43
    assert round(vtab.mean_of_groups("vpt_deep"), 2) == 71.97


def test_where_only_means_are_known_there_are_no_figures():
    adapters = table("adapters_vtab")
    assert adapters.values("convpass") == {}
    assert adapters.group("convpass", "natural") == 81.7
    assert adapters.mean_of_groups("convpass") == pytest.approx((81.7 + 85.3 + 62.7) / 3)
    assert (adapters.group("adapter_plus", "natural"), adapters.mean_of_groups("adapter_plus")) == (None, 77.6)
    assert adapters.mean("adapter_plus") is None


def test_each_says_where_it_is_from():
    for name in shipped():
        content = table(name).content
        assert all((content.source, content.read_in, content.images, content.normalization, content.selection))
        assert "/" not in table(name).weights
    assert table("adapters_vtab").weights_of("ssf") == "vit_base_patch16_224.augreg_in21k"


GOOD = """
title: mine
source: nowhere
read_in: nowhere
benchmark: fgvc
weights: some
images: some
normalization: own
selection: validation
seeds: "1"
tasks: [cub200, cars]
rows: { full: { name: Full, values: [50, 60] } }
"""


def test_a_users_own_table_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    mine = table(str(path))
    assert (mine.name, mine.values("full")) == ("mine", {"fgvc/cub200": 50, "fgvc/cars": 60})
    assert (mine.mean("full"), mine.group("full", "fgvc"), mine.mean_of_groups("full")) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[50, 60]", "[50]", "rows.full: 1 values for 2 tasks"),
        ("[50, 60]", "[50, 101]", "rows.full.values.1: Input should be less than or equal to 100"),
        ("cub200", "cup200", "fgvc has no cup200; did you mean cub200?"),
        ("benchmark: fgvc", "benchmark: mine", "benchmark: Input should be 'vtab' or 'fgvc'"),
        ("title: mine", "titel: mine", "title: Field required"),
        ("title: mine", "title: [", "mine.yaml: "),
    ],
)
def test_a_table_that_is_wrong_is_named_with_what_is_wrong(tmp_path, old, new, words):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        table(str(path))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_table_that_is_not_there():
    with pytest.raises(ConfigError) as caught:
        table("vpt_vtap")
    assert "no table 'vpt_vtap'; there are adapters_vtab, vpt_fgvc, vpt_vtab, vqt_vtab; did you mean vpt_vtab?" in str(
        caught.value
    )
