"""Images of a MODEL by the host's own samplers: one noise per seed, in batches that fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io

# Latent cells (height × width, over the batch) that a CPU works on at a time, and the most images in a batch. More
# cells are no quicker on a CPU, and a cancel has to wait for a step.
CPU_CELLS, LARGEST = 1024, 64

Step = Callable[[object], None]


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample: as in KSampler, with the size of the images in pixels."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int


def sampler_inputs(about_seeds: str, new_seeds: bool) -> list[io.Input]:
    """Inputs of a node for `SamplerSettings`, and the first seed.

    Args:
        about_seeds: what else there is to say of the seed, a sentence.
        new_seeds: whether the page takes another seed after every run, unless it is told not to.
    """
    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The host's own samplers."),
        io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="The host's own schedulers."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 1,
            control_after_generate=new_seeds,
            tooltip=f"Where the seeds begin. Every prompt has seeds of its own. {about_seeds}",
        ),
        io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="In pixels."),
        io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="In pixels."),
    ]


class Generator:
    """Makes images of one size by one sampler.

    An image of a seed has the noise that KSampler gives a single image of that seed, whatever its batch, so that it
    can be made again, and has the same noise at every strength of an adapter.
    """

    def __init__(self, vae: Any, settings: SamplerSettings):
        self.vae, self.settings = vae, settings

    def batches(self, model: Any, seeds: Sequence[int]) -> list[Sequence[int]]:
        """The seeds in batches that fit into memory."""
        size = self._batch_size(model, len(seeds))
        return [seeds[start : start + size] for start in range(0, len(seeds), size)]

    def generate(self, model: Any, positive: list, negative: list, seeds: Sequence[int], step: Step) -> torch.Tensor:
        """Images [n, H, W, C] of a batch of seeds.

        Args:
            model: a MODEL, with the patches to sample with.
            positive: conditioning of all images.
            negative: conditioning of the unconditional half.
            seeds: one of `batches`.
            step: called after each step with a preview, or None; what it raises stops the sampling.
        """
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def told(number: int, denoised: torch.Tensor, noisy: torch.Tensor, total: int) -> None:
            step(previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None)

        latent = self._latent(model, len(seeds))
        samples = comfy.sample.sample(
            model,
            torch.cat([comfy.sample.prepare_noise(latent[:1], seed) for seed in seeds]),
            self.settings.steps,
            self.settings.cfg,
            self.settings.sampler,
            self.settings.scheduler,
            positive,
            negative,
            latent,
            callback=told,
            disable_pbar=True,
            seed=seeds[0],
        )
        comfy.model_management.throw_exception_if_processing_interrupted()
        images = self.vae.decode(samples)
        # A VAE for video has a dimension of frames as well.
        return images.reshape(-1, *images.shape[-3:])[: len(seeds)]

    def _latent(self, model: Any, count: int) -> torch.Tensor:
        factor = self.vae.spacial_compression_encode()
        empty = torch.zeros(
            [count, 4, self.settings.height // factor, self.settings.width // factor],
            device=comfy.model_management.intermediate_device(),
        )
        return comfy.sample.fix_empty_latent_channels(model, empty)

    def _batch_size(self, model: Any, count: int) -> int:
        shape = self._latent(model, 1).shape
        if comfy.model_management.is_device_cpu(model.load_device):
            return max(1, min(count, CPU_CELLS // (shape[-2] * shape[-1])))
        size, free = min(count, LARGEST), comfy.model_management.get_free_memory(model.load_device) / 2
        while size > 1 and model.memory_required([2 * size, *shape[1:]]) > free:
            size //= 2
        return size
