import numpy as np
import pytest

from peft_vision.data.benchmark import TASKS
from peft_vision.data.vtab import labels


def test_three_to_ten_objects_are_eight_classes():
    assert [labels.clevr_count(count) for count in range(3, 11)] == list(range(8))


@pytest.mark.parametrize(
    ("depth", "label"),
    [(0.1, 0), (8.0, 0), (8.01, 1), (8.5, 1), (8.7, 2), (9.0, 2), (9.3, 3), (9.5, 3), (9.6, 4), (10.0, 4), (10.1, 5)],
)
def test_clevr_is_told_by_its_nearest_object(depth: float, label: int):
    assert labels.clevr_distance([30.0, depth, 12.5]) == label


def test_thresholds_are_met_in_float32():
    assert labels.clevr_distance([8.00000001]) == 0
    assert labels.clevr_distance([float(np.nextafter(np.float32(8), np.float32(9)))]) == 1


@pytest.mark.parametrize(("depth", "label"), [(-1.0, 0), (0.5, 0), (8.0, 0), (8.1, 1), (20.0, 1), (20.1, 2), (90.0, 2)])
def test_kitti_is_told_by_its_nearest_vehicle(depth: float, label: int):
    van, pedestrian, car = (labels.KITTI_TYPES.index(name) for name in ("Van", "Pedestrian", "Car"))
    assert labels.kitti_distance([pedestrian, van, car], [2.0, depth, 95.0]) == label


def test_without_a_vehicle_kitti_is_of_the_last_class():
    tram = labels.KITTI_TYPES.index("Tram")
    assert labels.kitti_distance([], []) == 3
    assert labels.kitti_distance([tram], [4.0]) == 3


def test_positions_are_paired():
    assert [labels.dsprites_location(x) for x in range(32)] == [x for x in range(16) for _ in range(2)]


def test_orientations_are_gathered_by_two_and_a_half():
    found = [labels.dsprites_orientation(orientation) for orientation in range(40)]
    assert found[:10] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert found == [int(orientation / 2.5) for orientation in range(40)]


def test_azimuths_are_halved_and_elevations_kept():
    assert [labels.smallnorb_azimuth(azimuth) for azimuth in range(0, 36, 2)] == list(range(18))
    assert [labels.smallnorb_elevation(elevation) for elevation in range(9)] == list(range(9))


def test_each_named_task_has_a_name_for_every_class():
    assert {task: len(names) for task, names in labels.CLASSES.items()} == {
        task: TASKS[task].num_classes for task in labels.CLASSES
    }
