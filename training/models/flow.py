"""What flow-matching families share: a transformer that predicts the velocity from latents to noise.

Rectified flow (arXiv 2209.03003): x_t = (1 − σ) x + σ ε with the target v = ε − x; t = 1000 σ, as diffusers' pipelines
give it to their transformers.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...debias.core.error import DDMError
from .family import Family

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import SchedulerMixin

    from ...debias.methods.h_space import HSpace
    from .base import Base


class FlowFamily(Family):
    """A family of latent flow-matching transformers.

    Attributes:
        blocks: what the transformer calls its blocks.
    """

    blocks: ClassVar[str]

    part, scheduler = "transformer", "FlowMatchEulerDiscreteScheduler"
    predictions = ("flow_prediction",)
    text_targets = ()

    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """By the class of the transformer."""
        return config["transformer"].get("_class_name") == self.denoiser

    def latent_statistics(self, base: "Base") -> tuple[float, float]:
        """The VAE's own."""
        return base.vae.config.shift_factor or 0.0, base.vae.config.scaling_factor

    def native_size(self, base: "Base") -> int:
        """What the VAE's configuration says; not every transformer's has a size."""
        return base.vae.config.sample_size

    def side_step(self, base: "Base") -> int:
        """Two by two cells are a token."""
        return 2 * base.vae_factor

    def prediction(self, base: "Base") -> str:
        """The velocity."""
        return self.predictions[0]

    def schedule(self, base: "Base") -> "torch.Tensor":
        """There is none."""
        raise DDMError(
            f"{self.title} is trained by flow matching, and has no ᾱ. Min-SNR weights, the objective ddm-paper and "
            "invariant guidance are for U-Nets. Leave them out, or choose another base."
        )

    def timesteps(self, base: "Base", shares: "np.ndarray", plain: bool = False) -> "np.ndarray":
        """Logit-normal, then shifted as in sampling (Stable Diffusion 3, arXiv 2403.03206, sections 3.1 and 5.3.2)."""
        import numpy as np
        from scipy.special import expit, ndtri

        return (1000 * self._shifted(base, expit(ndtri(shares)))).astype(np.float32)

    def shift(self, base: "Base") -> float:
        """How far timesteps are shifted towards noise."""
        return base.scheduler.config.shift

    def _shifted(self, base: "Base", sigma: "float | np.ndarray") -> "float | np.ndarray":
        shift = self.shift(base)
        return shift * sigma / (1 + (shift - 1) * sigma)

    def along(self, base: "Base", timesteps: "Sequence[int]") -> list[int]:
        """Shifted, as the larger an image is, the more noise leaves as much of it."""
        return [round(1000 * float(self._shifted(base, t / 1000))) for t in timesteps]

    def rates(self, base: "Base", t: float) -> tuple[float, float]:
        """1 − σ and σ."""
        return 1 - t / 1000, t / 1000

    def gradient_scales(self, base: "Base", timesteps: "torch.Tensor") -> "torch.Tensor":
        """A step of the schedule of training moves latents by v / 1000, wherever it is."""
        import torch

        return torch.ones(len(timesteps))

    def solver(self, base: "Base") -> "SchedulerMixin":
        """Euler's method, in steps that are even before the shift."""
        return _solver()(shift=self.shift(base))

    def noisy(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """x_t = (1 − σ) x + σ ε."""
        return latents + _sigma(t) * (noise - latents)

    def target(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """v = ε − x."""
        return noise - latents

    def noise(self, base: "Base", answer: "torch.Tensor", noisy: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """ε = x_t + (1 − σ) v."""
        return noisy + (1 - _sigma(t)) * answer

    def features(self, denoiser: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
        """The blocks after a third and two thirds of the way."""
        blocks = getattr(denoiser, self.blocks)
        return {"early": blocks[len(blocks) // 3], "late": blocks[2 * len(blocks) // 3]}

    def hidden(self, output: "torch.Tensor | tuple", latents: "Sequence[int]") -> "torch.Tensor":
        """[B, C, tokens]."""
        from ...debias.methods.h_space import image_tokens

        return image_tokens(output, latents)

    @abstractmethod
    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """See `HSpace.called`."""

    def h_space(self, denoiser: "torch.nn.Module") -> "HSpace":
        """The image's tokens after the middle block."""
        from ...debias.methods.h_space import TokenHSpace

        blocks = getattr(denoiser, self.blocks)
        return TokenHSpace(blocks[len(blocks) // 2], self.called)


def _sigma(t: "torch.Tensor") -> "torch.Tensor":
    """σ of timesteps [B], as [B, 1, 1, 1]."""
    return (t / 1000).view(-1, 1, 1, 1)


def _solver() -> "type[SchedulerMixin]":
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    class FlowSolver(FlowMatchEulerDiscreteScheduler):
        """Begins each of n steps at σ = 1, (n − 1)/n, … 1/n before the shift, as the families' pipelines do.

        Left to itself, the scheduler puts its last step where there is no noise any more.
        """

        def set_timesteps(self, num_inference_steps: int, device: "torch.device | None" = None) -> None:
            super().set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)

    return FlowSolver
