"""choice.json: how the setting of a run was chosen, in the folder of each run that it was chosen for.

settings    how many were tried in its cell, those within a run too
runs        in how many runs
rule        in words
selection   the split that decided: validation; test is what some papers do, and is no honest figure
validation  mean accuracy of the setting over the tuning seeds, null where the test images decided
chosen      overrides that set it apart from the others that were tried
superseded  whether a later tuning that tried all of those again, and more, chose another setting
tuned       identities of the tuning runs of this setting
setting     equal in runs that differ by their seed alone
"""

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from peft_vision.report.choose import RULE
from peft_vision.run import Run, writing
from peft_vision.sweep.point import Ended
from peft_vision.tuning.cells import Decision, Selection, setting


def write_choice(decision: Decision, results: Sequence[Ended], selection: Selection, runs: Path) -> None:
    """For `results`, runs of the setting that won, and for all earlier ones in the folder `runs` that it concerns."""
    done = [its for its in results if its.result is not None]
    if not done:
        return
    record = {
        "settings": decision.settings,
        "runs": len({its.point.experiment.identity for its in decision.tuned}),
        "rule": RULE if selection == "validation" else RULE.replace("validation", "test"),
        "selection": selection,
        "validation": decision.accuracy if selection == "validation" else None,
        "chosen": decision.values,
        "superseded": False,
        "tuned": sorted(its.point.experiment.identity for its in decision.chosen),
        "setting": setting(done[0].point.experiment),
    }
    experiments = [its.point.experiment for its in decision.tuned]
    competed = {name for experiment in experiments for name in (experiment.identity, experiment.first_identity)}
    own = {its.point.folder() for its in done}  # whatever earlier versions called their setting
    with writing(runs), FileLock(runs / ".choice.lock"):
        for folder in {*(path.parent for path in runs.glob("*/choice.json")), *(its.point.folder() for its in done)}:
            run = Run(folder)
            before = run.read_choice()
            if folder in own or before is None or before["setting"] == record["setting"]:
                now = record
            else:
                now = {**before, "superseded": before["superseded"] or competed.issuperset(before["tuned"])}
            if now != before:
                run.write_choice(now)
