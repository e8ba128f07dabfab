"""Objective `ddm`: weighted denoising over the whole α dial, whose minimiser is the score of q_α.

Every image of a batch draws its own α ~ U(−α_max, α_max) and is itself drawn with probability ∝ w_i(α); the model
runs with the debias LoRA at that strength, and its denoising loss is the weighted ERM. Both sides of 0 are drawn so
that what the images have in common is not learnt (see `BatchSampler`).
A step takes its images from one bucket, so that all have one shape; over the steps, nothing changes.
All randomness of a step is a function of (seed, step), so a run that was killed and resumed gives the same file: bit
for bit on a CPU, on a GPU up to the rounding of sums whose order is not fixed there. A step's rows may be computed in
micro-batches, one after another or by several processes: their gradients add up to those of the whole.

A style LoRA is learnt first, on the plain draw, and stays as it is from then on: the adapter starts from base and
style. Learnt side by side, the adapter takes up a part of what sets the images apart from the base, and its strength
then moves that too.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.batching import fitting_rows
from ...debias.groups.weighting import Weighting
from ..loop.batch_sampler import Batch, BatchSampler
from ..loop.distributed import Ranks
from ..loop.min_snr import min_snr_weight
from ..loop.objective import Objective
from ..loop.optimizer import build_optimizer, schedule
from ..loop.settings import TrainSettings
from ..models.lora import (
    add_lora,
    lora_acts,
    lora_parameters,
    scale_lora,
    set_alpha,
    set_trainable,
)
from ..models.text import Text

if TYPE_CHECKING:
    import torch

    from ..data.caption_table import CaptionTable
    from ..data.latents import Latents
    from ..models.base import Base

# The gradients of float16 would vanish: the loss is multiplied by this at first.
HALF_SCALE = 2.0**16
# How much each coarser scale of noise counts beside the one before it, as in kohya's trainer.
MULTIRES_DISCOUNT = 0.3


class DDM(Objective):
    """The base with its LoRAs, the images' weights, and the loss.

    Args:
        base: opened by `load_base`; its U-Net gets the LoRAs `debias` and, with `style`, `style`; if the settings say
            so, its text encoders do as well.
        latents: of the images (every draw samples them anew).
        captions: text table and rows.
        weighting: the tempered weights.
        settings: see `TrainSettings`.
        style: train a style LoRA before the adapter.
        ranks: the processes that share each step.
        own: how many of the images, the first ones, are the user's; the loss of the others counts by
            `TrainSettings.prior_loss_weight`. None for all.

    Attributes:
        parts: what the LoRAs are on, as `Base.parts` names it.
        base_group_shares: shares of every group in the base's own images; empty if they were not measured.
        prompt_group_shares: those of each prompt (`GroupReader.shares_by_prompt`); empty if they were not measured.
        correction_start_step: the first of the steps that correct each prompt by itself; `steps` if there are none.
        alpha_range_scale: how many times `TrainSettings.alpha_max` the drawn α go up to (see `reweigh`).
    """

    TARGETS: tuple[str, ...] = ()  # the family's

    def __init__(
        self,
        base: "Base",
        latents: "Latents",
        captions: "CaptionTable",
        weighting: Weighting,
        settings: TrainSettings,
        style: bool = False,
        ranks: Ranks | None = None,
        own: int | None = None,
    ):
        import torch

        self.base, self.latents, self.captions, self.settings = base, latents, captions, settings
        self.own = None if settings.prior_loss_weight == 1 else own
        self.ranks, self.max_grad_norm, self.ema = ranks or Ranks(), settings.max_grad_norm, settings.ema
        self.loss_scale = HALF_SCALE if base.dtype == torch.float16 else 1.0
        if settings.text_encoder:
            base.family.check_text_targets()
        self.parts = base.parts if settings.text_encoder else {"": base.denoiser}
        names = ("debias", "style") if style else ("debias",)
        for number, name in enumerate(names):
            for place, (part, model) in enumerate(self.parts.items()):
                targets = base.family.text_targets if part else self.TARGETS or base.family.targets
                add_lora(model, name, settings.rank, targets, (place << 32) + settings.seed * 2 + number)
        if base.device.type == "cuda":
            base.denoiser.to(memory_format=torch.channels_last)
        self.learning = {
            name: [matrix for model in self.parts.values() for matrix in lora_parameters(model, name)] for name in names
        }
        self.weight = None
        if settings.min_snr_gamma:
            self.weight = min_snr_weight(base.schedule, settings.min_snr_gamma, base.prediction)
        self.base_group_shares = self.prompt_group_shares = torch.empty(0, device=base.device)
        self.alpha_range_scale = 1.0
        self.sampler = self._sampler(weighting)
        corrected = round(settings.prompt_share * (settings.steps - self.sampler.style_steps))
        self.correction_start_step = settings.steps - (corrected if settings.by_prompt else 0)
        self.images = len(self.ranks.rows(settings.batch_size))
        if base.device.type == "cpu" and self.images:
            # Only as many as it works on at a time: one that takes a minute for them is asked to stop between these.
            # A GPU takes all at once, and says when it has no room.
            fitting = fitting_rows(base.device, max(h * w for h, w in latents.sizes), self.images)
            self.micro_batches = -(-self.images // fitting)

    def _sampler(self, weighting: Weighting) -> BatchSampler:
        bucket = np.unique(np.array(self.latents.sizes), axis=0, return_inverse=True)[1].reshape(-1)
        style, timesteps = "style" in self.learning, partial(self.base.family.timesteps, self.base)
        return BatchSampler(weighting, self.captions, self.settings, bucket, timesteps, style, self.alpha_range_scale)

    def reweigh(self, weighting: Weighting, alpha_range_scale: float = 1.0) -> None:
        """Draw the images by other weights from now on.

        Args:
            alpha_range_scale: how many times as far as usual the α go. The LoRA has so much less strength, so that what
                it learns at the ends of the dial takes weights of the usual size.
        """
        for model in self.parts.values():
            scale_lora(model, "debias", self.alpha_range_scale / alpha_range_scale)
        self.alpha_range_scale = alpha_range_scale
        self.sampler = self._sampler(weighting)

    def learning_rate(self, step: int) -> float:
        """Learning rate at a step: the schedule (see `schedule`) for style and adapter each.

        The steps that correct each prompt have half of it.
        """
        settings = self.settings
        ends = (0, self.sampler.style_steps, self.correction_start_step, self.settings.steps)
        phase = bisect_right(ends, min(step, self.settings.steps - 1))
        done, steps = step - ends[phase - 1], ends[phase] - ends[phase - 1]
        peak = settings.learning_rate * (0.5 if phase == 3 else 1.0)
        return peak * schedule(settings.lr_scheduler, settings.lr_warmup_steps, done, steps)

    def phase(self, step: int) -> str:
        """The style first, then the adapter."""
        return "style" if step < self.sampler.style_steps else "debias"

    def build_optimizer(self) -> "torch.optim.Optimizer":
        """The one that the settings name; errors as in `build_optimizer`."""
        return build_optimizer(self.settings.optimizer, self.parameters, self.settings.learning_rate)

    def state(self) -> "dict[str, torch.Tensor]":
        """What the weights were corrected by."""
        return {name: getattr(self, name) for name in ("base_group_shares", "prompt_group_shares")}

    def draw(self, step: int) -> Batch:
        """Draw the rows of a step (see `BatchSampler`)."""
        return self.sampler.draw(step)

    def backward(
        self, step: int, micro_batches: int, scale: "torch.Tensor", stop: Callable[[], bool] | None = None
    ) -> "torch.Tensor | None":
        """Add the gradients of the batch's mean loss, one micro-batch after another; see `Objective`."""
        import torch

        batch = self.draw(step)
        count, total = len(batch.image), torch.zeros((), device=self.base.device)
        if "style" in self.learning:
            for model in self.parts.values():
                set_trainable(model, "style", batch.style)
        # Of all rows, so that each has its own, whoever computes it.
        noises = self._noises(step, (count, self.base.latent_channels, *self.latents.sizes[batch.image[0]]))
        for number, rows in enumerate(np.array_split(self.ranks.rows(count), micro_batches)):
            if not len(rows):
                continue
            if number and stop and stop():
                return None
            part = batch[rows]
            mean, std, mask = self.latents.fetch(part.image, part.flip)
            posterior_noise, noise = (self.base.moved(values[torch.as_tensor(rows)]) for values in noises)
            losses = self.loss(part, mean + std * posterior_noise, noise, mask)
            loss = (losses * (scale / count)).sum()
            loss.backward()
            total += loss.detach()
        return total

    def _noises(self, step: int, shape: tuple[int, ...]) -> "tuple[torch.Tensor, torch.Tensor]":
        """The noise that latents are drawn from their posterior with, and the noise that is put on them."""
        import torch

        generator = torch.Generator().manual_seed((self.settings.seed << 32) + step)
        posterior_noise, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        if self.settings.noise_offset:
            noise = noise + self.settings.noise_offset * torch.randn((*shape[:2], 1, 1), generator=generator)
        if self.settings.multires_noise_iterations:
            noise = multires_noise(noise, self.settings.multires_noise_iterations, generator)
        return posterior_noise, noise

    def loss(
        self, batch: Batch, latents: "torch.Tensor", noise: "torch.Tensor", mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Each row's λ(t) ‖m · (f(x_t, t, c; α) − target)‖²: the target is the noise (or v), or the base's own answer.

        Args:
            latents, noise: [B, C, h, w].
            mask: [B, 1, h, w] weight m of each latent cell; None for 1.

        Returns:
            [B], mean over the cells.
        """
        import torch

        base = self.base
        t = base.moved(torch.as_tensor(batch.timestep))
        noisy, target = base.noisy(latents, noise, t), base.target(latents, noise, t)
        anchored = np.flatnonzero(batch.anchor >= 0)
        if len(anchored):
            rows = base.moved(torch.as_tensor(anchored))
            self._set_alpha(0.0)
            with torch.no_grad():
                answer = base.predict(noisy[rows], t[rows], self._text(batch.anchor[anchored]))
            target = target.index_copy(0, rows, answer)
            if mask is not None:  # what the base answers holds for the whole image
                mask = mask.index_fill(0, rows, 1.0)
        self._set_alpha(batch.alpha)
        error = (base.predict(noisy, t, self._text(batch.text)) - target).square()
        losses = (error if mask is None else error * mask).mean((1, 2, 3))
        if self.own is not None:
            counts = np.where(batch.image < self.own, 1.0, self.settings.prior_loss_weight).astype(np.float32)
            losses = losses * base.moved(torch.as_tensor(counts))
        return losses if self.weight is None else losses * self.weight[t]

    def _set_alpha(self, alpha: "float | np.ndarray") -> None:
        for model in self.parts.values():
            set_alpha(model, "debias", alpha)

    def _text(self, rows: np.ndarray) -> Text:
        """Sentences of the table as the text encoders read them: anew, with gradients, where a LoRA acts on these."""
        import torch
        from torch.utils.checkpoint import checkpoint

        if not any(map(lora_acts, self.base.text_encoders.values())):
            return self.captions.table[rows]
        sentences = [self.captions.sentences[row] for row in rows]
        chunks, gradient = self.captions.chunks, torch.is_grad_enabled()
        encode = partial(self.base.encode_text, sentences, gradient=gradient, chunks=chunks)
        # The encoders' own checkpointing is for their training mode alone, with its dropout.
        again = self.base.denoiser.is_gradient_checkpointing
        text = checkpoint(encode, use_reentrant=False, preserve_rng_state=False) if again else encode()
        return text.float()


def multires_noise(noise: "torch.Tensor", iterations: int, generator: "torch.Generator") -> "torch.Tensor":
    """Noise with ever coarser noise added to it, of standard deviation 1 (Whitaker 2023, as in kohya's trainer).

    Args:
        noise: [B, C, h, w].
        iterations: the most scales that are added; each is 2 to 4 times as coarse as the one before it.
    """
    import torch

    height, width = noise.shape[2:]
    for scale in range(1, iterations + 1):
        factor = 2 + 2 * torch.rand((), generator=generator).item()
        height, width = max(1, int(height / factor)), max(1, int(width / factor))
        coarse = torch.randn((*noise.shape[:2], height, width), generator=generator)
        coarse = torch.nn.functional.interpolate(coarse, noise.shape[2:], mode="bilinear")
        noise = noise + MULTIRES_DISCOUNT**scale * coarse
        if min(height, width) == 1:
            break
    return noise / noise.std()
