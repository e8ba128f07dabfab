"""A base model as what compares images with words (see `denoising_probe`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.batching import fitting_rows, in_batches
from ..sampling.generate import generate

if TYPE_CHECKING:
    import torch

    from ...debias.probes.denoising_probe import Saying
    from ..models.base import Base

# The most images that are denoised at a time.
MOST = 128


class BaseDenoiser:
    """Denoises images under several texts.

    Attributes:
        identity: names the base.
        size: side in pixels of the images.
    """

    def __init__(self, base: "Base"):
        self.base, self.size, self.identity = base, base.image_size, f"diffusion model ({base.identity[:12]})"

    def errors(self, images: np.ndarray, sayings: "Sequence[Saying]") -> tuple[np.ndarray, np.ndarray]:
        """As `Denoiser.errors`."""
        import torch

        base, texts = self.base, list(dict.fromkeys(saying.text for saying in sayings))
        text, rows = base.encode_text(texts), {said: i for i, said in enumerate(texts)}
        draws = {draw: i for i, draw in enumerate(sorted({(saying.level, saying.noise) for saying in sayings}))}
        steps = dict(zip(draws, base.family.along(base, [round(1000 * level) for level, _ in draws]), strict=True))

        def measure(part: slice) -> tuple["torch.Tensor", "torch.Tensor"]:
            latents = base.encode_images(images[part])
            found = torch.zeros(len(latents), len(sayings))
            for place, saying in enumerate(sayings):
                draw = (saying.level, saying.noise)
                noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(draws[draw])).to(latents)
                t = torch.full((len(latents),), steps[draw], device=latents.device)
                noisy = base.noisy(latents, noise.expand_as(latents), t)
                answer = base.denoise(noisy, t, text[[rows[saying.text]] * len(latents)])
                found[:, place] = (answer.float() - noise).square().flatten(1).mean(1).cpu()
            return found, latents.float().cpu()

        cells = (self.size // base.vae_factor) ** 2
        with torch.inference_mode():
            parts = in_batches(len(images), fitting_rows(base.device, cells, MOST), measure)
            errors, latents = (torch.cat(part) for part in zip(*parts, strict=True))
        return errors.double().numpy(), latents.numpy()

    def make(self, texts: Sequence[str], seed: int = 0) -> np.ndarray:
        """Images uint8 [N, H, W, 3] of N texts."""
        return generate(self.base, texts, range(seed, seed + len(texts)))
