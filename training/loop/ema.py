"""Exponential moving averages of what is trained."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Ema:
    """Averages of named tensors, with the usual warm-up of the decay; what is not floating-point stays as it was.

    Args:
        tensors: those that are trained, in place; for instance a module's state.
        decay: weight of the past, in the long run.

    Attributes:
        state: the averages by name.
        step: updates so far.
    """

    def __init__(self, tensors: "Mapping[str, torch.Tensor]", decay: float):
        self.decay, self.step = decay, 0
        self.state = {name: value.detach().clone() for name, value in tensors.items()}
        floating = [name for name, value in tensors.items() if value.is_floating_point()]
        self._pairs = [self.state[name] for name in floating], [tensors[name].detach() for name in floating]

    def update(self) -> None:
        """Move the averages towards the present values."""
        import torch

        self.step += 1
        torch._foreach_lerp_(*self._pairs, 1 - min(self.decay, (1 + self.step) / (10 + self.step)))

    def swap(self) -> None:
        """Exchange averages and present values."""
        for average, value in zip(*self._pairs, strict=True):
            kept = average.clone()
            average.copy_(value)
            value.copy_(kept)
