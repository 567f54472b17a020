"""Miniature copies of DomainNet and FMoW-WILDS in their real layouts on disk. A picture's grey tells its class."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from peft_vision.core.config import CONFIG_DIR, build
from peft_vision.data.domainnet_names import SENTRY40
from peft_vision.data.pictures import Labelled
from peft_vision.ood.base import OOD

OTHERS = ("The_Mona_Lisa", "angel", "ceiling_fan", "t-shirt", "zebra")
DOMAINNET = tuple(sorted((*SENTRY40, *OTHERS), key=str.lower))  # by their labels, as in the published lists
CATEGORIES = ("airport", "barn", "multi-unit_residential", "zoo")
COUNTRIES = {"USA": "Americas", "BRA": "Americas", "KEN": "Africa", "FRA": "Europe", "JPN": "Asia", "ATA": ""}
STEP = 4  # grey values from class to class, wider than JPEG blurs them
OLD, BETWEEN, NEW = "2010-05-01T10:20:30Z", "2014-05-01T10:20:30Z", "2016-05-01T10:20:30Z"


@cache
def _node(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(f"ood/{name}").ood[name])


def make_ood(name: str, **overrides: object) -> OOD:
    """conf/ood/<name>.yaml with overrides, built."""
    return build(_node(name) | overrides, OOD, f"ood.{name}")


def picture(place: int) -> Image.Image:
    return Image.new("RGB", (12, 10), (STEP * place,) * 3)


def shown(part: Labelled) -> list[int]:
    """The class in each of its pictures, in order."""
    return [round(part.pictures.read(index).getpixel((5, 5))[0] / STEP) for index in part.indices.tolist()]


def domainnet(root: Path, *domains: str) -> Path:
    """Two training and one test picture of each class; lists of all classes beside the domains, SENTRY's in txt/. As in
    the published lists, painting has no t-shirt to train on."""
    (root / "txt").mkdir(parents=True)
    for domain in domains:
        lines = {"train": [], "test": []}
        for label, name in enumerate(DOMAINNET):
            (root / domain / name).mkdir(parents=True)
            for number, split in enumerate(("train", "train", "test")):
                path = f"{domain}/{name}/{domain}_{label + 1:03d}_{number + 1:06d}.jpg"
                picture(label).save(root / path)
                if (domain, name, split) != ("painting", "t-shirt", "train"):
                    lines[split].append((path, name, label))
        for split, found in lines.items():
            listing(root / f"{domain}_{split}.txt", [f"{path} {label}" for path, _, label in found])
            mini = [f"{path} {SENTRY40.index(name)}" for path, name, _ in found if name in SENTRY40]
            listing(root / "txt" / f"{domain}_{split}_mini.txt", mini)
    return root


def listing(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


def fmow(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """`rows`: split, category, country code and timestamp of each image, as in the csv."""
    (folder / "images").mkdir(parents=True)
    (folder / "RELEASE_v1.1.txt").write_text("")
    with (folder / "rgb_metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "split", "lat", "lon", "country_code", "cloud_cover", "timestamp"])
        for number, (split, category, country, timestamp) in enumerate(rows):
            writer.writerow([category, split, "1.5", "-2.5", country, "0", timestamp])
            picture(CATEGORIES.index(category)).save(folder / "images" / f"rgb_img_{number}.png")
    lines = ["name,alpha-2,alpha-3,country-code,iso_3166-2,region,sub-region"]
    lines += [f'"Land of {code}, Åland",{code[:2]},{code},001,ISO,{region},' for code, region in COUNTRIES.items()]
    (folder / "country_code_mapping.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def world() -> list[tuple[str, str, str, str]]:
    """Every category in every country, split and time, but no zoo to train on in the Americas."""
    return [
        (split, category, country, time)
        for country in (*COUNTRIES, "XKX")  # a country that the mapping lacks
        for time in (OLD, BETWEEN, NEW)
        for split in ("train", "seq", "val", "test")
        for category in reversed(CATEGORIES)
        if (split, category) != ("train", "zoo") or country not in ("USA", "BRA")
    ]
