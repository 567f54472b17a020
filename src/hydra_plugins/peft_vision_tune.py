"""hydra/sweeper=tune, where Hydra looks for it: it imports this with every command, so this imports little."""

from typing import Any

from hydra.plugins.sweeper import Sweeper


class Tune(Sweeper):
    def __init__(self, **options: Any) -> None:
        from peft_vision.tuning.sweeper import Tuning

        self._sweeper = Tuning(**options)

    def setup(self, **context: Any) -> None:
        self._sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> Any:
        return self._sweeper.sweep(arguments)
