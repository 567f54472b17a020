"""A writer of TIFF files with any number of samples a pixel, after the specification (revision 6.0, 1992)."""

import struct
import zlib

import numpy as np


def tiff(
    values: np.ndarray, *, order="<", planes=False, tile=None, rows=None, deflate=False, differences=False, **tags
):
    """The file of `values` (H, W, C), uint8 or uint16. `tile`: height and width of tiles; `rows`: of strips; further
    tags by number, such as t274=6, replace those that are written."""
    height, width, samples = values.shape
    layers = [values[..., i : i + 1] for i in range(samples)] if planes else [values]
    high, wide = tile or (rows or height, width)
    blocks = []
    for layer in layers:
        for top in range(0, height, high):
            for left in range(0, width, wide):
                block = layer[top : top + high, left : left + wide]
                if tile:
                    block = np.pad(block, ((0, high - block.shape[0]), (0, wide - block.shape[1]), (0, 0)))
                if differences:
                    block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
                content = block.astype(block.dtype.newbyteorder(order)).tobytes()
                blocks.append(zlib.compress(content) if deflate else content)
    lengths = [len(block) for block in blocks]
    offsets = [8 + sum(lengths[:i]) for i in range(len(blocks))]
    found = {256: width, 257: height, 258: [8 * values.itemsize] * samples, 259: 8 if deflate else 1, 262: 1}
    found |= {277: samples, 284: 2 if planes else 1, 317: 2 if differences else 1, 339: [1] * samples}
    found |= {322: wide, 323: high, 324: offsets, 325: lengths} if tile else {273: offsets, 278: high, 279: lengths}
    found |= {int(tag[1:]): value for tag, value in tags.items()}
    body = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + sum(lengths)) + b"".join(blocks)
    wide_tags = {256, 257, 273, 278, 279, 322, 323, 324, 325}
    entries, beyond = b"", b""
    start = len(body) + 2 + 12 * len(found) + 4
    for tag, value in sorted(found.items()):
        numbers = value if isinstance(value, list) else [value]
        kind, code = (4, "I") if tag in wide_tags else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            where = struct.pack(f"{order}I", start + len(beyond))
            beyond += packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + where
    return body + struct.pack(f"{order}H", len(found)) + entries + struct.pack(f"{order}I", 0) + beyond
