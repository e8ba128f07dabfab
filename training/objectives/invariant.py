"""Invariant guidance (arXiv 2412.08480): group inference, and training of the small module beside a frozen base."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...debias.groups.diffusion_classifier import denoising_errors
from ...debias.groups.groups import concepts
from ...debias.methods.group_inference import infer_groups, invariant_loss
from ...debias.methods.invariant_module import new_module
from ..loop.checkpoint import Checkpointing, checkpoint_path
from ..loop.fit import TrainingRun
from ..loop.objective import Objective
from ..loop.training import Training

if TYPE_CHECKING:
    import torch

    from ..data.dataset import ImageSet
    from ..models.base import Base

# The noise levels over which an image's loss is averaged.
TIMESTEPS = (100, 300, 500, 700, 900)


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
        caption_dropout_rate: share of images learnt under the empty caption, which classifier-free guidance needs.
        seed: of everything.
    """

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 1e-3
    groups: int = 8
    beta: float = 3.0
    variance: float = 1.0
    caption_dropout_rate: float = 0.15
    seed: int = 0


class Batch(NamedTuple):
    """What B images of a step are: latents and noise [B, C, h, w], timesteps, rows of the text table, groups [B, G]."""

    latents: "torch.Tensor"
    noise: "torch.Tensor"
    timestep: "torch.Tensor"
    text: "torch.Tensor"
    groups: "torch.Tensor"


class Invariant(Objective):
    """The frozen base, the module that is learnt beside it, and the groups that it is to serve alike.

    Args:
        base: nothing on it is changed.
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
            base.denoiser.num_parameters(),
            base.hash,
            base.prediction,
            asdict(settings),
            settings.seed,
        ).to(base.device)
        self.learning = {"module": list(self.module.parameters())}

    def learning_rate(self, step: int) -> float:
        """A cosine down to 0."""
        return self.settings.learning_rate * 0.5 * (1 + np.cos(np.pi * step / self.settings.steps))

    def draw(self, step: int) -> Batch:
        """Draw images, timesteps (stratified), captions and noise; stateless."""
        import torch

        settings, moved = self.settings, self.base.moved
        rng = np.random.default_rng([settings.seed, step])
        generator = torch.Generator().manual_seed((settings.seed << 32) + step)
        count = settings.batch_size
        rows = rng.integers(len(self.concept), size=count)
        text = np.where(rng.random(count) < settings.caption_dropout_rate, self.empty, self.concept[rows])
        times = rng.permutation(np.arange(count) + rng.random(count)) / count * len(self.base.schedule)
        mean, std, _ = self.images.squares.fetch(rows, np.zeros(count, dtype=bool))
        posterior_noise, noise = (moved(torch.randn(mean.shape, generator=generator)) for _ in range(2))
        image, timestep, text = (moved(torch.as_tensor(part)) for part in (rows, times.astype(int), text))
        return Batch(mean + std * posterior_noise, noise, timestep, text, self.groups[image])

    def loss(self, batch: Batch) -> "torch.Tensor":
        """mean_g(L_g) + λ·Var_g(L_g) of the denoising losses, where the module adds to the base's answer."""
        import torch

        base, text = self.base, self.table[batch.text]
        noisy = base.noisy(batch.latents, batch.noise, batch.timestep)
        with torch.no_grad():
            answer = base.predict(noisy, batch.timestep, text)
        answer = answer + self.module(noisy, batch.timestep, text.tokens)
        target = base.target(batch.latents, batch.noise, batch.timestep)
        losses = (answer - target).square().mean((1, 2, 3))
        return invariant_loss(losses, batch.groups, self.settings.variance)


class InvariantRun(TrainingRun):
    """A whole training, from images to the module's file.

    Args:
        base, images, settings, report: see `Invariant`.
        out: the file to write.
        checkpoint_every: steps between checkpoints.
        checkpoint: where a stopped run is kept; beside `out` if not given.
    """

    def __init__(
        self,
        base: "Base",
        images: "ImageSet",
        out: Path,
        settings: InvariantSettings,
        checkpoint_every: int = 100,
        report: Callable[[str, int, int], None] | None = None,
        checkpoint: Path | None = None,
    ):
        self.objective, self.out = Invariant(base, images, settings, report), out
        self.training = Training(self.objective)
        depends = {"base": base.identity, "images": images.fingerprint, "settings": asdict(settings)}
        kept = checkpoint or checkpoint_path(out)
        self.checkpointing = Checkpointing(kept, self.training, depends, checkpoint_every)

    def save(self) -> None:
        """Write the module."""
        self.objective.module.save(self.out)
