"""Common noise: all images of a set at the same noise levels under the same draws, so that answers compare."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


# timestep → how much of latents and of noise is in noisy latents.
Rates = Callable[[int], tuple[float, float]]


class LatentSet(Protocol):
    """Latents of N images of one shape, a batch at a time: a tensor [N, C, h, w], or what need not be in memory.

    Attributes:
        shape: [N, C, h, w].
        device: where batches are.
    """

    shape: Sequence[int]
    device: "torch.device"

    def __len__(self) -> int: ...

    def __getitem__(self, rows: "torch.Tensor") -> "torch.Tensor":
        """Scaled latents [B, C, h, w] of some rows."""


@dataclass(frozen=True)
class NoiseLevel:
    """One draw of noise at one timestep.

    Attributes:
        column: of the timestep among those asked for; draw: its number among the draws of this timestep.
        noise: [1, C, h, w], alike for all images.
        signal, spread: how much of latents and of noise there is.
    """

    column: int
    draw: int
    noise: "torch.Tensor"
    signal: float
    spread: float

    def __call__(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Noisy latents."""
        return self.signal * latents + self.spread * self.noise


def ddpm_rates(alphas_cumprod: "torch.Tensor") -> Rates:
    """Those of x_t = √ᾱ_t x + √(1 − ᾱ_t) ε (DDPM, arXiv 2006.11239, eq. 4).

    Args:
        alphas_cumprod: [T] ᾱ of the training schedule.
    """

    def rates(t: int) -> tuple[float, float]:
        signal = float(alphas_cumprod[t]) ** 0.5
        return signal, (1 - signal**2) ** 0.5

    return rates


def noise_levels(
    latents: LatentSet, rates: Rates, timesteps: Sequence[int], noises: int, seed: int
) -> Iterator[NoiseLevel]:
    """Yield every draw at every timestep, in the shape of the latents; the noise is drawn on the CPU."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    for column, t in enumerate(timesteps):
        for draw in range(noises):
            noise = torch.randn(1, *latents.shape[1:], generator=generator).to(latents.device)
            yield NoiseLevel(column, draw, noise, *rates(t))
