"""Masks: which part of an image counts in the loss, and how much."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...debias.core.image import fit, open_image, open_opacity
from .buckets import Size
from .cache import Memory, Row, TensorCache, read, settle

if TYPE_CHECKING:
    import torch

    from .image_folder import Item

# What is masked out still counts this much: without any say, it would drift with the strength of the adapter.
FLOOR = 0.1


def read_masks(
    items: Sequence["Item"], cells: Sequence[Size], files: bool, opacity: bool, cache: Path | None
) -> list[Row | None]:
    """The masks of images on their latents' grids: uint8 [h, w], white counts; None where all or nothing is masked.

    Args:
        cells: width and height of each image's latents.
        files, opacity: whether mask files are used, and the opacity of images that have none of these.
        cache: a folder that keeps them.

    Raises:
        DDMError: a file can no longer be read; or the cache may not be written.
    """
    import torch

    store = TensorCache(cache, "masks", "", ("mask",)) if cache else Memory()
    keys, seen = [], set()
    try:
        for item, (width, height) in zip(items, cells, strict=True):
            file = item.mask if files else None
            source = f"{item.mask_digest} file" if file else f"{item.digest} opacity" if opacity else ""
            keys.append(source and f"{source} {width}x{height}")
            if not source or keys[-1] in store or keys[-1] in seen:
                continue
            seen.add(keys[-1])
            mask = open_image(file).convert("L") if file else open_opacity(item.path) or Image.new("L", (1, 1), 255)
            small = fit(mask, (width, height), Image.Resampling.BOX)
            store.add([keys[-1]], [torch.as_tensor(np.array(small)).unsqueeze(0)])
    finally:
        store.flush()
    rows = iter(settle([store[key] for key in keys if key]))
    masks = [next(rows) if key else None for key in keys]
    return [None if mask is None or len(read(mask)[0].unique()) == 1 else mask for mask in masks]


def loss_weight(mask: "torch.Tensor") -> "torch.Tensor":
    """Weights in the loss, with mean 1 for each image, of masks uint8 [B, h, w]: float32 [B, 1, h, w].

    So a small face and a large one count the same.
    """
    weight = FLOOR + (1 - FLOOR) * mask.unsqueeze(1).float() / 255
    return weight / weight.mean((1, 2, 3), keepdim=True)
