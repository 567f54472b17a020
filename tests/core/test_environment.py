"""What a run took in memory is its own."""

import subprocess
import sys

import pytest
import torch

from command import start


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_what_was_held_before_is_forgotten(tmp_path):
    program = """if True:
        import torch
        from peft_vision.core.environment import forget_peak, peak_mib
        cpu = torch.device("cpu")
        block = torch.ones(2**26)  # 256 MiB
        high = peak_mib(cpu)
        del block
        forget_peak(cpu)
        low = peak_mib(cpu)
        block = torch.ones(2**26)
        print(high, low, peak_mib(cpu))
    """
    out, _ = start(cwd=tmp_path, program=("-c", program)).communicate(timeout=60)
    high, low, again = map(float, out.split())
    assert low < high - 200
    assert again > high - 50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a parent process held")
def test_what_the_parent_process_holds_is_not_counted():
    block = torch.ones(2**29)  # 2 GiB
    program = "import torch; from peft_vision.core.environment import peak_mib; print(peak_mib(torch.device('cpu')))"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(said) < block.nbytes / 2**20
