"""A run with the default learning rate says so, and how one is chosen."""

import pytest

from command import SMOKE, call

LINE = (
    "rate      0.003 is the default of lora, not chosen for these images; "
    "-m hydra/sweeper=tune optimizer.lr=0.0009,0.003,0.009 chooses on validation"
)


def test_a_default_rate_is_said_to_be_one(tmp_path):
    assert LINE in call(*SMOKE, "method=lora", cwd=tmp_path).out


@pytest.mark.parametrize("words", [("optimizer.lr=0.002",), ("data.stage=tune",), ("method=linear", "optimizer=grid")])
def test_a_rate_that_was_given_or_is_being_chosen_is_not(words, tmp_path):
    outcome = call(*SMOKE, "method=lora", *words, cwd=tmp_path)
    assert outcome.code == 0
    assert "is the default of" not in outcome.out


def test_the_command_that_it_names_chooses_a_rate(tmp_path):
    words = LINE.split("; ")[1].removesuffix(" chooses on validation").split()
    outcome = call(*SMOKE, "method=lora", *words, cwd=tmp_path)
    assert outcome.code == 0
    assert len(list((tmp_path / "runs").glob("*/choice.json"))) == 3  # its final runs, of three seeds
