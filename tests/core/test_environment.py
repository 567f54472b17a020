"""What a run took in memory is its own."""

import subprocess
import sys

import pytest
import torch

from peft_vision.core.environment import forget_peak, peak_mib

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_what_was_held_before_is_forgotten():
    forget_peak(CPU)  # other tests may have held more
    block = torch.ones(2**26)  # 256 MiB
    high = peak_mib(CPU)
    del block
    forget_peak(CPU)
    assert peak_mib(CPU) < high - 200
    block = torch.ones(2**26)
    assert peak_mib(CPU) > high - 50
    del block


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a parent process held")
def test_what_the_parent_process_holds_is_not_counted():
    block = torch.ones(2**29)  # 2 GiB
    program = "import torch; from peft_vision.core.environment import peak_mib; print(peak_mib(torch.device('cpu')))"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(said) < block.nbytes / 2**20
