"""Imbalanced sets for the research log: people from the example set, and digits of MNIST as the DDM paper has them."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..debias.core.error import DDMError
from .imbalance import IMBALANCES
from .package import ROOT
from .recipe import image_folders

MNIST = ROOT.parent / "shared" / "data" / "mnist"
# name: (majority, minority), four to one (arXiv 2503.12536 has 0 with 1, and 7 with 8); both ways round.
DIGITS = {"digits 0:1": (0, 1), "digits 1:0": (1, 0), "digits 7:8": (7, 8), "digits 8:7": (8, 7)}
MANY, FEW = 400, 100
SETS = (*IMBALANCES, *DIGITS)


@dataclass(frozen=True)
class ImageSet:
    """Images with captions, and the truth, which only the scoring reads.

    Attributes:
        images: uint8 [N, H, W, 3].
        captions: [N].
        majority: bool [N], whether an image is of the majority.
        others: per attribute that is balanced in the set, bool [N]: one side of it.
    """

    images: np.ndarray
    captions: Sequence[str]
    majority: np.ndarray
    others: dict[str, np.ndarray]


def read_set(name: str, size: int, work: Path, mnist: Path = MNIST) -> ImageSet:
    """Read one of `SETS` at `size` × `size` pixels.

    Raises:
        DDMError: MNIST's test files are not in `mnist`.
    """
    if name in DIGITS:
        return _digits(*DIGITS[name], size, mnist)
    folder = image_folders(name, work)
    sides: dict[str, np.ndarray] = {}
    for column, values in IMBALANCES.values():
        sides.setdefault(column, np.isin(folder.column(column), values))
    column, values = IMBALANCES[name]
    others = {other: side for other, side in sides.items() if other != column}
    return ImageSet(folder.array(size), folder.captions, np.isin(folder.column(column), values), others)


def _digits(majority: int, minority: int, size: int, folder: Path) -> ImageSet:
    from PIL import Image

    names = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DDMError(f"MNIST's test files ({', '.join(missing)}) are not at hand. Name their folder with --mnist.")
    # The two headers are 16 and 8 bytes (IDX: magic number, then each dimension as 32 bits).
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=skip)
        for name, skip in zip(names, (16, 8), strict=True)
    )
    pixels = np.pad(pixels.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    rng = np.random.default_rng(0)
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == digit), count, replace=False)
            for digit, count in ((majority, MANY), (minority, FEW))
        ]
    )
    images = np.stack([np.asarray(Image.fromarray(pixels[row]).convert("RGB").resize((size, size))) for row in chosen])
    return ImageSet(images, ["a digit"] * len(images), np.arange(len(images)) < MANY, {})
