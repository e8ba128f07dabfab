"""Aspect-ratio buckets: images keep their shape, and those of about the same shape go through the model together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..models.base import Base

Size = tuple[int, int]

# A bucket with fewer images is given up, and they are cropped to the next one: a step takes all its images from one
# bucket, and a step full of the same image teaches little.
FEWEST = 4
# Sides of Stable Diffusion's buckets are multiples of this.
STEP = 64


def bucket_sizes(base: "Base") -> list[Size]:
    """The sizes (width, height) in pixels that a base trains on: about the area of its square, but never more.

    Sides are multiples of what the U-Net can halve as often as it does (64 for Stable Diffusion), from half to twice
    that of the square.
    """
    side = base.image_size
    step = max(base.side_step, min(STEP, side // 8))
    sizes = {(side, side)}
    for width in range(-(-side // 2 // step) * step, 2 * side + 1, step):
        height = min(side * side // width, 2 * side) // step * step
        if height >= side // 2:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def assign(images: Sequence[Size], sizes: Sequence[Size], fewest: int = FEWEST) -> list[Size]:
    """Choose the bucket of each image (width, height): that of the nearest shape, which crops least.

    Buckets of fewer than `fewest` images are given up one by one, the smallest first, while others remain.
    """
    shapes = _shapes(images)
    left = sorted(sizes, key=lambda size: -size[0] * size[1])  # of two as near, the larger one
    while True:
        nearest = np.abs(shapes[:, None] - _shapes(left)).argmin(1)
        counts = np.bincount(nearest, minlength=len(left))
        used = np.flatnonzero(counts)
        smallest = used[counts[used].argmin()]
        if counts[smallest] >= fewest or len(used) == 1:
            return [left[number] for number in nearest]
        left = [left[number] for number in used if number != smallest]


def _shapes(sizes: Sequence[Size]) -> np.ndarray:
    width, height = np.array(sizes, dtype=float).T
    return np.log(width / height)
