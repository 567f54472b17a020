"""How validation answers to rate and decay: what was not tried is hatched, what was chosen is marked."""

from boards import board
from made_up_runs import write_attempt, write_run
from peft_vision.report.response import Response, responses
from peft_vision.report.response_plot import response_plot


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
    its = response(tmp_path)["full"]
    assert [round(its.tried[lr, 0.01].accuracy, 6) for lr in (0.1, 0.2)] == [0.65, 0.75]
    assert its.chosen == (0.2, 0.01)


def test_of_settings_with_one_rate_and_decay_the_best_counts(tmp_path):
    for lr in (0.1, 0.2):
        for epochs in (3, 6):
            trainer = {"_target_": "peft_vision.trainer.Trainer", "epochs": epochs, "eval_batch_size": 1}
            write_run(tmp_path / str(epochs), lr=lr, val=epochs / 10, config={"trainer": trainer})
    assert {its.accuracy for its in response(tmp_path)["full"].tried.values()} == {0.6}


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
    its = response(tmp_path)["full"]
    assert its.failed == {(1e30, 0.01)}
    assert written(response_plot({"full": its}, "digits")) == ["failed"]


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
