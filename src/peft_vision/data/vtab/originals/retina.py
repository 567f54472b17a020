"""This module prepares the retina photographs of VTAB's Retinopathy as the winner of the competition did (Graham,
2015): btgraham-300.

scaled so that the eye's radius is 300 pixels; 4 * image - 4 * blurred + 128; grey outside 90 % of the radius; cropped
"""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from peft_vision.data.decode import open_bytes
from peft_vision.data.vtab.originals.scaled import scaled

_RADIUS = 300  # pixels
_BLUR = _RADIUS / 30  # pixels, standard deviation
_KEPT = int(0.9 * _RADIUS)
_GREY = 128
_QUALITY = 72  # JPEG quality of the images stored for the benchmark


def btgraham_300(image: Image.Image) -> Image.Image:
    """Return the prepared image, up to 540 x 540, with the losses of the JPEG that the benchmark reads."""
    buffer = io.BytesIO()
    Image.fromarray(prepared(image)).save(buffer, "JPEG", quality=_QUALITY)
    with open_bytes(buffer.getvalue()) as stored:
        return stored.convert("RGB")


def prepared(image: Image.Image) -> np.ndarray:
    """Return the prepared image, uint8 (H, W, 3), before JPEG compression."""
    pixels = np.asarray(scaled(image, _RADIUS / _radius(image)))
    blurred = gaussian_filter(pixels.astype(np.float32), (_BLUR, _BLUR, 0), mode="mirror", truncate=3.0)
    sharp = np.clip(4.0 * pixels - 4.0 * np.rint(blurred) + _GREY, 0, 255).astype(np.uint8)
    height, width = sharp.shape[:2]
    middle, centre = height // 2, width // 2
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - middle) ** 2 + (columns - centre) ** 2 <= _KEPT**2
    masked = np.where(inside[..., None], sharp, np.uint8(_GREY))
    return masked[max(middle - _KEPT, 0) : middle + _KEPT, max(centre - _KEPT, 0) : centre + _KEPT]


def _radius(image: Image.Image) -> float:
    """Return half the number of pixels in the middle row that are not dark; half the height if no pixel is bright."""
    row = np.asarray(image)[image.height // 2].sum(axis=1, dtype=np.int64)
    radius = (row > row.mean() / 10).sum() / 2
    return radius if radius >= 1 else image.height / 2
