"""The host's MODEL, CLIP and VAE as what compares images with words (see `denoising_probe`)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import torch

from .generation import Generator
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from ..debias.probes.denoising_probe import Saying


class ModelDenoiser:
    """Denoises images under several texts, through everything that is on the MODEL.

    Attributes:
        identity: names model, text encoder and VAE, as the graph loads them.
        size: side in pixels of the images.
    """

    def __init__(self, model: Any, clip: Any, generator: Generator, digest: str):
        self.model, self.clip, self.generator = model, clip, generator
        self.size, self.identity = generator.settings.width, f"diffusion model ({digest})"
        self.conditioning: dict[str, list] = {}

    def errors(self, images: "np.ndarray", sayings: "Sequence[Saying]") -> "tuple[np.ndarray, np.ndarray]":
        """As `Denoiser.errors`; can be cancelled after every pass."""
        texts = dict.fromkeys(saying.text for saying in sayings)
        for text in texts.keys() - self.conditioning.keys():
            self.conditioning[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
        progress, done, found = Progress(len(images)), 0, []
        for batch in self.generator.batches(self.model, range(len(images))):
            pixels = torch.from_numpy(images[batch[0] : batch[-1] + 1]).float() / 255
            measure = _Comparison(sayings)
            guider = comfy.samplers.CFGGuider(self.model)
            guider.inner_set_conds({text: self.conditioning[text] for text in texts})
            latent = self.generator.vae.encode(pixels)
            guider.sample(torch.zeros_like(latent), latent, measure, torch.zeros(2), seed=0)
            found.append((measure.errors, measure.latents))
            done += len(pixels)
            progress(done)
        errors, latents = (torch.cat(part) for part in zip(*found, strict=True))
        return errors.double().numpy(), latents.numpy()


class _Comparison(comfy.samplers.Sampler):
    """In place of a sampler: it makes no image, but denoises the one that is there, once for every saying."""

    def __init__(self, sayings: "Sequence[Saying]"):
        self.sayings = sayings

    def sample(
        self,
        guider: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """Fill `errors` [N, S] and `latents` [N, C, h, w]."""
        sampling, columns = guider.inner_model.model_sampling, {}
        for place, saying in enumerate(self.sayings):
            columns.setdefault((saying.level, saying.noise), []).append(place)
        self.errors = torch.zeros(len(latent_image), len(self.sayings))
        for number, ((level, _), places) in enumerate(sorted(columns.items())):
            comfy.model_management.throw_exception_if_processing_interrupted()
            sigma = torch.tensor(sampling.percent_to_sigma(1 - level), dtype=torch.float32, device=latent_image.device)
            drawn = torch.randn(latent_image[:1].shape, generator=torch.Generator().manual_seed(number))
            noisy = sampling.noise_scaling(sigma, drawn.to(latent_image).expand_as(latent_image), latent_image)
            answers = comfy.samplers.calc_cond_batch(
                guider.inner_model,
                [guider.conds[self.sayings[place].text] for place in places],
                noisy,
                sigma.expand(len(noisy)),
                extra_args["model_options"],
            )
            for place, answer in zip(places, answers, strict=True):
                # The host answers with the image; the noise that it takes for granted is as far off, over σ.
                off = ((answer - latent_image) / sigma).float()
                self.errors[:, place] = off.square().flatten(1).mean(1).cpu()
        self.latents = latent_image.float().reshape(len(latent_image), -1, *latent_image.shape[-2:]).cpu()
        return latent_image
