"""h-space: the hidden states in the middle of a denoiser that say what an image is going to show (arXiv 2210.10960)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

# The largest grid on which the tokens of a transformer are read.
SIDE = 8


@dataclass(frozen=True)
class HSpace:
    """h-space of a U-Net: the output of its middle block.

    Attributes:
        module: whose output it is in.
    """

    module: nn.Module

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """The shape of the latents [B, ..., h, w], and the timestep, of a call of the denoiser with these inputs."""
        x, timesteps = inputs[:2]
        return tuple(x.shape), float(torch.as_tensor(timesteps).flatten()[0])

    def read(self, output: "torch.Tensor | tuple", shape: tuple[int, ...]) -> torch.Tensor:
        """h [B, C, H, W] in what the module gives for latents of a shape."""
        return output

    def push(
        self, output: "torch.Tensor | tuple", h: torch.Tensor, pushed: torch.Tensor, shape: tuple[int, ...]
    ) -> "torch.Tensor | tuple":
        """What the module is to give instead, so that h is `pushed`."""
        return pushed


@dataclass(frozen=True)
class TokenHSpace(HSpace):
    """h-space of a transformer: the image's tokens after a block, in means over a grid of at most 8 by 8.

    A block gives a tuple that ends with image tokens, or rows that begin or end with them.

    Attributes:
        inputs_of: as `called`.
        text_first: whether rows end with the image.
    """

    inputs_of: Callable[[tuple], tuple[tuple[int, ...], float]]
    text_first: bool = False

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As the transformer takes them."""
        return self.inputs_of(inputs)

    def read(self, output: "torch.Tensor | tuple", shape: tuple[int, ...]) -> torch.Tensor:
        """Means over the cells of the grid."""
        grid = image_tokens(output, shape, self.text_first).float().unflatten(2, _grid(shape))
        return F.adaptive_avg_pool2d(grid, [min(SIDE, side) for side in _grid(shape)])

    def push(
        self, output: "torch.Tensor | tuple", h: torch.Tensor, pushed: torch.Tensor, shape: tuple[int, ...]
    ) -> "torch.Tensor | tuple":
        """Every token of a cell moves as the mean is to."""
        whole = output[-1] if isinstance(output, tuple) else output
        change = F.interpolate(pushed - h, _grid(shape)).flatten(2).transpose(1, 2)
        text = whole.shape[1] - change.shape[1]
        moved = whole + F.pad(change, (0, 0, text, 0) if self.text_first else (0, 0, 0, text)).to(whole.dtype)
        return (*output[:-1], moved) if isinstance(output, tuple) else moved


def image_tokens(output: "torch.Tensor | tuple", shape: "tuple[int, ...]", text_first: bool = False) -> torch.Tensor:
    """The image's tokens [B, C, tokens] in what a transformer's block gives for latents of a shape."""
    whole = output[-1] if isinstance(output, tuple) else output
    rows, columns = _grid(shape)
    return (whole[:, -rows * columns :] if text_first else whole[:, : rows * columns]).transpose(1, 2)


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Two by two cells of the latents are a token."""
    return shape[-2] // 2, shape[-1] // 2
