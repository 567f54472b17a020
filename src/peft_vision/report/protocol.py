"""The protocol of a test figure: which images trained beside the training part, and which ones chose.

It is the other axis of a report, beside the data: figures of two protocols are of the same test images, and neither
compare nor have a mean. Leaderboards and tables are of one each.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from peft_vision.report.finished import Finished, is_tuning

Protocol = Literal["all", "final", "peek"]

WORDS: Mapping[Protocol, str] = {
    "all": "validation images kept apart",
    "final": "trained on validation images too",
    "peek": "chosen on test images",
}
_TUNED_FOR: tuple[Protocol, ...] = ("final", "all", "peek")  # in the order of what runs of data.stage=tune are for
_ANY: tuple[Protocol, ...] = ("all", "final", "peek")


def protocol(run: Finished) -> Protocol:
    """Return the protocol of a run that saw test images. Without validation images, all that are not of the test
    trained."""
    stage = run.setting.get("data.stage")
    if stage == "peek":
        return "peek"
    return "final" if stage == "final" or "val" not in run.images else "all"


def protocols(setting: Mapping[str, Any]) -> tuple[Protocol, ...]:
    """Return the protocols that a run without a test figure may belong to, the likeliest first."""
    if is_tuning(setting):
        return _TUNED_FOR
    stage = setting.get("data.stage", "all" if any(key.startswith("data.") for key in setting) else None)
    return (stage,) if isinstance(stage, str) and stage in WORDS else _ANY


def titled(name: str, its: Protocol, among: Iterable[Protocol]) -> str:
    """Return the name with the protocol in words, where there are several `among` which to tell it."""
    return f"{name}, {WORDS[its]}" if len(set(among)) > 1 else name
