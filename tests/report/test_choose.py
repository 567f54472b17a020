"""The setting that speaks for a method is chosen on validation, and on nothing else."""

import random

from made_up_runs import write_run
from peft_vision.report.choose import MethodCell, cell
from peft_vision.report.collect import collect


def chosen(runs) -> MethodCell:
    finished, _ = collect(runs)
    return cell("full", finished)


def test_the_highest_mean_over_seeds_wins(tmp_path):
    for seed, (low, high) in enumerate([(0.9, 0.7), (0.5, 0.7), (0.6, 0.7)]):
        write_run(tmp_path, seed=seed, lr=0.001, val=low)
        write_run(tmp_path, seed=seed, lr=0.01, val=high)
    method_cell = chosen(tmp_path)
    assert method_cell.chosen.own == {"optimizer.lr": 0.01}
    assert [setting.validation for setting in method_cell.settings] == [0.7, round(2 / 3, 12)]
    assert [run.seed for run in method_cell.chosen.runs] == [0, 1, 2]


def test_test_and_ood_accuracies_never_change_what_is_chosen(tmp_path):
    draw = random.Random(0)
    found = set()
    for number in range(5):
        for seed in range(2):
            for lr in (0.1, 0.2, 0.3):
                ood = {"fog": draw.random(), "snow": draw.random()}
                write_run(tmp_path / str(number), seed=seed, lr=lr, val=1 - lr, test=draw.random(), ood=ood)
        found.add(chosen(tmp_path / str(number)).chosen.label)
    assert found == {"optimizer.lr=0.1"}


def test_settings_with_fewer_seeds_do_not_compete(tmp_path):
    write_run(tmp_path, seed=0, lr=0.1, val=0.9)
    write_run(tmp_path, seed=0, lr=0.2, val=0.5)
    write_run(tmp_path, seed=1, lr=0.2, val=0.5)
    method_cell = chosen(tmp_path)
    assert method_cell.chosen.own == {"optimizer.lr": 0.2}
    assert (len(method_cell.settings), method_cell.fewer) == (2, 1)


def write_divided(runs, *, seed: int, split_seed: int, lr: float) -> None:
    data = {"_target_": "peft_vision.data.digits.Digits", "stage": "all", "split_seed": split_seed}
    write_run(runs, seed=seed, lr=lr, config={"data": data})


def test_a_division_that_each_seed_draws_is_no_setting_and_one_that_differs_otherwise_is(tmp_path):
    for seed in range(3):
        for lr in (0.1, 0.2):
            write_divided(tmp_path / "own", seed=seed, split_seed=seed, lr=lr)
        write_divided(tmp_path / "other", seed=seed, split_seed=seed % 2, lr=0.1)
    assert [(setting.own, len(setting.runs)) for setting in chosen(tmp_path / "own").settings] == [
        ({"optimizer.lr": 0.1}, 3),
        ({"optimizer.lr": 0.2}, 3),
    ]
    assert [(setting.own, len(setting.runs)) for setting in chosen(tmp_path / "other").settings] == [
        ({"data.split_seed": 0}, 2),
        ({"data.split_seed": 1}, 1),
    ]


def test_of_equal_settings_the_smallest_learning_rate_wins(tmp_path):
    # sums of the same three figures in another order differ in their last bit
    for seed, values in enumerate([(0.1, 0.3, 0.2), (0.2, 0.1, 0.3), (0.3, 0.2, 0.1)]):
        for lr, val in zip((0.3, 2e-5, 0.1), values, strict=True):
            write_run(tmp_path, seed=seed, lr=lr, val=val)
    assert [setting.own["optimizer.lr"] for setting in chosen(tmp_path).settings] == [
        2e-5,
        0.1,
        0.3,
    ]  # "0.1" comes before "2e-05"


def test_of_equal_settings_the_lowest_loss_wins_and_one_whose_loss_is_unknown_comes_after(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, lr=0.1, val=0.8, loss=0.5 + 0.4 * seed)
        write_run(tmp_path, seed=seed, lr=0.2, val=0.8, loss=0.65)
        write_run(tmp_path, seed=seed, lr=0.05, val=0.8, loss=None if seed else 0.1)
        write_run(tmp_path, seed=seed, lr=0.3, val=0.7, loss=0.1)
    assert [setting.own["optimizer.lr"] for setting in chosen(tmp_path).settings] == [0.2, 0.1, 0.05, 0.3]


def test_several_settings_without_validation_cannot_be_chosen_from(tmp_path):
    write_run(tmp_path, lr=0.1, val=None)
    assert chosen(tmp_path).chosen.validation is None
    write_run(tmp_path, lr=0.2, val=None)
    method_cell = chosen(tmp_path)
    assert method_cell.chosen is None
    assert method_cell.undecided == (
        "cannot choose among 2 settings without validation accuracy; data.val_fraction=0.1 gives it"
    )


def test_the_only_setting_has_no_label(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1)
    assert chosen(tmp_path).chosen.label == ""


def test_a_label_names_what_differs_and_another_class_by_its_name(tmp_path):
    sgd = {"_target_": "peft_vision.optimizer.base.SGD", "lr": 0.5, "weight_decay": 0.01, "momentum": 0.9}
    old = {"_target_": "peft_vision.training.trainer.Trainer", "eval_batch_size": 8}
    write_run(tmp_path, lr=0.1, val=0.3)
    write_run(tmp_path, lr=0.5, val=0.2, config={"optimizer": sgd})
    write_run(tmp_path, lr=0.7, val=0.1, config={"trainer": old})
    labels = [setting.label for setting in chosen(tmp_path).settings]
    assert labels == [
        "optimizer=AdamW, optimizer.lr=0.1, trainer.epochs=3",
        "optimizer=SGD, optimizer.lr=0.5, trainer.epochs=3",
        "optimizer=AdamW, optimizer.lr=0.7",
    ]
