"""Miniature copies of VTAB-1k's tasks: processed, in parquet files, and as TensorFlow Datasets prepares them.

Labels go 0, the highest, 1, 0, ...; a picture's grey tells its place in its split.
"""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from tfrecord_writer import example_bytes, write_records

HIGHEST = {
    "caltech101": 101,
    "cifar100": 99,
    "dtd": 46,
    "flowers102": 101,
    "pets": 36,
    "svhn": 9,
    "sun397": 396,
    "camelyon": 1,
    "eurosat": 9,
    "resisc45": 44,
    "retinopathy": 4,
    "clevr_count": 7,
    "clevr_distance": 5,
    "dmlab": 5,
    "kitti": 3,
    "dsprites_location": 15,
    "dsprites_orientation": 15,
    "smallnorb_azimuth": 17,
    "smallnorb_elevation": 8,
}
FOLDERS = {
    "cifar100": "cifar",
    "flowers102": "oxford_flowers102",
    "pets": "oxford_iiit_pet",
    "camelyon": "patch_camelyon",
    "retinopathy": "diabetic_retinopathy",
    "clevr_distance": "clevr_dist",
    "dsprites_location": "dsprites_loc",
    "dsprites_orientation": "dsprites_ori",
    "smallnorb_azimuth": "smallnorb_azi",
    "smallnorb_elevation": "smallnorb_ele",
}
"""In a processed copy, where a task is called otherwise there."""


def labels(task: str, count: int) -> list[int]:
    return ([0, HIGHEST[task], 1] * count)[:count]


def picture(place: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.new("RGB", size, (place % 256,) * 3)


def encoded(place: int, kind: str = "PNG") -> bytes:
    file = BytesIO()
    picture(place).save(file, kind)
    return file.getvalue()


def processed(folder: Path, task: str, counts: Sequence[int] = (4, 2, 3), ending: str = "png") -> Path:
    """The folder of the task; `counts` of train800, val200 and test."""
    both = []
    for split, count in zip(("train800", "val200", "test"), counts, strict=True):
        (folder / "images" / split).mkdir(parents=True)
        lines = [f"images/{split}/{place:06d}.{ending} {label}" for place, label in enumerate(labels(task, count))]
        for place, line in enumerate(lines):
            picture(place).save(folder / line.split(" ")[0])
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        both += lines if split != "test" else []
    (folder / "train800val200.txt").write_text("\n".join(both) + "\n")
    return folder


def relist(root: Path, name: str, change: Callable[[list[str]], list[str]]) -> Path:
    """A list of KITTI's processed copy in `root`, with `change` made to its lines."""
    file = root / "vtab-1k" / "kitti" / name
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    return file


def parquet(
    file: Path,
    values: Sequence[object],
    *,
    image: str = "image",
    label: str = "label",
    names: Sequence[str] | None = None,
    first: int = 0,
    plain: bool = False,
    kind: str = "PNG",
) -> Path:
    """A file of pictures and their labels, `first` the place of the first picture; `names`: of the classes, noted as
    Hugging Face does; `plain`: images are bytes and no struct. Row groups have three rows."""
    import pyarrow
    import pyarrow.parquet

    contents = [encoded(first + place, kind) for place in range(len(values))]
    images = (
        contents if plain else [{"bytes": content, "path": f"{place}.png"} for place, content in enumerate(contents)]
    )
    table = pyarrow.table({"id": list(range(len(values))), image: images, label: list(values)})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=3)
    return file


# nearest depths of CLEVR's classes, of KITTI's (metres; the last has no vehicle), orientations of dSprites' classes
CLEVR_DEPTHS = (7.5, 8.25, 8.75, 9.25, 9.75, 12.0)
KITTI_DEPTHS = (4.0, 12.5, 60.0, None)
ORIENTATIONS = {0: 2, 1: 3, 15: 38}


def features(task: str, label: int) -> dict[str, list]:
    """What an example of the data set says, of which the task makes `label`."""
    if task == "clevr_count":
        return {"objects/size": [0] * (label + 3)}
    if task == "clevr_distance":
        return {"objects/pixel_coords": [1.0, 2.0, 13.0, 3.0, 4.0, CLEVR_DEPTHS[label]]}
    if task == "kitti":
        depth = KITTI_DEPTHS[label]
        vehicle = ([2], [1.0, 1.5, depth]) if depth is not None else ([], [])
        return {"objects/type": [3, *vehicle[0]], "objects/location": [-1.0, 1.5, 2.0, *vehicle[1]]}
    if task == "dsprites_location":
        return {"label_x_position": [2 * label + 1]}
    if task == "dsprites_orientation":
        return {"label_orientation": [ORIENTATIONS[label]]}
    return {
        {"smallnorb_azimuth": "label_azimuth", "smallnorb_elevation": "label_elevation"}.get(task, "label"): [label]
    }


def prepared(folder: Path, name: str, task: str, counts: dict[str, Sequence[int]]) -> Path:
    """The folder of one version; `counts`: of records in each file of each split."""
    splits = []
    for split, lengths in counts.items():
        split_labels, place = labels(task, sum(lengths)), 0
        for shard, length in enumerate(lengths):
            payloads = [
                example_bytes({"image": [encoded(at)], **features(task, split_labels[at])})
                for at in range(place, place + length)
            ]
            place += length
            write_records(folder / f"{name}-{split}.tfrecord-{shard:05d}-of-{len(lengths):05d}", payloads)
        splits.append({"name": split, "shardLengths": [str(length) for length in lengths]})
    (folder / "dataset_info.json").write_text(json.dumps({"name": name, "splits": splits}))
    return folder
