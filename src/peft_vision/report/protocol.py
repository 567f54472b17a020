"""This module finds the protocol of a test figure: which images were trained on, and which images chose the setting.

The protocol is an axis of a report, as the data set is: figures of two protocols are of the same test images, but can
neither be compared nor averaged. Each leaderboard and each table shows one protocol.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from peft_vision.report.finished import RunRecord, is_tuning

Protocol = Literal["all", "final", "peek"]

WORDS: Mapping[Protocol, str] = {
    "all": "validation images kept apart",
    "final": "trained on validation images too",
    "peek": "chosen on test images",
}
_TUNED_FOR: tuple[Protocol, ...] = ("final", "all", "peek")  # what runs of data.stage=tune prepare, the likeliest first
_ANY: tuple[Protocol, ...] = ("all", "final", "peek")


def protocol(run: RunRecord) -> Protocol:
    """Return the protocol of a run that saw test images. Without validation images it is final, because all images
    outside the test split trained."""
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


def titled(name: str, protocol_name: Protocol, among: Iterable[Protocol]) -> str:
    """Return the name, with the protocol in words where `among` holds several."""
    return f"{name}, {WORDS[protocol_name]}" if len(set(among)) > 1 else name
