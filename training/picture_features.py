"""What the base sees in the pictures of a set, read once: grouping and calibration ask for the same."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..debias.feature import TIMESTEPS, places, unet_features
from .tensor_cache import TensorCache, gather
from .text_cache import encode_texts, encoders_hash

if TYPE_CHECKING:
    import torch

    from .base import Base
    from .latents import Latents

# How many pictures are looked up or written at a time.
BATCH = 1024


def picture_features(
    base: "Base",
    latents: "Latents",
    names: Sequence[str],
    concept: np.ndarray,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> dict[str, np.ndarray]:
    """Features of pictures under their neutral captions, as `unet_features` reads them. No LoRA may act on the base.

    Args:
        latents: N of one shape.
        names, concept: the distinct captions, and [N] which of them each picture has.
        seed: of the noises.
        cache: a folder that keeps features; those that are there are not read again. None keeps none.

    Raises:
        DDMError: the cache may not be written.
    """
    import torch

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return unet_features(
            base.denoise,
            places(base.unet),
            base.scheduler.alphas_cumprod,
            latents.take(rows),
            encode_texts(base, names, cache),
            torch.as_tensor(concept[rows]),
            seed=seed,
            progress=progress,
        )

    every = np.arange(len(latents))
    if cache is None:
        return read(every)
    parts = [f"{place}@{t}" for t in TIMESTEPS for place in places(base.unet)]
    store = TensorCache(cache, "features", f"{base.hash} {encoders_hash(base)} {seed}", parts)
    split = torch.arange(len(latents)).split(BATCH)
    keys = [key for rows in split for key in _keys(latents[rows], names, concept[rows.numpy()])]
    missing = np.array([row for row in every if keys[row] not in store], dtype=int)
    if len(missing):
        found = read(missing)
        for start in range(0, len(missing), BATCH):
            some = slice(start, start + BATCH)
            tensors = [torch.as_tensor(found[part][some], dtype=torch.float32) for part in parts]
            store.add([keys[row] for row in missing[some]], tensors)
        store.flush()
    values = gather([store[key].read() for key in keys], torch.device("cpu"))
    return {part: value.double().numpy() for part, value in zip(parts, values, strict=True)}


def _keys(latents: "torch.Tensor", names: Sequence[str], concept: np.ndarray) -> list[str]:
    """What the features of latents [B, C, h, w] under captions are found by."""
    pairs = zip(latents.cpu().numpy(), (names[one].encode("utf-8", "surrogatepass") for one in concept), strict=True)
    return [hashlib.sha256(latent.tobytes() + name).hexdigest() for latent, name in pairs]
