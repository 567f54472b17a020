"""This module lists the benchmarks that papers report: their data sets, in table order, and the group of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from peft_vision.data.benchmark_tables import TASKS


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that papers report. `titles`, `groups`: by data set, under the name that data= takes."""

    name: str
    titles: Mapping[str, str]
    groups: Mapping[str, str]

    def of_group(self, group: str) -> list[str]:
        return [data for data, name in self.groups.items() if name == group]


_FGVC = {
    "fgvc/cub200": "CUB-200-2011",
    "fgvc/nabirds": "NABirds",
    "fgvc/flowers102": "Oxford Flowers",
    "fgvc/dogs": "Stanford Dogs",
    "fgvc/cars": "Stanford Cars",
}

BENCHMARKS = {
    "vtab": Benchmark(
        "VTAB-1k",
        {f"vtab/{task.name}": task.title for task in TASKS.values()},
        {f"vtab/{task.name}": task.group for task in TASKS.values()},
    ),
    "fgvc": Benchmark("FGVC", _FGVC, dict.fromkeys(_FGVC, "fgvc")),
}
