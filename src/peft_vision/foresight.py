"""What a sweep knows before its first run: which observations its runs will read, so that one pass computes them all.

Without it a sweep over method=linear,vqt would send every image through the backbone twice: the first probe cannot know
that a later run reads more than its features.
"""

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from peft_vision.composition import complete
from peft_vision.config import ConfigError, build

_CHOOSE = ("method", "experiment")  # groups, of which the method depends


class Foresight(Callback):
    """Gives every run of a sweep `features.also`. What is wrong with a point of it is said when its turn comes."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """`config` is the sweep's; its task overrides are what the sweeper is about to take apart."""
        from peft_vision.method.base import Method  # here, because it imports torch, which --help must not

        loader = GlobalHydra.instance().config_loader()
        reads = set()
        try:
            sweeper = instantiate(config.hydra.sweeper)
            if not hasattr(sweeper, "split_arguments"):  # it finds its points as it goes
                return
            sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
            overrides = [*sweeper._parse_config(), *config.hydra.overrides.task]
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
            if any(override.get_key_element() == "features.also" for override in parsed):
                return
            (points,) = sweeper.split_arguments(parsed, max_batch_size=None)
            for point in {tuple(word for word in point if word.partition("=")[0] in _CHOOSE) for point in points}:
                method = loader.load_sweep_config(config, list(point)).method
                method = build(complete(OmegaConf.to_container(method, resolve=True)), Method, "method")
                reads.add(frozenset(method.reads()))
        except (ConfigError, HydraException, OmegaConfBaseException):
            return
        if len(reads) > 1:
            also = ",".join(sorted(frozenset.union(*reads)))
            with read_write(config), open_dict(config):
                config.hydra.overrides.task.append(f"features.also=[{also}]")
