"""What the base sees in the images of a set, read once: grouping and calibration ask for the same."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...debias.groups.features import MOST, TIMESTEPS, denoiser_features
from .cache import Memory, Progress, TensorCache, filled, gather, settle
from .text_cache import encode_texts, encoders_hash

if TYPE_CHECKING:
    from ..models.base import Base
    from .latents import Latents

# How many images are looked up at a time.
BATCH = 1024


def image_features(
    base: "Base",
    latents: "Latents",
    names: Sequence[str],
    concept: np.ndarray,
    seed: int,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, np.ndarray]:
    """Features of images under their neutral captions, as `denoiser_features` reads them. No LoRA may act on the base.

    Args:
        latents: N of one shape.
        names, concept: the distinct captions, and [N] which of them each image has.
        seed: of the noises.
        progress: called with (images read, images to read).
        cache: a folder that keeps features; those that are there are not read again. None keeps none.

    Raises:
        DDMError: the cache may not be written, or the memory does not suffice for one image.
    """
    import torch

    places = base.family.features(base.denoiser)
    timesteps = base.family.along(base, TIMESTEPS)
    parts = [f"{place}@{t}" for t in timesteps for place in places]
    maker = f"{base.identity} {encoders_hash(base)} {seed}"
    store = TensorCache(cache, "features", maker, parts) if cache else Memory()
    text = encode_texts(base, names, cache)

    def look(rows: list[int], told: Progress) -> list[torch.Tensor]:
        found = denoiser_features(
            base.denoise,
            places,
            partial(base.family.hidden, latents=latents.shape),
            base.rates,
            latents.take(rows),
            text,
            torch.as_tensor(concept[rows]),
            timesteps=timesteps,
            seed=seed,
            progress=told,
        )
        return [torch.as_tensor(found[part], dtype=torch.float32) for part in parts]

    rows = filled(store, content_keys(latents, names, concept), look, MOST, progress)
    values = gather(settle(rows), torch.device("cpu"))
    return {part: value.double().numpy() for part, value in zip(parts, values, strict=True)}


def content_keys(latents: "Latents", names: Sequence[str], concept: np.ndarray) -> list[str]:
    """What is computed of N latents under captions is found by these: `concept` [N] says which of `names` each has."""
    import torch

    keys = []
    for rows in torch.arange(len(latents)).split(BATCH):
        said = [names[one].encode("utf-8", "surrogatepass") for one in concept[rows.numpy()]]
        parts = zip(latents[rows].cpu().numpy(), said, strict=True)
        keys += [hashlib.sha256(latent.tobytes() + caption).hexdigest() for latent, caption in parts]
    return keys
