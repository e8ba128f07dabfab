"""Invariant guidance (arXiv 2412.08480): group inference, and training of the small module beside a frozen base."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.error import DDMError
from ...debias.groups.diffusion_classifier import denoising_errors
from ...debias.groups.groups import concepts
from ...debias.methods.group_inference import infer_groups, invariant_loss
from ...debias.methods.invariant_module import new_module
from ..loop.checkpoint import Resumable, checkpoint_path, load_checkpoint, remove_strays, save_checkpoint

if TYPE_CHECKING:
    from ..data.dataset import ImageSet
    from ..models.base import Base

# The noise levels over which an image's loss is averaged.
TIMESTEPS = (100, 300, 500, 700, 900)
READ_EVERY = 10


@dataclass(frozen=True)
class InvariantSettings:
    """What a training depends on, besides base and images.

    Attributes:
        steps: optimizer steps.
        batch_size: images per step.
        learning_rate: learning rate at the start, falling to 0 as a cosine.
        groups: G, how many groups are inferred.
        beta: β, how much the smallest group counts in inferring them.
        variance: λ, how much the differences between groups count in the loss.
        caption_dropout: share of images learnt under the empty caption, which classifier-free guidance needs.
        seed: of everything.
    """

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 1e-3
    groups: int = 8
    beta: float = 3.0
    variance: float = 1.0
    caption_dropout: float = 0.15
    seed: int = 0


class InvariantTraining(Resumable):
    """A run: the frozen base, the module, the groups, and one method that makes a step.

    Args:
        base: frozen; nothing on it is changed.
        images: their shares are those of the base, as far as one knows.
        settings: see `InvariantSettings`.
        report: called with (what, done, total) while the base is measured.
    """

    def __init__(
        self,
        base: "Base",
        images: "ImageSet",
        settings: InvariantSettings,
        report: Callable[[str, int, int], None] | None = None,
    ):
        import torch

        self.base, self.images, self.settings = base, images, settings
        names, concept = concepts(images.captions)
        # The last row is the empty caption.
        self.table = base.encode_text([*names, ""])
        self.concept, self.empty = concept, len(names)
        errors = denoising_errors(
            base.denoise,
            base.rates,
            images.squares[torch.arange(len(concept))],
            [self.table],
            torch.as_tensor(concept, device=base.device),
            timesteps=TIMESTEPS,
            seed=settings.seed,
            progress=report and (lambda done, total: report("losses", done, total)),
        )
        groups = infer_groups(errors.mean((1, 2, 3)), settings.groups, settings.beta, settings.seed)
        self.groups = torch.as_tensor(groups, dtype=torch.float32, device=base.device)
        self.module = new_module(
            base.latent_channels,
            self.table.tokens.shape[2],
            base.unet.num_parameters(),
            base.hash,
            base.prediction,
            asdict(settings),
            settings.seed,
        ).to(base.device)
        self.parameters = list(self.module.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=0.0)
        self.step = 0
        self.loss = torch.zeros((), device=base.device)

    @property
    def fingerprint(self) -> str:
        """Of everything that the run depends on."""
        depends = [self.base.identity, self.images.fingerprint, asdict(self.settings)]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def advance(self) -> None:
        """Make one optimizer step; its randomness is a function of seed and step."""
        import torch

        base, settings, device = self.base, self.settings, self.base.device
        rng = np.random.default_rng([settings.seed, self.step])
        generator = torch.Generator().manual_seed((settings.seed << 32) + self.step)
        count = settings.batch_size
        rows = rng.integers(len(self.concept), size=count)
        text = np.where(rng.random(count) < settings.caption_dropout, self.empty, self.concept[rows])
        times = (rng.permutation(np.arange(count) + rng.random(count)) / count * len(base.schedule)).astype(int)
        image, t, text = (torch.as_tensor(part, device=device) for part in (rows, times, text))
        mean, std, _ = self.images.squares.fetch(rows, np.zeros(count, dtype=bool))
        posterior_noise, noise = (torch.randn(mean.shape, generator=generator).to(device) for _ in range(2))
        latents = mean + std * posterior_noise
        noisy = base.noisy(latents, noise, t)
        with torch.no_grad():
            answer = base.predict(noisy, t, self.table[text])
        answer = answer + self.module(noisy, t, self.table[text].tokens)
        losses = (answer - base.target(latents, noise, t)).square().mean((1, 2, 3))
        loss = invariant_loss(losses, self.groups[image], settings.variance)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + np.cos(np.pi * self.step / settings.steps))
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.loss = loss.detach() if self.step == 0 else torch.lerp(self.loss, loss.detach(), 0.02)
        self.step += 1

    def train(
        self,
        out: Path,
        checkpoint_every: int = 100,
        progress: Callable[[int, int, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
        resume: bool = False,
    ) -> bool:
        """Train to the end, or until `stop` says so; the state is kept beside `out` either way.

        Args:
            out: the file to write.
            checkpoint_every: steps between checkpoints.
            progress: called every ten steps with (step, steps, loss).
            stop: asked before each step.
            resume: go on from the checkpoint, if there is one.

        Returns:
            Whether the run is complete; then the file is written and the checkpoint is gone.

        Raises:
            DDMError: the loss is no longer finite, a checkpoint of another run, or a file cannot be written.
        """
        kept, steps = checkpoint_path(out), self.settings.steps
        if resume and kept.exists():
            remove_strays(kept, out)
            load_checkpoint(kept, self, self.fingerprint)
        while self.step < steps:
            if stop and stop():
                save_checkpoint(kept, self, self.fingerprint)
                return False
            self.advance()
            if self.step % READ_EVERY == 0 or self.step == steps:
                self._check()
                if progress:
                    progress(self.step, steps, self.loss.item())
            if self.step % checkpoint_every == 0:
                save_checkpoint(kept, self, self.fingerprint)
        self.module.save(out)
        kept.unlink(missing_ok=True)
        return True

    def _check(self) -> None:
        if not self.loss.isfinite():
            raise DDMError(
                f"The loss is no longer finite at step {self.step}. Train again with a learning rate lower "
                f"than {self.settings.learning_rate:g}.",
                "learning_rate",
                "restart",
            )
