"""This module reads CUB-200-2011 (Wah et al., 2011) and NABirds (Van Horn et al., 2015): text lists whose lines hold
the id of an image or class and a value.

images.txt               1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg, below images/
image_class_labels.txt   1 1
train_test_split.txt     1 0, where 1 is for training
classes.txt              1 001.Black_footed_Albatross

Image ids may be any words, class ids any numbers: of NABirds' 1,011 classes, 555 have images.
"""

from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.listing import Copy, Listing
from peft_vision.data.reading import quoted, read_lines, refuse_repeated

_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_DIGITS = 9  # at most, of a class number


def read(copy: Copy) -> Listing:
    """Return the listing; labels are the class ids. ConfigError if the lists disagree."""
    copy.require(*_FILES, "images")
    files = tuple(copy.folder / name for name in _FILES)
    paths, classes, flags, names = map(_column, files)
    refuse_repeated(paths.values(), files[0])
    for file, column in zip(files[1:3], (classes, flags), strict=True):
        if strange := sorted(paths.keys() ^ column.keys()):
            raise ConfigError(
                f"data.root: {file} and {files[0]} differ in {len(strange)} images, first {quoted(strange[0])}; "
                "fetch both again"
            )
    known = {_number(files[3], name): title for name, title in names.items()}
    labels = {image: _number(files[1], name) for image, name in classes.items()}
    if unnamed := sorted(set(labels.values()) - known.keys()):
        raise ConfigError(f"data.root: {files[3]} lacks the class {unnamed[0]} of {files[1]}; fetch it again")
    if strange := [image for image, flag in flags.items() if flag not in ("0", "1")]:
        raise ConfigError(
            f"data.root: {files[2]} has {quoted(flags[strange[0]])} for image {quoted(strange[0])}, "
            "should be 1 (training) or 0"
        )
    splits = {
        split: {f"images/{paths[image]}": labels[image] for image in paths if flags[image] == flag}
        for split, flag in (("train", "1"), ("test", "0"))
    }
    return Listing(splits, {label: known[label] for label in sorted(set(labels.values()))}, files)


def _column(file: Path) -> dict[str, str]:
    """Read the lines of a file into a mapping from the first word of each line to the rest of that line."""
    column = {}
    for number, line in enumerate(read_lines(file, "lines of an id and what belongs to it"), start=1):
        first, _, rest = line.strip().partition(" ")
        if not rest or first in column:
            what = "says again what a line before it does" if rest else "should be two words"
            raise ConfigError(f"data.root: {file} line {number} is {quoted(line)}, {what}; fetch it again")
        column[first] = rest.strip()
    return column


def _number(file: Path, word: str) -> int:
    if not word.isdecimal() or len(word) > _DIGITS:
        raise ConfigError(f"data.root: {file} has the class {quoted(word)}, should be a number; fetch it again")
    return int(word)
