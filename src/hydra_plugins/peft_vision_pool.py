"""hydra/launcher=pool, where Hydra looks for it."""

from peft_vision.launch.pool import PoolOfProcesses


class Pool(PoolOfProcesses):
    pass
