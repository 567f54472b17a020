"""This module tabulates predicted labels for a terminal: a row per picture of a few, a count per class of many."""

from collections.abc import Sequence

import torch
from rich.table import Table
from torch import Tensor

from peft_vision.core.printable import one_line

FEW = 12  # at most this many pictures get a row each
_NEXT = 2  # runner-up classes shown for each picture
_CLASSES = 30  # at most this many classes get a row each


def labels_table(names: Sequence[str], classes: Sequence[str], probabilities: Tensor) -> Table:
    """Return the table of labels of the pictures `names`, whose `probabilities` are (n, num_classes)."""
    return _each(names, classes, probabilities) if len(names) <= FEW else _counts(classes, probabilities)


def _each(names: Sequence[str], classes: Sequence[str], probabilities: Tensor) -> Table:
    table = Table("picture", "class", title="labels")
    table.add_column("probability, %", justify="right")
    table.add_column("then")
    tops = probabilities.topk(min(1 + _NEXT, len(classes)), dim=1)
    for name, shares, labels in zip(names, tops.values.tolist(), tops.indices.tolist(), strict=True):
        found = [one_line(classes[label]) for label in labels]
        then = ", ".join(f"{label} {100 * share:.1f}" for label, share in zip(found[1:], shares[1:], strict=True))
        table.add_row(one_line(name), found[0], f"{100 * shares[0]:.1f}", then)
    return table


def _counts(classes: Sequence[str], probabilities: Tensor) -> Table:
    """Return the table of classes, the most frequent first, without classes that no picture was given."""
    confidence, predicted = probabilities.max(dim=1)
    counts = torch.bincount(predicted, minlength=len(classes))
    sums = torch.zeros(len(classes), dtype=torch.double).index_add(0, predicted, confidence.double())
    order = [label for label in counts.argsort(descending=True, stable=True).tolist() if counts[label]]
    table = Table("class", title="labels")
    table.add_column("pictures", justify="right")
    table.add_column("mean probability, %", justify="right")
    for label in order[:_CLASSES]:
        count = int(counts[label])
        table.add_row(one_line(classes[label]), f"{count:,}", f"{100 * float(sums[label]) / count:.1f}")
    if rest := order[_CLASSES:]:
        table.add_row(f"{len(rest):,} more classes", f"{int(counts[rest].sum()):,}", "")
    return table
