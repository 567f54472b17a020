"""The benchmark of runs on a GPU, in a size for a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_every_table_of_the_gpu_benchmark_is_printed():
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--methods", "lora"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    assert rows == [
        "| `lora`",
        "| `linear`",
        "| `lora`, peft",
        "| `lora`, here",
        "| `vpt_deep`, concatenation",
        "| `vpt_deep`, here",
    ]
    assert any(line.startswith("| false | ") for line in lines)
    assert "bits, device against host: batches equal, weights equal" in lines
