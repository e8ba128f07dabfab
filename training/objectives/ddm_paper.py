"""Objective `ddm-paper`: *Debiasing Diffusion Model* (arXiv 2503.12536) as it was published, for K classes and any α.

LoRA on attention's q and v, a constant rate, uniform timesteps, images as they come, one α for the whole training.
What the authors' script does by mistake is not copied: steps are optimizer steps, gradients are clipped by their norm.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...debias.adapter.lora_file import AdapterCard
from ...debias.methods.ddm_indicator import DDMIndicator, indicator_entropy, paper_loss
from ..loop.batch_sampler import Batch
from ..models.lora import set_alpha
from .calibration import Calibration
from .ddm import DDM
from .ddm_run import Run

if TYPE_CHECKING:
    import torch

    from ...debias.groups.groups import Groups
    from ..data.caption_table import CaptionTable

# Images, drawn from the set, over whose noisy versions the entropy is measured.
MEASURED = 256


class DDMPaper(DDM):
    """The paper's draws and loss; the indicator is learnt along, and then discarded.

    Args:
        groups: the classes; images of none are left out.
        given: what `DDM` takes; latents of one shape.
    """

    TARGETS = ("to_q", "to_v")

    def __init__(self, groups: "Groups", *given: object):
        import torch

        super().__init__(*given)
        base, settings = self.base, self.settings
        self.classes = torch.as_tensor(groups.membership.argmax(1), device=base.device)
        size = int(np.prod(self.latents.shape[1:]))
        self.indicator = DDMIndicator(size, len(groups.names), settings.seed).to(base.device)
        self.learning = {"debias": [*self.learning["debias"], *self.indicator.parameters()]}
        self.rows, self.timesteps = np.flatnonzero(groups.membership.sum(1) > 0.5), len(base.schedule)

    def learning_rate(self, step: int) -> float:
        """Learning rate at a step: always the same."""
        return self.settings.learning_rate

    def draw(self, step: int, count: int | None = None) -> Batch:
        """Draw images that have a class, and timesteps, evenly: a batch, or `count` of them."""
        rng, count = np.random.default_rng([self.settings.seed, step]), count or self.settings.batch_size
        image = rng.choice(self.rows, count)
        return Batch(
            image=image,
            flip=np.zeros(count, dtype=bool),
            alpha=np.ones(count, dtype=np.float32),
            timestep=rng.integers(self.timesteps, size=count),
            text=self.captions.neutral[image, 0],
            anchor=np.full(count, -1),
            style=False,
        )

    def entropy(self) -> tuple[float, float]:
        """Mean and standard deviation of the indicator's entropy on noisy images, as the paper evaluates itself."""
        import torch

        batch = self.draw(self.settings.steps, MEASURED)
        mean, _, _ = self.latents.fetch(batch.image, batch.flip)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(self.settings.seed)).to(mean)
        with torch.no_grad():
            return indicator_entropy(self.indicator(self._denoised(batch, mean, noise)))

    def loss(
        self, batch: Batch, latents: "torch.Tensor", noise: "torch.Tensor", mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Each row's (1 − α) ‖ε̂ − ε‖² + α times the cross-entropy of the indicator on ε̂ (see `paper_loss`): [B]."""
        import torch

        predicted = self._denoised(batch, latents, noise)
        classes = self.classes[self.base.moved(torch.as_tensor(batch.image))]
        return paper_loss(predicted, noise, self.indicator(predicted), classes, self.settings.paper_alpha)

    def _denoised(self, batch: Batch, latents: "torch.Tensor", noise: "torch.Tensor") -> "torch.Tensor":
        """ε̂ [B, C, h, w], with the LoRA at strength 1."""
        import torch

        t = self.base.moved(torch.as_tensor(batch.timestep))
        set_alpha(self.base.denoiser, "debias", 1.0)
        return self.base.denoise(self.base.noisy(latents, noise, t), t, self.captions.table[batch.text])


class DDMPaperRun(Run):
    """A whole training with the published objective; nothing is predicted, and nothing calibrated."""

    needs_base_shares = False  # its loss does not ask where the base stands

    def _objective(self, captions: "CaptionTable") -> DDMPaper:
        grouping = self.grouping
        return DDMPaper(
            grouping.groups[0],
            self.base,
            self.images.squares,
            captions,
            grouping.weighting,
            self.settings,
            False,
            self.ranks,
        )

    def _alpha_range_scale(self, weighting: object) -> float:
        """Its strength is 1 all the time."""
        return 1.0

    def calibrate(self, progress: Callable[[int, int], None] | None = None, base_shares: object = None) -> None:
        """Nothing: the paper promises no shares that a scale could be set to."""

    @property
    def recommended(self) -> float:
        """The strength that it was trained at."""
        return 1.0

    def card(self, calibration: Calibration | None = None) -> AdapterCard:
        """What the adapter was trained for, and what the paper measures of itself."""
        mean, std = self.objective.entropy()
        card = super().card(calibration)
        return replace(
            card,
            objective="ddm-paper",
            target=None,
            alpha_max=1.0,
            predicted=[],
            training=card.training | {"indicator_entropy": {"mean": round(mean, 4), "deviation": round(std, 4)}},
            description="Trained with the objective of arXiv 2503.12536, to compare with: use it at strength 1.",
        )
