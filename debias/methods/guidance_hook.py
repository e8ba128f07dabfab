"""Distribution guidance on a denoiser by forward hooks: no weight is changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.error import DDMError
from .distribution_guidance import Guidance
from .h_space import HSpace

# (rows of a call of the U-Net, its keyword arguments) → those rows that hold all images under their prompt, once for
# each part of the prompt.
Conditional = Callable[[int, Mapping[str, Any]], Sequence[slice]]


class GuidanceHooks:
    """Guides on the h-space of a denoiser, until `remove` is called."""

    def __init__(
        self,
        unet: nn.Module,
        space: HSpace,
        guides: Sequence[Guidance],
        conditional: Conditional,
        failed: Callable[[DDMError], None] | None = None,
    ):
        """Put them on; each has begun with the images that are made.

        Args:
            unet: the denoiser.
            space: its h-space.
            guides: one for each attribute.
            conditional: asked at each call of the U-Net.
            failed: told what went wrong; nothing is pushed from then on. Without it, the call of the U-Net raises.
        """
        self.space, self.guides, self.conditional, self.failed = space, guides, conditional, failed
        self.shape, self.timestep, self.rows = (), 0.0, ()
        self.handles = [
            unet.register_forward_pre_hook(self._begin, with_kwargs=True),
            space.module.register_forward_hook(self._push),
        ]

    def remove(self) -> None:
        """Take them off again; once more does no harm."""
        for handle in self.handles:
            handle.remove()

    def _begin(self, unet: nn.Module, inputs: tuple, named: dict) -> None:
        self.shape, self.timestep = self.space.called(inputs)
        self.rows = self.conditional(self.shape[0], named)

    def _push(self, middle: nn.Module, inputs: tuple, output: "torch.Tensor | tuple") -> "torch.Tensor | tuple | None":
        h = self.space.read(output, self.shape)
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
        return self.space.push(output, h, pushed, self.shape)
