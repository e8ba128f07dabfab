"""What flow-matching families share: a transformer that predicts the velocity from latents to noise.

Rectified flow (arXiv 2209.03003): x_t = (1 − σ) x + σ ε with the target v = ε − x; t = 1000 σ, as diffusers' pipelines
give it to their transformers.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...debias.core.error import DDMError
from .family import Family

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import SchedulerMixin

    from ...debias.methods.h_space import HSpace
    from .base import Base
    from .text import Text


Grid = tuple[int, int]
# Side in pixels and sampling steps, where nothing else is said.
SIDE, STEPS = 1024, 50


class FlowFamily(Family):
    """A family of latent flow-matching transformers.

    Attributes:
        blocks: what the transformer calls its blocks.
        converter: diffusers' function that renames a file's tensors; empty where they are called alike.
        text_first: whether a block's rows of text and image tokens end with the image.
    """

    blocks: ClassVar[str]
    converter: ClassVar[str] = ""
    text_first: ClassVar[bool] = False

    part, scheduler = "transformer", "FlowMatchEulerDiscreteScheduler"
    predictions = ("flow_prediction",)
    text_targets = ()

    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """By the class of the transformer."""
        return config["transformer"].get("_class_name") == self.denoiser

    def renamed(self, tensors: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """The transformer's tensors by diffusers' names, of those of a file by its authors' names."""
        from diffusers.loaders import single_file_utils

        return getattr(single_file_utils, self.converter)(tensors) if self.converter else tensors

    def latent_statistics(self, base: "Base") -> tuple[float, float]:
        """The VAE's own."""
        return base.vae.config.shift_factor or 0.0, base.vae.config.scaling_factor

    def native_size(self, base: "Base") -> int:
        """What the VAE's configuration says; not every transformer's has a size."""
        return base.vae.config.get("sample_size", SIDE)

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

    def shift(self, base: "Base", steps: int = STEPS) -> float:
        """How far timesteps are shifted towards noise; with dynamic shifting, the further the larger the images are.

        Args:
            steps: of sampling, where the shift depends on it.
        """
        config = base.scheduler.config
        if not config.use_dynamic_shifting:
            return config.shift
        least, most = config.base_image_seq_len, config.max_image_seq_len
        along = (self.tokens(base) - least) / (most - least)
        return math.exp(config.base_shift + along * (config.max_shift - config.base_shift))

    def tokens(self, base: "Base") -> int:
        """Tokens of an image."""
        return (base.image_size // self.side_step(base)) ** 2

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
        return _solver()(base.scheduler.config, lambda steps: self.shift(base, steps))

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

        return image_tokens(output, latents, self.text_first)

    @abstractmethod
    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """See `HSpace.called`."""

    def h_space(self, denoiser: "torch.nn.Module") -> "HSpace":
        """The image's tokens after the middle block."""
        from ...debias.methods.h_space import TokenHSpace

        blocks = getattr(denoiser, self.blocks)
        return TokenHSpace(blocks[len(blocks) // 2], self.called, self.text_first)


def _sigma(t: "torch.Tensor") -> "torch.Tensor":
    """σ of timesteps [B], as [B, 1, 1, 1]."""
    return (t / 1000).view(-1, 1, 1, 1)


class PackedFlowFamily(FlowFamily):
    """A family whose transformer takes a row of tokens, of two by two latent cells each."""

    def latent_channels(self, base: "Base") -> int:
        """A token has those of four cells."""
        return base.denoiser.config.in_channels // 4

    @abstractmethod
    def answer(
        self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: "Text", grid: Grid
    ) -> "torch.Tensor":
        """The velocity of tokens [B, rows · columns, 4 C], as tokens.

        Args:
            t: [B] σ.
            grid: rows and columns of tokens.
        """

    def predict(self, base: "Base", noisy: "torch.Tensor", t: "torch.Tensor", text: "Text") -> "torch.Tensor":
        """The velocity."""
        grid, t = (noisy.shape[2] // 2, noisy.shape[3] // 2), t.expand(len(noisy))
        return unpack(self.answer(base, pack(noisy.to(base.dtype)), t / 1000, text, grid), grid).float()


def pack(latents: "torch.Tensor") -> "torch.Tensor":
    """Latents [B, C, h, w] as tokens [B, h/2 · w/2, 4 C], of which a channel's four cells are beside each other."""
    cells = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, h/2, 2, w/2, 2]
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: "torch.Tensor", grid: Grid) -> "torch.Tensor":
    """Undo `pack`."""
    cells = tokens.unflatten(1, grid).unflatten(3, (-1, 2, 2))  # [B, h/2, w/2, C, 2, 2]
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _solver() -> "type[SchedulerMixin]":
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    class FlowSolver(FlowMatchEulerDiscreteScheduler):
        """Begins each of n steps at σ = 1, (n − 1)/n, … 1/n before the shift, as the families' pipelines do.

        Left to itself, the scheduler puts its last step where there is no noise any more.

        Args:
            config: of the scheduler that it stands for.
            shift: by the number of steps.
        """

        def __init__(self, config: Mapping[str, Any], shift: "Callable[[int], float]"):
            super().__init__(shift_terminal=config.get("shift_terminal"))
            self.shift_of = shift

        def stretch_shift_to_terminal(self, t: "np.ndarray") -> "np.ndarray":
            """A single step begins at noise alone, and cannot end elsewhere."""
            return t if len(t) == 1 else super().stretch_shift_to_terminal(t)

        def set_timesteps(self, num_inference_steps: int, device: "torch.device | None" = None) -> None:
            self.set_shift(self.shift_of(num_inference_steps))
            super().set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)

    return FlowSolver
