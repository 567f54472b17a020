"""This module reads the table of FMoW-WILDS with the category, region and split of each image (Christie et al., 2018,
arXiv:1711.07846; Koh et al., 2021, arXiv:2012.07421).

path/RELEASE_v1.1.txt  path/rgb_metadata.csv  path/country_code_mapping.csv  path/images/rgb_img_<row>.png

WILDS' splits   train, id_val, id_test       val                     test
are rows of     train, val, test to 2012     val from 2013 to 2015   test from 2016
"""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import open_regular
from peft_vision.data.pictures import Files, Labelled, labelled

REGIONS = ("Africa", "Americas", "Asia", "Europe", "Oceania", "Other")
_RELEASE, _ROWS, _COUNTRIES, _IMAGES = "RELEASE_v1.1.txt", "rgb_metadata.csv", "country_code_mapping.csv", "images"
_BEFORE_2013 = {"train": "train", "val": "id_val", "test": "id_test", "seq": None}
_ORIGIN = (
    f"FMoW-WILDS v1.1 (54 GB packed) is at wilds.stanford.edu/downloads; path is the folder that holds {_RELEASE}, "
    f"{_ROWS}, {_COUNTRIES} and {_IMAGES}/rgb_img_0.png"
)


class FMoWRow(NamedTuple):
    """A row of the table: `image` is its number, and `split` is one of WILDS' splits, or None if it is in none."""

    image: int
    split: str | None
    category: str
    region: str


@dataclass(frozen=True)
class FMoWTable:
    """The rows of a copy in `folder`; `prefix` precedes config keys in messages, such as "data."."""

    folder: Path
    prefix: str
    rows: list[FMoWRow]

    @property
    def categories(self) -> tuple[str, ...]:
        """Return all categories, sorted as WILDS numbers them."""
        return tuple(sorted({row.category for row in self.rows}))

    def images(self, split: str, regions: Collection[str]) -> Labelled:
        """Return the images of `regions` in one of WILDS' splits, labelled by the position of their category in
        `categories`. ConfigError if there are none."""
        rows = [row for row in self.rows if row.split == split and row.region in regions]
        if not rows:
            there = ", ".join(sorted({row.region for row in self.rows if row.split == split})) or "none"
            raise ConfigError(
                f"{self.prefix}regions: no image of {', '.join(regions)} in split {split}; it has {there}"
            )
        paths = [f"{_IMAGES}/rgb_img_{row.image}.png" for row in rows]
        if not (self.folder / paths[0]).is_file():
            raise ConfigError(f"{self.prefix}path: no {self.folder / paths[0]}\n{_ORIGIN}")
        places = {category: place for place, category in enumerate(self.categories)}
        return labelled(Files(self.folder, paths), [places[row.category] for row in rows])


def check(folder: Path, *, prefix: str) -> None:
    """Raise ConfigError unless the files exist."""
    if not folder.is_dir():
        raise ConfigError(f"{prefix}path: no folder {folder}\n{_ORIGIN}")
    if not (folder / _RELEASE).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("RELEASE*"))) or "no release file"
        raise ConfigError(f"{prefix}path: {folder} holds {there}, should hold {_RELEASE}\n{_ORIGIN}")
    for name in (_ROWS, _COUNTRIES, _IMAGES):
        if not (folder / name).exists():
            raise ConfigError(f"{prefix}path: no {folder / name}\n{_ORIGIN}")


def read(folder: Path, *, prefix: str) -> FMoWTable:
    """Read every row, including those in no split. ConfigError for a file that is missing, unreadable or not the
    published one."""
    check(folder, prefix=prefix)
    countries, rows = folder / _COUNTRIES, folder / _ROWS
    region_of = {code: region for _, (code, region) in _values(countries, ("alpha-3", "region"), prefix)}
    found = []
    columns = ("split", "category", "country_code", "timestamp")
    for line, (split, category, country, timestamp) in _values(rows, columns, prefix):
        if split not in _BEFORE_2013:
            known = ", ".join(_BEFORE_2013)
            raise ConfigError(
                f"{prefix}path: {rows} line {line} has split {one_line(repr(split))}, should be one of {known}"
            )
        region = region_of.get(country, "") or "Other"
        if region not in REGIONS:
            found_in = f"{one_line(country)} in region {one_line(repr(region))}"
            known = ", ".join(REGIONS[:-1])
            raise ConfigError(f"{prefix}path: {countries} has {found_in}, should be one of {known}")
        try:
            row_split = _split(split, timestamp)
        except ValueError as error:
            shown_time = one_line(repr(timestamp))
            raise ConfigError(
                f"{prefix}path: {rows} line {line} has timestamp {shown_time}, should be like 2016-02-05T19:15:47Z"
            ) from error
        found.append(FMoWRow(len(found), row_split, category, region))
    if (beyond := folder / _IMAGES / f"rgb_img_{len(found)}.png").exists():
        raise ConfigError(f"{prefix}path: {rows} ends before the row of {beyond.name}; fetch it again")
    return FMoWTable(folder, prefix, found)


def _split(split: str, timestamp: str) -> str | None:
    """Return WILDS' split of a row from the csv's split; ValueError for a malformed time or one without a time zone."""
    if split == "seq":  # sequestered
        return None
    time = datetime.fromisoformat(timestamp)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    year = time.astimezone(UTC).year
    if year < 2013:
        return _BEFORE_2013[split]
    return split if split == ("val" if year < 2016 else "test") else None


def _values(path: Path, columns: tuple[str, ...], prefix: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of `columns` for each row."""
    try:
        with TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if not set(columns) <= set(header):
                raise ConfigError(
                    f"{prefix}path: {path} has the columns {one_line(', '.join(header)) or '(none)'}; "
                    f"those of v1.1 hold {', '.join(columns)}"
                )
            places = [header.index(column) for column in columns]
            for row in filter(None, reader):
                if len(row) != len(header):
                    found = f"{len(row)} values, should have {len(header)}"
                    raise ConfigError(f"{prefix}path: {path} line {reader.line_num} has {found}")
                yield reader.line_num, [row[place] for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{prefix}path: cannot read {path} ({error}), a csv file; fetch it again") from error
