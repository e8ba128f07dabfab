"""How a step is made: gradients, learning rate, averages; with less memory where it does not suffice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...debias.core.error import OutOfMemory
from .ema import Ema
from .optimizer import step_unless

if TYPE_CHECKING:
    import torch

    from .objective import Objective


class Training:
    """An objective, its optimizer, and how far it is.

    Nothing in a step waits for the device, so that it always has work; what a step finds is read now and then.

    Args:
        objective: what is learnt.
        note: told when memory has to be saved.

    Attributes:
        step: steps made.
        loss: of a step, smoothed; NaN before the first.
        skipped, consecutive_skips: steps left out as something was not finite; in all, and since the last good one.
        scale: factor on the loss while gradients are computed; half of it after each overflow.
        averages: of what is learnt, by phase.
        micro_batches: into how many a process splits its images of a step.
        gradient_checkpointing: whether activations are computed again instead of kept (arXiv 1604.06174).
        consistent: whether weights and optimizer are those of `step`; they are not while the optimizer works.
    """

    def __init__(self, objective: "Objective", note: Callable[..., None] | None = None):
        import torch

        self.objective, self.note = objective, note or (lambda text: None)
        self.parameters, self.optimizer = objective.parameters, objective.build_optimizer()
        self.averages = {
            phase: Ema({f"{number:05}": parameter for number, parameter in enumerate(parameters)}, objective.ema)
            for phase, parameters in objective.learning.items()
            if objective.ema
        }
        self.step, self.micro_batches = 0, objective.micro_batches
        self.gradient_checkpointing, self.consistent = False, True
        self.loss, self.skipped, self.consecutive_skips, self.scale = (
            torch.tensor(value, device=objective.base.device)
            for value in (float("nan"), 0.0, 0.0, objective.loss_scale)
        )

    def state(self) -> "dict[str, torch.Tensor]":
        """What a checkpoint keeps besides what is learnt, by the names of its attributes."""
        return {name: getattr(self, name) for name in ("loss", "skipped", "consecutive_skips", "scale")}

    def advance(self, stop: Callable[[], bool] | None = None) -> bool:
        """Make one optimizer step; it changes nothing that is learnt if loss or gradients are not finite.

        Args:
            stop: asked between micro-batches; after True the step is given up as if it had not begun.

        Returns:
            Whether the step was made.

        Raises:
            OutOfMemory: the memory does not suffice for one image.
        """
        import torch

        objective, phase = self.objective, self.objective.phase(self.step)
        learning = objective.learning[phase]
        loss = self._gradients(learning, stop)
        if loss is None:
            return False
        gradients = [parameter.grad for parameter in learning]
        objective.ranks.total([*gradients, loss])
        loss = loss / self.scale
        torch._foreach_div_(gradients, self.scale)
        norm = torch.nn.utils.clip_grad_norm_(learning, objective.max_grad_norm or float("inf"))
        bad = 1 - (norm.isfinite() & loss.isfinite()).float()
        for group in self.optimizer.param_groups:
            group["lr"] = objective.learning_rate(self.step)
        self.consistent = False
        step_unless(self.optimizer, bad)
        if self.averages:
            self.averages[phase].update()
        smoothed = torch.where(self.loss.isnan(), loss, torch.lerp(self.loss, loss, objective.smoothing))
        self.loss = torch.where(bad > 0, self.loss, smoothed)
        self.skipped, self.consecutive_skips = self.skipped + bad, (self.consecutive_skips + 1) * bad
        self.scale = (self.scale * (1 - bad / 2)).clamp(min=1)
        self.step += 1
        if self.averages and objective.phase(self.step) != phase:
            self.averages[phase].swap()  # the next phase starts from what is saved of this one
        self.consistent = True
        return True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """What is learnt has its averaged values (EMA) meanwhile, if they are kept."""
        ema = self.averages.get(self.objective.phase(self.step))
        if ema:
            ema.swap()
        try:
            yield
        finally:
            if ema:
                ema.swap()

    def save_memory(self) -> None:
        """Keep no activations of the U-Net: a third more time, a fraction of the memory."""
        self.gradient_checkpointing = True
        self.objective.base.denoiser.enable_gradient_checkpointing()

    def _gradients(
        self, learning: "list[torch.nn.Parameter]", stop: Callable[[], bool] | None
    ) -> "torch.Tensor | None":
        """Put a step's gradients on what it teaches; give `scale` times the loss, or None once `stop` said True."""
        import torch

        if learning[0].grad is None:  # from here on they stay where they are; what other phases teach has none
            self.optimizer.zero_grad(set_to_none=True)
            for parameter in learning:
                parameter.grad = torch.zeros_like(parameter)
        while True:
            torch._foreach_zero_([parameter.grad for parameter in learning])
            try:
                return self.objective.backward(self.step, self.micro_batches, self.scale, stop)
            except torch.cuda.OutOfMemoryError:
                pass  # what follows needs the memory that the error's traceback holds
            self._need_less()

    def _need_less(self) -> None:
        """The memory did not suffice: take fewer images at a time, or else keep no activations.

        Raises:
            OutOfMemory: no activations are kept as it is.
        """
        import torch

        device, images, begins = self.objective.base.device, self.objective.images, f"from step {self.step + 1} on,"
        if self.micro_batches < images:
            self.micro_batches = min(2 * self.micro_batches, images)
            self.note(
                f"The memory does not suffice for more images at a time: {begins} each step takes its {images} in "
                f"{self.micro_batches} parts. What is learnt is the same."
            )
        elif not self.gradient_checkpointing:
            self.save_memory()
            self.note(
                f"The memory does not suffice for one image at a time: {begins} activations are computed twice "
                "instead of kept (gradient checkpointing). What is learnt is the same."
            )
        else:
            raise OutOfMemory(
                f"The memory of {device} does not suffice to learn from one image at a time. Close other programs "
                "that use it, or choose a lower rank or a smaller base.",
                "rank",
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
