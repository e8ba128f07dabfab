"""Latents of a set, encoded once: mean and deviation are kept, and every draw samples them anew."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .base import VAE_PIXELS

if TYPE_CHECKING:
    import torch

    from .base import Base
    from .folder import ImageFolder


def encode_moments(
    base: "Base", folder: "ImageFolder", progress: Callable[[int, int], None] | None = None, batch: int | None = None
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Encode a folder's pictures at the base's native size, `batch` at a time (None: what the VAE has room for).

    Returns:
        Means and deviations [N, C, h, w], both multiplied by the VAE's scaling factor, on the base's device.
    """
    import torch

    means, deviations, pending = [], [], []
    batch = batch or max(1, VAE_PIXELS // base.picture_size**2)

    def flush() -> None:
        pixels = torch.as_tensor(np.stack(pending), device=base.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = base.vae.encode(pixels).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
        pending.clear()

    with torch.no_grad():
        for index, picture in folder.pictures(base.picture_size):
            pending.append(picture)
            if len(pending) == batch or index == len(folder) - 1:
                flush()
                if progress:
                    progress(index + 1, len(folder))
    scale = base.vae.config.scaling_factor
    return torch.cat(means) * scale, torch.cat(deviations) * scale
