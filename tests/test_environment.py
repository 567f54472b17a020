"""What a run took in memory is its own."""

import sys

import pytest
import torch

from peft_vision.environment import forget_peak, peak_mib

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_what_was_held_before_is_forgotten():
    block = torch.ones(2**26)  # 256 MiB
    high = peak_mib(CPU)
    del block
    forget_peak(CPU)
    assert peak_mib(CPU) < high - 200
    block = torch.ones(2**26)
    assert peak_mib(CPU) > high - 50
    del block
