"""This module checks that a copy has every picture in its lists, and the benchmark's numbers of classes and images."""

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.copy import Copy
from peft_vision.data.fgvc.listing import Listing


def require_pictures(copy: Copy, listing: Listing) -> None:
    """Raise ConfigError unless each listed picture exists, and is in one split only."""
    paths = [path for labels in listing.splits.values() for path in labels]
    listed = ", ".join(file.name for file in listing.files)
    if missing := sorted(path for path in paths if path not in copy.files):
        raise copy.fault(
            f"{copy.folder} lacks {len(missing):,} of {len(paths):,} images that {listed} name, first {missing[0]}",
            wanted=missing[0],
        )
    if len(paths) > len(set(paths)):
        shared = sorted(path for path in set(paths) if sum(path in labels for labels in listing.splits.values()) > 1)
        raise ConfigError(
            f"data.source: {len(shared):,} images are in two splits of {listed} in {copy.folder}, first {shared[0]}"
        )


def require_numbers(copy: Copy, listing: Listing) -> None:
    """Raise ConfigError unless the numbers of classes, labelled images and test images are the benchmark's. A
    validation part may have been carved from the training images."""
    collection, sizes = copy.collection, {split: len(labels) for split, labels in listing.splits.items()}
    labelled = sizes["train"] + sizes.get("val", 0)
    wanted = (collection.num_classes, collection.train + collection.val, collection.test)
    found = (len(listing.names), labelled, sizes["test"])
    if found != wanted:
        classes, train, test = (f"{number:,}" for number in wanted)
        raise ConfigError(
            f"data.root: {copy.folder} has {found[0]:,} classes, {found[1]:,} images for training and validation, "
            f"{found[2]:,} for testing; {collection.title} has {classes}, {train}, {test}\n"
            f"fetch it from {collection.site}; data.miniature=true takes what there is, proving nothing about accuracy"
        )
