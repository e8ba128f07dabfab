"""The optimizers that a training can have, and how a step with a gradient that is not finite is left out."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError

if TYPE_CHECKING:
    import torch


OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")
# The first is ours, called as in transformers; of the others diffusers' `get_scheduler` says how they fall.
SCHEDULERS = ("cosine_with_min_lr", "cosine", "linear", "polynomial", "constant", "constant_with_warmup")
BETAS = (0.9, 0.99)
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def build_optimizer(
    name: str, parameters: "Sequence[torch.nn.Parameter]", learning_rate: float
) -> "torch.optim.Optimizer":
    """Build an optimizer without weight decay.

    Args:
        name: adamw; adamw8bit, whose moments take a quarter of the memory (arXiv 2110.02861); or prodigy, which finds
            its learning rate itself (arXiv 2306.06101).
        learning_rate: a factor on the one that prodigy finds.

    Raises:
        DDMError: the package that has it is not installed.
    """
    import torch

    options = {"lr": learning_rate, "betas": BETAS, "weight_decay": 0.0}
    try:
        if name == "prodigy":
            from prodigyopt import Prodigy

            # As its authors recommend it with a warm-up and for diffusion models.
            return Prodigy(parameters, **options, safeguard_warmup=True, use_bias_correction=True)
        if name == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters, **options)
    except ImportError as error:
        package = PACKAGES[name]
        raise DDMError(
            f"The optimizer {name} is in the package {package}, which cannot be used here ({error}). Install it with "
            f"pip install {package}, or choose adamw."
        ) from error
    try:
        return torch.optim.AdamW(parameters, **options, fused=True)
    except RuntimeError:  # a device for which there is no fused one
        return torch.optim.AdamW(parameters, **options)


def step_unless(optimizer: "torch.optim.Optimizer", bad: "torch.Tensor") -> None:
    """Make a step; none where `bad`, a float on the device, is 1. Only a fused optimizer needs not wait for it."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # What torch.amp.GradScaler does: the kernel itself looks.
        optimizer.grad_scale, optimizer.found_inf = None, bad
        optimizer.step()
    elif not bad.item():
        optimizer.step()


def schedule(name: str, warmup: int, step: int, steps: int) -> float:
    """The factor on the peak learning rate at a step of so many.

    Args:
        name: one of `SCHEDULERS`.
        warmup: steps over which it rises to 1 (constant has none).
    """
    if name == "cosine_with_min_lr":
        late = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / max(1, warmup)) * (0.05 + 0.95 * late)
    return _factors(name, warmup, steps)(step)


@cache
def _factors(name: str, warmup: int, steps: int) -> Callable[[int], float]:
    """The factor of diffusers' schedule, as a function of the step alone."""
    import torch
    from diffusers.optimization import get_scheduler

    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    (factor,) = get_scheduler(name, unused, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas
    return factor
