"""Writes which classes each picture of a segmentation set shows, as a table for objective=multi_label.

python scripts/labels_of_masks.py FOLDER labels.csv sky building pole ...   classes in the order of their values from 0

FOLDER holds images/ and masks/ below each of train/, val/ and test/, and the table lies in a folder above, to which its
paths are relative. A picture shows the classes of its pixels.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image


def rows(folder: Path, table: Path, classes: list[str]) -> list[list[object]]:
    """Return a row for each picture: its path, its split, and 0 or 1 for each class. Values that are no class's, such
    as that of void pixels, are passed over."""
    found = []
    for split in ("train", "val", "test"):
        for picture in sorted((folder / split / "images").iterdir()):
            (mask,) = (folder / split / "masks").glob(f"{picture.stem}.*")
            shown = set(np.unique(np.asarray(Image.open(mask))).tolist())
            path = picture.resolve().relative_to(table.resolve().parent).as_posix()
            found.append([path, split, *(int(value in shown) for value in range(len(classes)))])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("classes", nargs="+")
    asked = parser.parse_args()
    with asked.table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "split", *asked.classes], *rows(asked.folder, asked.table, asked.classes)]
        )


if __name__ == "__main__":
    main()
