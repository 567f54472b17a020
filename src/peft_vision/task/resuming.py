"""Where a run that was stopped goes on."""

from peft_vision.adapter import load_tuned
from peft_vision.config import ConfigError
from peft_vision.data.splits import Splits
from peft_vision.experiment import Experiment
from peft_vision.model import Model
from peft_vision.phases import begin_phases
from peft_vision.run import Run
from peft_vision.trainer import Standing


def origin(model: Model, splits: Splits) -> dict[str, str]:
    """Hashes of what a run starts from."""
    return {"backbone": model.recipe.backbone["hash"], "data": splits.fingerprint}


def resume(model: Model, splits: Splits, run: Run, experiment: Experiment) -> Standing:
    """Puts the saved state, if there is one, into `model`, in the phase it was saved in."""
    state = run.read_state()
    if state is None:
        return Standing()
    for group, found in origin(model, splits).items():
        if state["origin"][group] != found:
            raise ConfigError(
                f"{group}: no longer what it was when {run.folder} began; restore it, or delete that folder"
            )
    try:
        standing = Standing(**state["standing"])
    except TypeError as error:
        raise ConfigError(f"{run.folder}/state.pt is of another version\ndelete it to begin the run anew") from error
    begin_phases(model, standing, trainer=experiment.trainer, seed=experiment.seed)
    load_tuned(model, state["tuned"])
    return standing
