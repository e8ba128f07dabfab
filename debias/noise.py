"""Common noise: all pictures of a set at the same noise levels under the same draws, so that answers compare."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def noised(
    latents: "torch.Tensor", alphas_cumprod: "torch.Tensor", timesteps: Sequence[int], noises: int, seed: int
) -> Iterator[tuple[int, int, "torch.Tensor", "torch.Tensor"]]:
    """Yield (column of the timestep, number of the draw, noise [1, C, h, w], noisy latents [N, C, h, w]).

    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε (DDPM, arXiv 2006.11239, eq. 4), with ε alike for all pictures and drawn on the CPU.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    for column, t in enumerate(timesteps):
        signal = float(alphas_cumprod[t]) ** 0.5
        for draw in range(noises):
            noise = torch.randn(1, *latents.shape[1:], generator=generator).to(latents)
            yield column, draw, noise, signal * latents + (1 - signal**2) ** 0.5 * noise
