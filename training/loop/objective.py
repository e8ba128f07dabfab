"""What the outer loop asks of a method: what is learnt, and the loss."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .distributed import Ranks

if TYPE_CHECKING:
    import torch

    from ..models.base import Base


class Objective:
    """A method as `fit` trains it. A step depends on its number and the seed alone, so a resumed run is the same.

    A method gives `learning`, `learning_rate`, `draw` and `loss`; one that computes a loss in parts gives `backward` as
    well, and its `loss` is then what that asks for.

    Attributes:
        base: the frozen model.
        settings: here their `steps` and `learning_rate` count.
        learning: the parameters that are learnt in each phase; one optimizer has them all.
        ranks: the processes that share each step.
        images: how many of a step's images this process computes; more micro-batches there cannot be.
        micro_batches: into how many a step is split at first.
        weight_decay, max_grad_norm: 0 for none.
        ema: decay of the weights' average, which is then what is saved; 0 for none.
        loss_scale: factor on the loss at first, so that gradients in float16 do not vanish.
        smoothing: how much the newest loss counts in the one that is shown.
        effective_share: ESS of the weights at α = 1, to show; None where images have no weights.
    """

    base: "Base"
    settings: Any
    learning: "Mapping[str, list[torch.nn.Parameter]]"
    ranks = Ranks()
    images = micro_batches = 1
    weight_decay, max_grad_norm, ema, loss_scale, smoothing = 0.0, 1.0, 0.0, 1.0, 0.02
    effective_share: float | None = None

    @property
    def parameters(self) -> "list[torch.nn.Parameter]":
        """All that is learnt."""
        return [parameter for phase in self.learning.values() for parameter in phase]

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step."""
        raise NotImplementedError

    def phase(self, step: int) -> str:
        """Which of `learning` a step teaches."""
        return next(iter(self.learning))

    def build_optimizer(self) -> "torch.optim.Optimizer":
        """AdamW; on a GPU the fused one, which can leave a step out without being waited for."""
        import torch

        rate, fused = self.settings.learning_rate, self.base.device.type == "cuda" or None
        return torch.optim.AdamW(self.parameters, rate, weight_decay=self.weight_decay, fused=fused)

    def draw(self, step: int) -> Any:
        """Draw what a step learns from."""
        raise NotImplementedError

    def loss(self, batch: Any) -> "torch.Tensor":
        """The loss of what was drawn."""
        raise NotImplementedError

    def backward(
        self, step: int, micro_batches: int, scale: "torch.Tensor", stop: Callable[[], bool] | None = None
    ) -> "torch.Tensor | None":
        """Add the gradients of `scale` times this process's part of a step's loss to those that are there.

        Args:
            micro_batches: how many parts it is computed in, one after another.
            scale: a number on the device.
            stop: may be asked between them.

        Returns:
            That product; None once `stop` said True.
        """
        loss = self.loss(self.draw(step)) * scale
        loss.backward()
        return loss.detach()

    def state(self) -> "dict[str, torch.Tensor]":
        """What a checkpoint keeps besides what is learnt, by the names of its attributes."""
        return {}
