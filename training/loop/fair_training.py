"""The training loop of a fair adapter: objective `ddm` over the whole α dial.

Every image of a batch draws its own α ~ U(−α_max, α_max) and is itself drawn with probability ∝ w_i(α); the model
runs with the debias LoRA at that strength, and its denoising loss is the weighted ERM whose minimiser is the score of
q_α. Both sides of 0 are drawn so that what the images have in common is not learnt (see `BatchSampler`).
A step takes its images from one bucket, so that all have one shape; over the steps, nothing changes.
All randomness of a step is a function of (seed, step), so a run that was killed and resumed gives the same file: bit
for bit on a CPU, on a GPU up to the rounding of sums whose order is not fixed there. A step's rows may be computed in
micro-batches, one after another or by several processes: their gradients add up to those of the whole.

A style LoRA is learnt first, on the plain draw, and stays as it is from then on: the adapter starts from base and
style. Learnt side by side, the adapter takes up a part of what sets the images apart from the base, and its strength
then moves that too.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.batching import fitting_rows
from ...debias.groups.weighting import Weighting
from ..models.lora import (
    TARGETS,
    TEXT_TARGETS,
    add_lora,
    lora_acts,
    lora_parameters,
    scale_lora,
    set_alpha,
    set_trainable,
)
from ..models.text import Text
from .batch_sampler import Batch, BatchSampler
from .checkpoint import Resumable
from .distributed import Ranks
from .ema import Ema
from .min_snr import min_snr_weight
from .optimizer import build_optimizer, step_unless
from .settings import TrainSettings

if TYPE_CHECKING:
    import torch

    from ..data.caption_table import CaptionTable
    from ..data.latents import Latents
    from ..models.base import Base

# The gradients of float16 would vanish: the loss is multiplied by this, and by half of it after each overflow.
HALF_SCALE = 2.0**16


class FairTraining(Resumable):
    """A run: base with its LoRAs, optimizer, and one method that makes a step.

    Nothing in a step waits for the device, so that it always has work; what a step finds is read now and then.

    Args:
        base: opened by `load_base`; its U-Net gets the LoRAs `debias` and, with `style`, `style`; if the settings say
            so, its text encoders do as well.
        latents: of the images (every draw samples them anew).
        captions: text table and rows.
        weighting: the tempered weights.
        settings: see `TrainSettings`.
        style: train a style LoRA before the adapter.
        ranks: the processes that share each step.
        note: told when memory has to be saved.

    Attributes:
        parts: what the LoRAs are on, as `Base.parts` names it.
        step: steps made.
        loss: of a step, smoothed; NaN before the first.
        skipped, consecutive_skips: steps left out as something was not finite; in all, and since the last good one.
        scale: factor on the loss while gradients are computed.
        base_group_shares: shares of every group in the base's own images; empty if nobody has looked.
        prompt_group_shares: those of each prompt (`GroupReader.shares_by_prompt`); empty if not measured.
        correction_start_step: the first of the steps that correct each prompt by itself; `steps` if there are none.
        alpha_range_scale: how many times `TrainSettings.alpha_max` the drawn α go up to (see `reweigh`).
        micro_batches: a process takes its rows of a step in so many parts.
        consistent: whether weights and optimizer are those of `step`; they are not while the optimizer works.
        gradient_checkpointing: whether activations are computed again instead of kept (arXiv 1604.06174).
    """

    FIGURES = ("loss", "skipped", "consecutive_skips", "scale", "base_group_shares", "prompt_group_shares")
    TARGETS = TARGETS

    def __init__(
        self,
        base: "Base",
        latents: "Latents",
        captions: "CaptionTable",
        weighting: Weighting,
        settings: TrainSettings,
        style: bool = False,
        ranks: Ranks | None = None,
        note: Callable[..., None] | None = None,
    ):
        import torch

        self.base, self.latents, self.captions, self.settings = base, latents, captions, settings
        self.ranks, self.note = ranks or Ranks(), note or (lambda text: None)
        self.names = ("debias", "style") if style else ("debias",)
        self.parts = base.parts if settings.text_encoder else {"": base.unet}
        for number, name in enumerate(self.names):
            for place, (part, model) in enumerate(self.parts.items()):
                targets = TEXT_TARGETS if part else self.TARGETS
                add_lora(model, name, settings.rank, targets, (place << 32) + settings.seed * 2 + number)
        if base.device.type == "cuda":
            base.unet.to(memory_format=torch.channels_last)
        self.learning = {
            name: [matrix for model in self.parts.values() for matrix in lora_parameters(model, name)]
            for name in self.names
        }
        self.parameters = [parameter for name in self.names for parameter in self.learning[name]]
        self.optimizer = build_optimizer(settings.optimizer, self.parameters, settings.learning_rate)
        self.averages = {
            name: Ema({f"{number:05}": parameter for number, parameter in enumerate(parameters)}, settings.ema)
            for name, parameters in self.learning.items()
            if settings.ema
        }
        self.weight = None
        if settings.min_snr:
            self.weight = min_snr_weight(base.schedule, settings.min_snr, base.prediction)
        self.alpha_range_scale = 1.0
        self.sampler = self._sampler(weighting)
        self.step, self.micro_batches, self.gradient_checkpointing = 0, self._micro_batches(), False
        self.consistent = True
        self.loss = torch.tensor(float("nan"), device=base.device)
        self.skipped, self.consecutive_skips = (torch.zeros((), device=base.device) for _ in range(2))
        self.scale = torch.tensor(HALF_SCALE if base.dtype == torch.float16 else 1.0, device=base.device)
        self.base_group_shares = self.prompt_group_shares = torch.empty(0, device=base.device)
        left = settings.steps - self.sampler.style_steps
        self.correction_start_step = (
            settings.steps - round(settings.prompt_share * left) if settings.by_prompt else settings.steps
        )

    def _micro_batches(self) -> int:
        """A GPU takes all rows at once and says when it has no room; a CPU only as many as it works on at a time.

        So a CPU that takes a minute for a few images is asked to stop between these, and not after the whole step.
        """
        rows = len(self.ranks.rows(self.settings.batch_size))
        if self.base.device.type != "cpu" or not rows:
            return 1
        return -(-rows // fitting_rows(self.base.device, max(h * w for h, w in self.latents.cells), rows))

    def _sampler(self, weighting: Weighting) -> BatchSampler:
        bucket = np.unique(np.array(self.latents.cells), axis=0, return_inverse=True)[1].reshape(-1)
        style, timesteps = "style" in self.names, partial(self.base.family.timesteps, self.base)
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
        """Learning rate at a step: warm-up over 20 steps, then cosine to a twentieth, for style and adapter each.

        The steps that correct each prompt have half of it.
        """
        ends = (0, self.sampler.style_steps, self.correction_start_step, self.settings.steps)
        phase = bisect_right(ends, min(step, self.settings.steps - 1))
        done, steps = step - ends[phase - 1], ends[phase] - ends[phase - 1]
        late = 0.5 * (1 + np.cos(np.pi * done / steps))
        peak = self.settings.learning_rate * (0.5 if phase == 3 else 1.0)
        return peak * min(1.0, (done + 1) / 20) * (0.05 + 0.95 * late)

    def advance(self, stop: Callable[[], bool] | None = None) -> bool:
        """Make one optimizer step; it changes nothing that is learnt if loss or gradients are not finite.

        Args:
            stop: asked between the micro-batches of the step; after True the step is given up as if it had not begun.

        Returns:
            Whether the step was made.

        Raises:
            OutOfMemory: the memory does not suffice for one image.
        """
        import torch

        batch = self.sampler.draw(self.step)
        name = "style" if batch.style else "debias"
        loss = self._gradients(batch, stop)
        if loss is None:
            return False
        gradients = [parameter.grad for parameter in self.learning[name]]
        self.ranks.total([*gradients, loss])
        torch._foreach_div_(gradients, self.scale)
        norm = torch.nn.utils.clip_grad_norm_(self.learning[name], self.settings.max_grad_norm or float("inf"))
        bad = 1 - (norm.isfinite() & loss.isfinite()).float()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.consistent = False
        step_unless(self.optimizer, bad)
        if self.averages:
            self.averages[name].update()
        smoothed = torch.where(self.loss.isnan(), loss, torch.lerp(self.loss, loss, 0.02))
        self.loss = torch.where(bad > 0, self.loss, smoothed)
        self.skipped, self.consecutive_skips = self.skipped + bad, (self.consecutive_skips + 1) * bad
        self.scale = (self.scale * (1 - bad / 2)).clamp(min=1)
        self.step += 1
        if name == "style" and self.averages and self.step == self.sampler.style_steps:
            self.averages["style"].swap()  # the adapter starts from the style that is kept
        self.consistent = True
        return True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """What is learnt has its averaged values (EMA) meanwhile, if they are kept."""
        ema = self.averages.get("style" if self.step < self.sampler.style_steps else "debias")
        if ema:
            ema.swap()
        try:
            yield
        finally:
            if ema:
                ema.swap()

    def _gradients(self, batch: Batch, stop: Callable[[], bool] | None) -> "torch.Tensor | None":
        """Gradients and loss of this process's rows, with less memory each time that it does not suffice.

        None once `stop` said True.
        """
        import torch

        gradients = self._zeros(self.learning["style" if batch.style else "debias"])
        rows = self.ranks.rows(len(batch.image))
        while True:
            torch._foreach_zero_(gradients)
            try:
                return self._backward(batch, rows, stop)
            except torch.cuda.OutOfMemoryError:
                # What follows needs the memory that the error's traceback holds.
                pass
            self._need_less(len(rows))

    def _zeros(self, learning: "list[torch.nn.Parameter]") -> "list[torch.Tensor]":
        """Gradients of what a step teaches, and of nothing else; they stay where they are from step to step."""
        import torch

        if learning[0].grad is None:
            self.optimizer.zero_grad(set_to_none=True)
            for parameter in learning:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in learning]

    def _need_less(self, rows: int) -> None:
        fewer = ""
        if self.micro_batches < rows:
            self.micro_batches = min(2 * self.micro_batches, rows)
            fewer = f"each step takes its {rows} in {self.micro_batches} parts"
        self.need_less(fewer, "from", "rank")

    def _backward(
        self, batch: Batch, rows: np.ndarray, stop: Callable[[], bool] | None = None
    ) -> "torch.Tensor | None":
        """Add the gradients of some rows' part of the batch's mean loss to those that are there; give that part.

        None once `stop` said True.
        """
        import torch

        generator = torch.Generator("cpu").manual_seed((self.settings.seed << 32) + self.step)
        count, loss, random = len(batch.image), torch.zeros((), device=self.base.device), None
        if "style" in self.names:
            for model in self.parts.values():
                set_trainable(model, "style", batch.style)
        for number, piece in enumerate(np.array_split(rows, self.micro_batches)):
            if not len(piece):
                continue
            if number and stop and stop():
                return None
            part = batch[piece]
            mean, std, weight = self.latents.fetch(part.image, part.flip)
            if random is None:  # of all rows, so that each has its own, whoever computes it
                random = [torch.randn((count, *mean.shape[1:]), generator=generator) for _ in range(2)]
                if self.settings.noise_offset:
                    shift = torch.randn((count, mean.shape[1], 1, 1), generator=generator)
                    random[1] = random[1] + self.settings.noise_offset * shift
            posterior_noise, noise = (self.base.moved(values[torch.as_tensor(piece)]) for values in random)
            loss += self._add_gradients(part, mean + std * posterior_noise, noise, weight, self.scale / count)
        return loss / self.scale

    def _add_gradients(
        self,
        batch: Batch,
        latents: "torch.Tensor",
        noise: "torch.Tensor",
        loss_mask: "torch.Tensor | None",
        factor: "torch.Tensor",
    ) -> "torch.Tensor":
        """Add the gradients of `factor` times the rows' summed loss to those that are there; give that product.

        Args:
            latents, noise: [B, C, h, w].
            loss_mask: [B, 1, h, w] weight of each latent cell in the loss; None for 1.
            factor: a number on the device.
        """
        import torch

        base = self.base
        t = base.moved(torch.as_tensor(batch.timestep))
        noisy = base.noisy(latents, noise, t)
        target = base.target(latents, noise, t)
        taught = np.flatnonzero(batch.anchor >= 0)
        if len(taught):
            rows = base.moved(torch.as_tensor(taught))
            self._set_alpha(0.0)
            with torch.no_grad():
                answer = base.predict(noisy[rows], t[rows], self._text(batch.anchor[taught]))
            target = target.index_copy(0, rows, answer)
            if loss_mask is not None:  # what the base answers holds for the whole image
                loss_mask = loss_mask.index_fill(0, rows, 1.0)
        self._set_alpha(batch.alpha)
        error = (base.predict(noisy, t, self._text(batch.text)) - target).square()
        error = error if loss_mask is None else error * loss_mask
        weights = factor if self.weight is None else self.weight[t] * factor
        loss = (error.mean((1, 2, 3)) * weights).sum()
        loss.backward()
        return loss.detach()

    def _set_alpha(self, alpha: "float | np.ndarray") -> None:
        for model in self.parts.values():
            set_alpha(model, "debias", alpha)

    def _text(self, rows: np.ndarray) -> Text:
        """Sentences of the table as the text encoders read them: anew, with gradients, where a LoRA acts on these."""
        import torch
        from torch.utils.checkpoint import checkpoint

        if not any(map(lora_acts, self.base.text_encoders.values())):
            return self.captions.table[rows]
        said = [self.captions.sentences[row] for row in rows]
        read = partial(self.base.encode_text, said, gradient=torch.is_grad_enabled())
        # The encoders' own checkpointing is for their training mode alone, with its dropout.
        text = (
            checkpoint(read, use_reentrant=False, preserve_rng_state=False) if self.gradient_checkpointing else read()
        )
        return text.float()
