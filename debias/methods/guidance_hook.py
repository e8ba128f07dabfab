"""Distribution guidance on a U-Net by forward hooks: no weight is changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.error import DDMError
from .distribution_guidance import Guidance

# (rows of a call of the U-Net, its keyword arguments) → those rows that hold all images under their prompt, once for
# each part of the prompt.
Conditional = Callable[[int, Mapping[str, Any]], Sequence[slice]]


class GuidanceHooks:
    """Guides on the output of a U-Net's middle, until `remove` is called."""

    def __init__(
        self,
        unet: nn.Module,
        middle: nn.Module,
        guides: Sequence[Guidance],
        conditional: Conditional,
        failed: Callable[[DDMError], None] | None = None,
    ):
        """Put them on; each has begun with the images that are made.

        Args:
            unet: called as unet(x [B, ...], timesteps, ...).
            middle: its block in the middle; gives h-space [B, C, H, W].
            guides: one for each attribute.
            conditional: asked at each call of the U-Net.
            failed: told what went wrong; nothing is pushed from then on. Without it, the call of the U-Net raises.
        """
        self.guides, self.conditional, self.failed = guides, conditional, failed
        self.timestep, self.rows = 0.0, ()
        self.handles = [
            unet.register_forward_pre_hook(self._begin, with_kwargs=True),
            middle.register_forward_hook(self._push),
        ]

    def remove(self) -> None:
        """Take them off again; once more does no harm."""
        for handle in self.handles:
            handle.remove()

    def _begin(self, unet: nn.Module, inputs: tuple, named: dict) -> None:
        x, timesteps = inputs[:2]
        self.timestep = float(torch.as_tensor(timesteps).flatten()[0])
        self.rows = self.conditional(len(x), named)

    def _push(self, middle: nn.Module, inputs: tuple, h: torch.Tensor) -> torch.Tensor | None:
        try:
            shifts = [(rows, guide.shift(h[rows], self.timestep)) for rows in self.rows for guide in self.guides]
        except DDMError as error:
            if self.failed is None:
                raise
            self.remove()
            self.failed(error)
            return None
        shifts = [(rows, shift) for rows, shift in shifts if shift is not None]
        if not shifts:
            return None
        pushed = h.clone()
        for rows, shift in shifts:
            pushed[rows] += shift
        return pushed
