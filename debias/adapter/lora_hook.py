"""A LoRA beside the layers of a U-Net: no weight is changed, and every row of a batch may have its own strength."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .lora_file import Lora

# (timestep of a call of the U-Net, its rows) → strength α of each row.
Strengths = Callable[[float, int], Sequence[float]]


class LoraHooks:
    """A LoRA on a U-Net by forward hooks, until `remove` is called.

    Each hooked layer gives W x + α · alpha / rank · up(down(x)). While every α of a call is 0, nothing is added, so the
    U-Net computes what it always did.
    """

    def __init__(self, unet: nn.Module, layers: Mapping[nn.Module, Lora], strengths: Strengths):
        """Put it on.

        Args:
            unet: called as unet(x [B, ...], timesteps [B], ...).
            layers: the Linear and Conv2d layers in it that are changed.
            strengths: asked at each call of the U-Net.
        """
        self.strengths = strengths
        self.alpha: torch.Tensor | None = None
        self.handles = [unet.register_forward_pre_hook(self._begin), unet.register_forward_hook(self._end)]
        self.handles += [module.register_forward_hook(self._added(lora)) for module, lora in layers.items()]

    def remove(self) -> None:
        """Take it off again; once more does no harm."""
        for handle in self.handles:
            handle.remove()

    def _begin(self, unet: nn.Module, inputs: tuple) -> None:
        x, timesteps = inputs[:2]
        alpha = torch.tensor(self.strengths(float(timesteps.flatten()[0]), len(x)), dtype=torch.float32)
        self.alpha = alpha.to(x.device) if alpha.any() else None

    def _end(self, unet: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.alpha = None

    def _added(self, lora: Lora) -> Callable:
        scale, (down, up) = lora.alpha / lora.rank, lora[:2]

        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
            nonlocal down, up
            if self.alpha is None:
                return None
            x = inputs[0]
            down, up = down.to(x), up.to(x)  # where the layer computes; the first call moves them
            if isinstance(module, nn.Conv2d):
                kernel = down.reshape(*down.shape[:2], *module.kernel_size)
                inner = F.conv2d(x, kernel, None, module.stride, module.padding, module.dilation)
                change = F.conv2d(inner, up.reshape(*up.shape[:2], 1, 1))
            else:
                change = F.linear(F.linear(x, down.flatten(1)), up.flatten(1))
            # A layer may see each row of the U-Net in several pieces, one after the other.
            alpha = self.alpha.repeat_interleave(len(output) // len(self.alpha))
            return output + change.to(output.dtype) * (alpha * scale).to(output).view(-1, *[1] * (output.ndim - 1))

        return hook
