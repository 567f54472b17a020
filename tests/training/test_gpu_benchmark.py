"""The benchmark of runs on a GPU, in a size for a CPU."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_every_table_of_the_gpu_benchmark_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--tiny", "--device", "cpu", "--methods", "lora"])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    lines = capsys.readouterr().out.splitlines()
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
