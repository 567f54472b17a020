"""How validation answers to rate and decay: what was not tried is hatched, what was chosen is marked."""

from boards import board, entry
from made_up_runs import write_attempt, write_run
from peft_vision.report.collect import collect
from peft_vision.report.id_ood import comparisons
from peft_vision.report.response import Response, response_plot, responses
from peft_vision.report.shift_table import remarks


def response(runs) -> dict[str, Response]:
    (problem,) = board(runs).problems
    return responses(problem)


def written(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_one_setting_has_no_response(tmp_path):
    write_run(tmp_path)
    assert response(tmp_path) == {}
    assert response_plot({}, "digits") is None


def test_a_cell_is_the_mean_over_seeds(tmp_path):
    for seed in range(2):
        for lr in (0.1, 0.2):
            write_run(tmp_path, lr=lr, seed=seed, val=0.5 + lr + seed / 10)
    full = response(tmp_path)["full"]
    assert [round(full.tried[lr, 0.01].accuracy, 6) for lr in (0.1, 0.2)] == [0.65, 0.75]
    assert full.chosen == (0.2, 0.01)


def test_of_settings_with_one_rate_and_decay_the_best_counts(tmp_path):
    for lr in (0.1, 0.2):
        for epochs in (3, 6):
            trainer = {"_target_": "peft_vision.training.trainer.Trainer", "epochs": epochs, "eval_batch_size": 1}
            write_run(tmp_path / str(epochs), lr=lr, val=epochs / 10, config={"trainer": trainer})
    assert {tried.accuracy for tried in response(tmp_path)["full"].tried.values()} == {0.6}


def test_a_grid_is_a_heat_map_with_figures_gaps_and_the_chosen_one(tmp_path):
    for lr, decay, val in ((0.1, 0.0, 0.5), (0.2, 0.0, 0.7), (0.1, 0.5, 0.6)):
        write_run(tmp_path, lr=lr, decay=decay, val=val)
    figure = response_plot(response(tmp_path), "digits")
    assert sorted(written(figure)) == ["50.0", "60.0", "70.0"]
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in hatched] == [(1, 1)]
    (chosen,) = [patch for patch in figure.axes[0].patches if not patch.get_fill() and not patch.get_hatch()]
    assert (round(chosen.get_x() + 0.46, 6), round(chosen.get_y() + 0.46, 6)) == (1, 0)


def test_a_setting_whose_runs_failed_is_written_so(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path, lr=lr, val=lr)
    write_attempt(tmp_path, lr=1e30, error="the loss became nan")
    full = response(tmp_path)["full"]
    assert full.failed == {(1e30, 0.01)}
    assert written(response_plot({"full": full}, "digits")) == ["failed"]


def test_fewer_seeds_are_told(tmp_path):
    for lr, decay in ((0.1, 0.0), (0.2, 0.0), (0.1, 0.5)):
        write_run(tmp_path, lr=lr, decay=decay)
    write_run(tmp_path, lr=0.1, decay=0.0, seed=1)
    assert sorted(written(response_plot(response(tmp_path), "digits"))) == ["50.0", "50.0\n(1)", "50.0\n(1)"]


def test_a_single_rate_with_several_decays_is_a_line_over_decays(tmp_path):
    for decay in (0.0, 0.5):
        write_run(tmp_path, decay=decay)
    (axes,) = response_plot(response(tmp_path), "digits").axes
    assert axes.get_xlabel() == "weight decay"


def solver(name: str, **values) -> dict:
    return {"optimizer": {"_target_": f"peft_vision.optimizer.{name}", **values}}


def strengths(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"C": 10.0**power, "train/loss": 0.1, "val/accuracy": accuracy} for power, accuracy in enumerate(accuracies)
    ]


def test_a_solved_probe_answers_to_the_strengths_that_it_tried(tmp_path):
    for seed in range(2):
        write_run(
            tmp_path,
            seed=seed,
            config=solver("lbfgs.LBFGS", C=[1, 10, 100]),
            solved=strengths(0.5, 0.6, 0.7 + seed / 10),
        )
    assert entry(board(tmp_path), "full", "digits").tried == 3
    (compared,) = comparisons(collect(tmp_path)[0], reference=None, transform="probit")
    assert any(remark.endswith("; tried: full 3") for remark in remarks(compared))
    full = response(tmp_path)["full"]
    assert {place: round(tried.accuracy, 6) for place, tried in full.tried.items()} == {
        (1, None): 0.5,
        (10, None): 0.6,
        (100, None): 0.75,
    }
    assert (full.chosen, full.tried[1, None].seeds) == ((100, None), 2)
    (axes,) = response_plot({"full": full}, "digits").axes
    assert axes.get_xlabel().startswith("C (")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "10", "100"]


def test_a_grid_within_a_run_answers_to_the_rates_and_decays_that_it_tried(tmp_path):
    rows = [{"lr": lr, "weight_decay": decay, "val/accuracy": lr + decay} for lr in (0.1, 0.2) for decay in (0.0, 0.5)]
    write_run(tmp_path, config=solver("grid.Grid", lr=[0.1, 0.2], weight_decay=[0, 0.5]), solved=rows)
    full = response(tmp_path)["full"]
    assert {place: tried.accuracy for place, tried in full.tried.items()} == {
        (row["lr"], row["weight_decay"]): row["val/accuracy"] for row in rows
    }
    assert full.chosen == (0.2, 0.5)
    write_run(tmp_path, lr=0.3)
    write_attempt(tmp_path, lr=1e30, error="the loss became nan")
    assert entry(board(tmp_path), "full", "digits").tried == 4 + 1 + 1


def test_what_has_no_rate_has_no_place_among_rates(tmp_path):
    """A probe that was stepped at two rates, and solved, which older versions recorded nothing of."""
    for lr in (0.1, 0.2):
        write_run(tmp_path, lr=lr, val=lr)
    write_run(tmp_path / "solved", val=0.9, config=solver("lbfgs.LBFGS", C=[1.0, 2.0]))
    full = response(tmp_path)["full"]
    assert full.rates == (0.1, 0.2)
    assert "none" not in [
        tick.get_text()
        for axes in response_plot({"full": full}, "digits").axes
        for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())
    ]


def test_a_method_that_was_stepped_and_solved_has_both_answers(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path, lr=lr, val=lr)
    write_run(tmp_path / "solved", val=0.9, config=solver("lbfgs.LBFGS", C=[1, 10]), solved=strengths(0.8, 0.9))
    found = response(tmp_path)
    assert {name: answer.rates for name, answer in found.items()} == {"full": (0.1, 0.2), "full, C": (1, 10)}
    assert found["full"].chosen is None
    assert found["full, C"].chosen == (10, None)


def test_a_final_run_marks_the_strength_that_tuning_chose(tmp_path):
    tuned = strengths(0.5, 0.7, 0.6)
    write_run(tmp_path, stage="tune", test=None, config=solver("lbfgs.LBFGS", C=[1, 10, 100]), solved=tuned)
    write_run(tmp_path, stage="final", val=None, config=solver("lbfgs.LBFGS", C=[10]), solved=[{"C": 10.0}])
    assert response(tmp_path)["full"].chosen == (10, None)


def test_hundreds_of_strengths_fit_on_a_picture(tmp_path):
    rows = [{"C": 1.0 + number, "val/accuracy": 0.5} for number in range(900)]
    write_run(tmp_path, config=solver("lbfgs.LBFGS", C=[1]), solved=rows)
    assert response_plot(response(tmp_path), "digits").get_figwidth() < 30
