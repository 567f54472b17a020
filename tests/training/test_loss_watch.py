"""What is said of the training loss, and what of one that is not finite."""

import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.training.watch import LossWatch
from test_trainer import ALONE


def test_the_loss_of_an_epoch_is_the_mean_over_all_steps_and_processes():
    class Two(World):
        def gather(self, value: float) -> list[float]:
            return [value, 2 * value]

    watch = LossWatch(first_step=0)
    for step in range(1, 28):  # read after 20 steps, and at the end
        watch.add(torch.tensor(float(step)), lr=0.1)
    assert watch.shown() == {"loss": "20.000"}
    assert watch.mean(ALONE) == pytest.approx(14.0)
    assert watch.mean(Two(rank=0, size=2, device=ALONE.device)) == pytest.approx(3 * 14.0)


@pytest.mark.parametrize("bad_step", [1, 5, 23])
def test_a_loss_that_is_not_finite_names_step_rate_and_remedy(bad_step):
    def epoch() -> None:
        watch = LossWatch(first_step=100)
        for step in range(1, 40):
            watch.add(torch.tensor(float("nan") if step >= bad_step else 1.0), lr=step / 1000)
        watch.mean(ALONE)

    with pytest.raises(ConfigError) as raised:
        epoch()
    message = str(raised.value)
    assert f"became nan at step {100 + bad_step}, learning rate {bad_step / 1000:.2e}" in message
    assert "optimizer.lr" in message
    assert len(message.splitlines()) == 2
