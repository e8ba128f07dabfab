"""Latents of a set, encoded once: mean and deviation are kept, and every draw samples them anew."""

import shutil
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..debias.error import DDMError
from ..debias.picture import open_picture
from .base import VAE_PIXELS
from .latent_cache import LatentCache

if TYPE_CHECKING:
    import torch

    from .base import Base
    from .folder import ImageFolder

# A shard of the cache is written after so many pictures or seconds: what a killed run loses at the most.
SHARD, SECONDS = 256, 20.0


def encode_moments(
    base: "Base",
    folder: "ImageFolder",
    progress: Callable[[int, int], None] | None = None,
    batch: int | None = None,
    cache: Path | None = None,
    flip: bool = False,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Encode a folder's pictures at the base's native size, cropped to the centre square.

    Args:
        progress: called with (pictures done, pictures).
        batch: pictures at a time; None: what the VAE has room for.
        cache: a folder that keeps the latents; what is there already is not encoded again. While the pass works, only
            one shard of it is in memory, and a stopped pass goes on where it was, in the same batches.
        flip: the pictures' mirror images.

    Returns:
        Means and deviations [N, C, h, w], both multiplied by the VAE's scaling factor, on the base's device.

    Raises:
        DDMError: a picture that was readable no longer is; or the cache has no room or may not be written.
    """
    import torch

    store = LatentCache(cache, base, base.picture_size) if cache else None
    keys = [item.digest + ("-flip" if flip else "") for item in folder.items]
    missing = _first(keys)
    if store:
        missing = [row for row in missing if keys[row] not in store]
        _check_room(store, len(missing))
    done = {} if store is None else None
    batch = batch or max(1, VAE_PIXELS // base.picture_size**2)
    pending: list[tuple[list[str], torch.Tensor, torch.Tensor]] = []
    began = time.monotonic()

    def flush() -> None:
        if pending:
            parts = list(zip(*pending, strict=True))
            store.write(list(chain(*parts[0])), torch.cat(parts[1]), torch.cat(parts[2]))
            pending.clear()

    try:
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            pixels = np.stack([np.asarray(open_picture(folder.items[row].path, base.picture_size)) for row in rows])
            mean, deviation = _encode(base, pixels[:, :, ::-1].copy() if flip else pixels)
            if done is not None:
                done |= {keys[row]: pair for row, *pair in zip(rows, mean, deviation, strict=True)}
            else:
                pending.append(([keys[row] for row in rows], mean.cpu(), deviation.cpu()))
                if sum(len(part[0]) for part in pending) >= SHARD or time.monotonic() - began > SECONDS:
                    flush()
                    began = time.monotonic()
            if progress:
                progress(len(keys) - len(missing) + start + len(rows), len(keys))
    finally:
        if store:
            flush()
    if store:
        return tuple(part.to(base.device) for part in store.read(keys))
    return tuple(torch.stack([done[key][part] for key in keys]) for part in range(2))


def _encode(base: "Base", pixels: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    with torch.no_grad():
        tensor = torch.as_tensor(pixels, device=base.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = base.vae.encode(tensor).latent_dist
        scale = base.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale


def _first(keys: list[str]) -> list[int]:
    """The row at which each key comes first: equal files are encoded once."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    return list(first.values())


def _check_room(store: LatentCache, count: int) -> None:
    needed = count * 8 * int(np.prod(store.cell)) * 1.05
    place = next(folder for folder in (store.folder.absolute(), *store.folder.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DDMError(
            f"The latents of {count} pictures need {needed / 2**20:,.0f} MiB in {store.folder}, and only "
            f"{free / 2**20:,.0f} MiB are free. Free some space, choose another place with --cache, or keep none "
            "with --no-cache."
        )
