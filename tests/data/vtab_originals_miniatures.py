"""Miniature copies of what VTAB's data sets were published as, in their true formats. Each writer takes the folder of
data sets and a picture maker; what the tests compare with is said beside it."""

import gzip
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

import miniatures
from tfrecord_writer import example_bytes, write_records

Picture = Callable[..., Image.Image]

CALTECH = {"BACKGROUND_Google": 31, "ant": 32, "bee": 33}
"""Images of each class."""


def caltech101(root: Path, picture: Picture) -> None:
    """Those of a class are one file under many names."""
    for key, (name, count) in enumerate(CALTECH.items()):
        folder = root / "caltech101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        picture(key).save(folder / "image_0001.jpg")
        for number in range(2, count + 1):
            os.link(folder / "image_0001.jpg", folder / f"image_{number:04d}.jpg")


def resisc45(root: Path, picture: Picture) -> None:
    for key, name in enumerate(["airplane", "beach"]):
        folder = root / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for number in range(1, 6):
            picture(10 * key + number).save(folder / f"{name}_{number:03d}.jpg")


SUN = {
    "train": ["/a/abbey/sun_a.jpg", "/c/church/outdoor/sun_b.jpg", "/c/church/outdoor/sun_c.jpg"],
    "va": ["/a/abbey/sun_d.jpg"],
    "te": ["/c/church/indoor/sun_e.jpg", "/a/abbey/sun_f.jpg"],
}
"""The lines of the lists; the classes are /a/abbey, /c/church/indoor and /c/church/outdoor."""


def sun397(root: Path, picture: Picture) -> None:
    """PNGs by the name of JPEGs, as some of the published are; sun_f is of 500 x 300 pixels."""
    folder = root / "SUN397"
    folder.mkdir(parents=True)
    (folder / "ClassName.txt").write_text("/c/church/outdoor\n/a/abbey\n/c/church/indoor\n")
    for split, name in {"train": "tr", "va": "va", "te": "te"}.items():
        (root / f"sun397_tfds_{name}.txt").write_text("".join(f"{line}\n" for line in SUN[split]))
        for line in SUN[split]:
            (folder / line[1:]).parent.mkdir(parents=True, exist_ok=True)
            size = (500, 300) if line.endswith("sun_f.jpg") else (20, 24)
            picture(ord(line[-5]), *size).save(folder / line[1:], "PNG")


CAMELYON = {"train": [0, 1, 1], "valid": [1, 0], "test": [0, 0, 1, 1]}


def camelyon_pixels(split: str) -> np.ndarray:
    """(n, 96, 96, 3)."""
    labels = CAMELYON[split]
    return np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 96, 96, 3), dtype=np.uint8)


def camelyon(root: Path, picture: Picture) -> None:
    folder = root / "pcam"
    folder.mkdir(parents=True)
    for split, labels in CAMELYON.items():
        with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_x.h5", "w") as file:
            file["x"] = camelyon_pixels(split)
        with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_y.h5", "w") as file:
            file["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)


RETINOPATHY = {
    "train": {"10_left": 0, "10_right": 4, "13_left": 2},
    "Public": {"1_left": 3, "3_right": 1},
    "Private": {"1_right": 0, "2_left": 1, "2_right": 4},
}


def retinopathy(root: Path, picture: Picture) -> None:
    folder = root / "diabetic_retinopathy"
    for part, images in RETINOPATHY.items():
        split = "train" if part == "train" else "test"
        (folder / split).mkdir(parents=True, exist_ok=True)
        for key, name in enumerate(images):
            picture(key, 60, 40).save(folder / split / f"{name}.jpeg")
    train = [f"{name},{level}" for name, level in RETINOPATHY["train"].items()]
    (folder / "trainLabels.csv").write_text("\n".join(["image,level", *train]) + "\n")
    # the published file mixes the two, and its line of 1_right stands between the public ones
    solution = [("1_left", "Public"), ("1_right", "Private"), ("2_left", "Private"), ("2_right", "Private")]
    solution.append(("3_right", "Public"))
    lines = [f"{name},{RETINOPATHY[usage][name]},{usage}" for name, usage in solution]
    (folder / "retinopathy_solution.csv").write_text("\n".join(["image,level,Usage", *lines]) + "\n")


CLEVR = {
    "train": [[11.0, 8.2, 12.0], [7.5] * 10, [9.0, 9.1, 30.0, 12.0], *[[10.5, 10.2, 20.0]] * 7],
    "val": [[8.5, 9.9, 10.0], [9.7, 11.0, 12.0, 13.0, 14.0]],
}
"""How far the objects of each scene are."""
CLEVR_COUNT = {"train": [0, 7, 1, 0, 0, 0, 0, 0, 0, 0], "val": [0, 2]}
CLEVR_DISTANCE = {"train": [1, 0, 2, 5, 5, 5, 5, 5, 5, 5], "val": [1, 4]}


def clevr(root: Path, picture: Picture) -> None:
    folder = root / "CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    for split, scenes in CLEVR.items():
        (folder / "images" / split).mkdir(parents=True)
        described = []
        for index, depths in enumerate(scenes):
            name = f"CLEVR_{split}_{index:06d}.png"
            picture(index).convert("RGBA").save(folder / "images" / split / name)  # as published
            objects = [
                {"color": "red", "3d_coords": [0.5, -1.0, 0.35], "pixel_coords": [10, 20, depth]} for depth in depths
            ]
            relations = {"right": [[1, 2], [], [0]], "behind": [[], [0], [1]]}
            described.append(
                {"image_index": index, "image_filename": name, "objects": objects, "relationships": relations}
            )
        content = {"info": {"split": split, "license": "CC BY 4.0"}, "scenes": described}
        (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps(content))


DMLAB = {"train": [3, 0, 5, 1], "validation": [2, 4], "test": [0, 1, 2]}


def dmlab(root: Path, picture: Picture) -> None:
    """train in two files; image n of a split is picture(n)."""
    for split, labels in DMLAB.items():
        payloads = []
        for key, label in enumerate(labels):
            buffer = BytesIO()
            picture(key).save(buffer, "PNG")
            features = {"image": [buffer.getvalue()], "filename": [f"{split}_{key}.jpg".encode()], "label": [label]}
            payloads.append(example_bytes(features))
        shards = [payloads[:3], payloads[3:]] if split == "train" else [payloads]
        for number, shard in enumerate(shards):
            write_records(root / "dmlab" / f"dmlab-{split}.tfrecord-{number:05d}-of-{len(shards):05d}", shard)


KITTI_VIDEOS = [f"2011_09_26_drive_{number:04d}_sync" for number in range(10)]
KITTI = [0, 1, 2, 3, 0] * 4
"""The label of each image; image n is of video (3 n + 1) % 10."""
_BOX = "0.00 0 1.57 0.00 100.00 50.00 200.00 1.50 1.60 4.00"
_KITTI_TEXTS = [
    [f"Pedestrian {_BOX} 1.0 1.5 2.00 0.1", f"Car {_BOX} 0.0 1.5 60.00 0.1", f"Van {_BOX} 0.0 1.5 7.50 0.1"],
    [f"Truck {_BOX} 0.0 1.5 20.00 0.1", "DontCare -1 -1 -10 0.00 1.00 2.00 3.00 -1 -1 -1 -1000 -1000 -1000 -10"],
    [f"Car {_BOX} 0.0 1.5 20.50 0.1"],
    [f"Tram {_BOX} 0.0 1.5 5.00 0.1", f"Cyclist {_BOX} 0.0 1.5 3.00 0.1"],
    [f"Car {_BOX} 0.0 1.5 8.00 0.1"],
]


def kitti(root: Path, picture: Picture) -> None:
    training, mapping = root / "kitti" / "training", root / "kitti" / "mapping"
    (training / "image_2").mkdir(parents=True)
    (training / "label_2").mkdir()
    mapping.mkdir()
    for image in range(len(KITTI)):
        picture(image).save(training / "image_2" / f"{image:06d}.png")
        (training / "label_2" / f"{image:06d}.txt").write_text("\n".join(_KITTI_TEXTS[image % 5]) + "\n")
    lines = [f"2011_09_26 {KITTI_VIDEOS[line // 2]} {line:010d}\n" for line in range(len(KITTI))]
    (mapping / "train_mapping.txt").write_text("".join(lines))
    # image n is of line (6 n + 2 + n // 10) % 20, and a video has two lines
    numbers = [(6 * image + 2 + image // 10) % 20 + 1 for image in range(len(KITTI))]
    (mapping / "train_rand.txt").write_text(",".join(map(str, numbers)))


def dsprites_arrays() -> tuple[np.ndarray, np.ndarray]:
    """(20, 64, 64) of 0 and 1; (20, 6) of which x is 31 - n and the orientation 2 n."""
    images = np.random.default_rng(0).integers(0, 2, (20, 64, 64), dtype=np.uint8)
    classes = np.zeros((20, 6), np.int64)
    classes[:, 4] = 31 - np.arange(20)
    classes[:, 3] = 2 * np.arange(20)
    return images, classes


DSPRITES_LOCATION = [15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6]
DSPRITES_ORIENTATION = [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12, 13, 14, 15]


def dsprites(root: Path, picture: Picture) -> None:
    images, classes = dsprites_arrays()
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        metadata=np.array({"title": "dSprites"}, dtype=object),
        imgs=images,
        latents_classes=classes,
        latents_values=classes.astype(np.float64),
    )


SMALLNORB_INFO = {
    "training": [(4, 0, 0, 5), (6, 8, 34, 0), (7, 3, 10, 1)],
    "testing": [(0, 1, 2, 0), (1, 2, 4, 1), (2, 4, 8, 2), (3, 5, 16, 3), (5, 6, 32, 4), (0, 7, 30, 5)],
}
SMALLNORB_AZIMUTH = {"training": [0, 17, 5], "testing": [1, 2, 4, 8, 16, 15]}
SMALLNORB_ELEVATION = {"training": [0, 8, 3], "testing": [1, 2, 4, 5, 6, 7]}
SMALLNORB_NAMES = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}


def smallnorb_pixels(part: str) -> np.ndarray:
    """(n, 2, 96, 96)."""
    count = len(SMALLNORB_INFO[part])
    return np.random.default_rng(count).integers(0, 256, (count, 2, 96, 96), dtype=np.uint8)


def matrix(values: np.ndarray) -> bytes:
    """As smallNORB's site describes its files."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[values.dtype.name]
    sizes = [*values.shape, *[1] * (3 - values.ndim)]
    return np.array([magic, values.ndim, *sizes], "<i4").tobytes() + values.tobytes()


def smallnorb(root: Path, picture: Picture) -> None:
    """Training packed, as published; testing unpacked."""
    folder = root / "smallnorb"
    folder.mkdir(parents=True)
    for part, name in SMALLNORB_NAMES.items():
        arrays = {"dat": smallnorb_pixels(part), "info": np.array(SMALLNORB_INFO[part], np.int32)}
        for kind, values in arrays.items():
            if part == "training":
                (folder / f"{name}-{kind}.mat.gz").write_bytes(gzip.compress(matrix(values)))
            else:
                (folder / f"{name}-{kind}.mat").write_bytes(matrix(values))


WRITERS = {
    "caltech101": caltech101,
    **{name: miniatures.WRITERS[name] for name in ("cifar100", "dtd", "flowers102", "pets", "svhn")},
    "sun397": sun397,
    "camelyon": camelyon,
    "eurosat": miniatures.eurosat,
    "resisc45": resisc45,
    "retinopathy": retinopathy,
    "clevr_count": clevr,
    "clevr_distance": clevr,
    "dmlab": dmlab,
    "kitti": kitti,
    "dsprites_location": dsprites,
    "dsprites_orientation": dsprites,
    "smallnorb_azimuth": smallnorb,
    "smallnorb_elevation": smallnorb,
}
