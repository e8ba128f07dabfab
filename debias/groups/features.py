"""Features of images in the base model's own eyes: its activations at several depths and noise levels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.batching import fitting_rows, in_batches
from .noise import LatentSet, Rates, noise_levels

if TYPE_CHECKING:
    import torch

    from .diffusion_classifier import Denoise

TIMESTEPS = (50, 250, 500, 850)
# The most images that are read at a time.
MOST = 128


def denoiser_features(
    denoise: "Denoise",
    modules: dict[str, "torch.nn.Module"],
    hidden: "Callable[[torch.Tensor | tuple], torch.Tensor]",
    rates: Rates,
    latents: LatentSet,
    text: "torch.Tensor",
    index: "torch.Tensor",
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    noises: int = 2,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Read activations under the neutral caption, averaged over common noises.

    Args:
        denoise: (noisy latents [B, C, h, w], timesteps [B], text [B, L, D]) → predicted ε.
        modules: the places to read, by name (see `Family.features`).
        hidden: what a place gives → hidden states of the image [B, C, ...].
        rates: of the base at a timestep (see `noise.Rates`).
        latents: [N, C, h, w] scaled latents.
        text: [M, L, D] text table; `index` [N] says which row each image uses.
        batch_size: images at a time; None: what fits. Besides rounding, it changes nothing.
        progress: called with (images done, of how many) after each noise level of a batch.

    Returns:
        Per place and timestep ("mid@250") [N, 2C]: mean and deviation of each channel over space.

    Raises:
        OutOfMemory: the memory does not suffice for one image.
    """
    import torch

    caught: dict[str, torch.Tensor] = {}

    def catch(name: str) -> Callable:
        def hook(_module: object, _inputs: object, output: "torch.Tensor | tuple") -> None:
            caught[name] = hidden(output)

        return hook

    count, levels = len(latents), len(timesteps) * noises

    def read(part: slice) -> dict[str, torch.Tensor]:
        rows, sums = torch.arange(part.start, part.stop), {}
        for done, level in enumerate(noise_levels(latents, rates, timesteps, noises, seed), 1):
            t = timesteps[level.column]
            caught.clear()
            denoise(level(latents[rows]), torch.full((len(rows),), t, device=latents.device), text[index[rows]])
            for name, value in caught.items():
                value, space = value.float(), tuple(range(2, value.ndim))
                both = torch.cat([value.mean(space), value.std(space)], 1).cpu()
                key = f"{name}@{t}"
                sums[key] = sums.get(key, 0) + both / noises
            if progress:
                progress(part.start + len(rows) * done / levels, count)
        return sums

    batch_size = batch_size or fitting_rows(latents.device, latents.shape[2] * latents.shape[3], MOST)
    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        with torch.inference_mode():
            found = list(in_batches(count, batch_size, read))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat([part[name] for part in found]).double().numpy() for name in found[0]}


def centre(features: dict[str, np.ndarray], concept: np.ndarray) -> dict[str, np.ndarray]:
    """Subtract each concept's mean, so that the occupation itself is not taken for a bias."""
    count = np.bincount(concept)[:, None]

    def centred(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(count), values.shape[1]))
        np.add.at(sums, concept, values)
        return values - (sums / np.maximum(count, 1))[concept]

    return {name: centred(values) for name, values in features.items()}


def principal_components(values: np.ndarray, components: int) -> np.ndarray:
    """Whiten features [N, D] (standardised columns) to at most `components` principal components [N, C].

    Directions without variance are left out: whitening would make them of rounding errors. Where there is nothing else,
    one column of zeros remains.
    """
    from sklearn.decomposition import PCA

    spread = values.std(0)
    scaled = (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)
    if not scaled.any():
        return np.zeros((len(values), 1))
    size = min(components, values.shape[1], len(values) - 1)
    # Few components of many: ARPACK finds them exactly, and many times quicker than all of them are.
    model = PCA(size, random_state=0, svd_solver="arpack" if size < min(values.shape) else "full")
    found = model.fit_transform(scaled)
    real = model.explained_variance_ > 1e-8 * values.shape[1]
    return found[:, real] / np.sqrt(model.explained_variance_[real])
