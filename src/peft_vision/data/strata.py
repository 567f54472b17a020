"""This module draws a part of labelled pictures that has the labels of the whole, whatever their kind.

classes  the share of every class, exact to the image (draws.py)
several  iterative stratification (Sechidis et al., 2011, "On the Stratification of Multi-Label Data", figure 1), here
         into two subsets, the part and the rest: again and again, the label with the fewest pictures left is taken, and
         each of its pictures goes to the subset that wants most of this label, on a tie to the one that wants most
         pictures. A subset that has its number of pictures gets no more.
numbers  the share of each tenth of the values, of one target; of several targets, each tenth of each is a label of
         `several`
masks    at random: which classes they show is known only once all are read

A part with the same seed lies within a larger one, up to rounding, except with several labels or several targets.
"""

import numpy as np
import torch
from torch import Tensor

from peft_vision.data.draws import bits, draw, most_drawable
from peft_vision.data.pictures import Labelled

_BINS = 10


def draw_part(
    labelled: Labelled, count: int, *, seed: int, least: int = 0, leave: int = 0
) -> tuple[Labelled, Labelled]:
    """Return `count` drawn pictures and the rest. Of every class at least `least` pictures are drawn and `leave` stay,
    of several labels as far as that goes. ValueError if `count` does not allow that."""
    labels = labelled.labels
    match labelled.labels_are:
        case "several":
            drawn, rest = _iterative(labels.numpy() > 0, count, seed=seed, least=least, leave=leave)
        case "numbers" if labels.shape[1] > 1:
            drawn, rest = _iterative(_tenths(labels), count, seed=seed, least=0, leave=0)
        case "numbers":
            tenth = torch.from_numpy(_tenths(labels).argmax(axis=1))
            drawn, rest = draw(tenth, count, seed=seed, least=0, leave=0)
        case _:
            drawn, rest = draw(labels, count, seed=seed, least=least, leave=leave)
    return labelled.subset(drawn), labelled.subset(rest)


def most_to_draw(labelled: Labelled) -> int:
    """Return how many pictures can be drawn so that one of every class stays, or of other labels, one at all."""
    if labelled.labels_are == "classes":
        return most_drawable(labelled.labels, leave=1)
    return max(0, len(labelled) - 1)


def _tenths(values: Tensor) -> np.ndarray:
    """Return, as booleans (n, 10 T), in which tenth of its target each of the values (n, T) is. Equal values are in the
    same tenth."""
    marks = []
    for target in values.numpy().astype(np.float64).T:
        edges = np.quantile(target, np.arange(1, _BINS) / _BINS)
        marks.append(np.searchsorted(edges, target, side="right")[:, None] == np.arange(_BINS))
    return np.concatenate(marks, axis=1)


def _iterative(marks: np.ndarray, count: int, *, seed: int, least: int, leave: int) -> tuple[Tensor, Tensor]:
    """Return the positions of `count` drawn rows of `marks`, booleans (n, C), and of the rest, both ascending."""
    total = len(marks)
    if not 0 <= count <= total:
        raise ValueError(f"cannot draw {count} images; 0 to {total} are possible")
    order = np.argsort(bits(torch.arange(total), seed=seed, stream=0), kind="stable")
    sides = (bits(torch.arange(total), seed=seed, stream=2) & np.uint64(1)).astype(np.int64)  # decide the last ties
    jitter = bits(torch.arange(marks.shape[1]), seed=seed, stream=1) / 2.0**65  # below 1/2: breaks ties between labels
    marks = marks[order]
    left = marks.sum(axis=0)
    drawn_of_each = np.clip(left * (count / max(1, total)), np.minimum(least, left), np.maximum(left - leave, 0))
    wanted = np.stack([drawn_of_each, left - drawn_of_each])  # pictures of each label, by the part and by the rest
    room = np.array([count, total - count])
    free, drawn = np.ones(total, dtype=bool), np.zeros(total, dtype=bool)
    while left.any():
        label = int(np.argmin(np.where(left > 0, left + jitter, np.inf)))
        for row in np.flatnonzero(free & marks[:, label]):
            side = _side(wanted[:, label], room, int(sides[row]))
            free[row], drawn[row] = False, side == 0
            wanted[side] -= marks[row]
            room[side] -= 1
            left = left - marks[row]
    unlabelled = np.flatnonzero(free)
    drawn[unlabelled[: room[0]]] = True
    places = np.zeros(total, dtype=bool)
    places[order] = drawn
    return torch.from_numpy(np.flatnonzero(places)), torch.from_numpy(np.flatnonzero(~places))


def _side(wanted: np.ndarray, room: np.ndarray, tie: int) -> int:
    """Return 0 if a picture goes to the part and 1 if to the rest, from what they still want of its label, the room
    that they have, and what decides a tie."""
    if not room.all():
        return int(np.argmax(room))
    for part, rest in (wanted, room):
        if part != rest:
            return int(rest > part)
    return tie
