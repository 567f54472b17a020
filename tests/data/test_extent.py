"""How much there is, where the images are not here."""

import pytest

from peft_vision.core.config import ConfigError


@pytest.mark.parametrize(
    ("stage", "images"),
    [
        ("all", {"train": 800, "val": 200, "test": 1880}),
        ("tune", {"train": 800, "val": 200}),
        ("final", {"train": 1000, "test": 1880}),
        ("peek", {"train": 1000, "val": 1880, "test": 1880}),
    ],
)
def test_of_a_benchmark_the_numbers_are_known_in_every_stage(make, stage, images):
    extent = make("vtab/dtd", root="nowhere", stage=stage).extent()
    assert (extent.images, extent.classes) == (images, 47)


def test_a_drawn_validation_part_counts(make):
    assert make("fgvc/cub200", root="nowhere").extent().images == {"train": 5395, "val": 599, "test": 5794}
    assert make("fgvc/flowers102", root="nowhere").extent().images == {"train": 1020, "val": 1020, "test": 6149}


@pytest.mark.parametrize("asked", [{"miniature": True}, {"shots": 1}, {"train_size": 400}])
def test_what_is_not_the_benchmarks_is_not_known(make, asked):
    with pytest.raises(ConfigError, match=r"data\.root: no folder"):
        make("vtab/dtd", root="nowhere", **asked).extent()


def test_at_most_so_many_test_images_are_known_to_be_scored(make):
    for size, scored in ((100, 100), (5000, 1880)):
        assert make("vtab/dtd", root="nowhere", test_size=size).extent().images["test"] == scored


def test_what_is_here_is_counted(make):
    extent = make("digits", stage="final").extent()
    assert (extent.images, extent.classes) == ({"train": 1438, "test": 359}, 10)
