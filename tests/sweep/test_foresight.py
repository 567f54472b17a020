"""A sweep over several methods sends each image through the backbone once."""

import json

import pytest

from command import call, experiment, results

SWEEP = ("-m", "experiment=smoke", "optimizer=adamw")
IMAGES = {"train": 36, "val": 4, "test": 40}


def passes(folder) -> dict[str, int]:
    """Of all runs together, by split."""
    counts = [json.loads(path.read_text())["backbone_images"] for path in results(folder)]
    return {split: sum(count[split] for count in counts) for split in IMAGES}


def test_all_settings_of_a_probe_and_vqt_cost_one_pass_and_equal_uncached_runs(tmp_path):
    sweep = (*SWEEP, "method=linear,vqt", "optimizer.lr=0.3,1e-4", "method.lr.adamw=1e-3")
    assert call(*sweep, cwd=tmp_path).code == 0
    stored = results(tmp_path / "runs")
    assert len(stored) == 4
    assert passes(tmp_path / "runs") == IMAGES
    assert call(*sweep, "runs=uncached", "features.use=never", cwd=tmp_path).code == 0
    for path, other in zip(stored, results(tmp_path / "uncached"), strict=True):
        assert path.parent.name == other.parent.name
        found, expected = (json.loads(each.read_text())["metrics"] for each in (path, other))
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("methods", ["linear,vqt,head2toe", "glob([l*near,head*])", "vqt,linear"])
def test_the_first_run_stores_for_all(methods, tmp_path):
    assert call(*SWEEP, f"method={methods}", cwd=tmp_path).code == 0
    assert len(results(tmp_path / "runs")) > 1
    assert passes(tmp_path / "runs") == IMAGES


def test_a_sweep_in_an_experiment_file_counts_too(tmp_path):
    text = "defaults: [smoke]\nhydra: { mode: MULTIRUN, sweeper: { params: { method: 'linear,vqt' } } }\n"
    assert call(*experiment(tmp_path, "both", text), cwd=tmp_path).code == 0
    assert len(results(tmp_path / "runs")) == 2
    assert passes(tmp_path / "runs") == IMAGES


def test_sweeps_of_one_kind_of_method_store_no_more_than_they_read(tmp_path):
    assert call(*SWEEP, "method=linear,vpt_deep", "seed=0", cwd=tmp_path).code == 0
    assert list((tmp_path / "store").glob("*-contexts.safetensors")) == []


def test_what_is_wrong_with_a_point_is_said_at_its_turn(tmp_path):
    outcome = call(*SWEEP, "method=linear,vqtt", cwd=tmp_path)
    assert outcome.code == 1
    assert "method: no option 'vqtt'; " in outcome.err
    assert "Callback" not in outcome.err


def test_methods_that_grids_name_count_too(tmp_path):
    grids = "+hydra.sweeper={grids: {probe: {method: linear}, queries: {method: vqt, optimizer.lr: '1e-3,1e-2'}}}"
    assert call(*SWEEP, grids, cwd=tmp_path).code == 0
    assert len(results(tmp_path / "runs")) == 3
    assert passes(tmp_path / "runs") == IMAGES


def test_a_method_chosen_among_grids_stores_no_more_than_it_reads(tmp_path):
    grids = "+hydra.sweeper={grids: {probe: {method: linear}, queries: {method: vqt}}}"
    assert call(*SWEEP, grids, "method=linear", cwd=tmp_path).code == 0
    assert len(results(tmp_path / "runs")) == 1
    assert list((tmp_path / "store").glob("*-contexts.safetensors")) == []
