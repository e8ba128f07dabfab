"""How long a training takes: the operations of its steps and of the images that it makes, by how fast the device is."""

import time
from typing import TYPE_CHECKING, NamedTuple

from ..models.memory_estimate import Estimate
from ..objectives.calibration import STRENGTHS
from .config import TrainConfig

if TYPE_CHECKING:
    import torch

# What the embedded U-Net reaches of the speed at which a CPU multiplies large matrices: 2.4 s a step, 2.6 by this.
EFFICIENCY = 0.4
# Sampling steps and strengths of what is made besides: the model's own images, and the last look.
OWN_STEPS, LOOKS = 20, 2
# Seconds of the measurement, and sides of its matrices.
MEASURED, SIDES = 0.3, {"cpu": 1024}
SIDE = 8192


class Duration(NamedTuple):
    """Seconds: of the steps, and of the images that are made to learn from and to look at."""

    steps: float
    images: float

    def __str__(self) -> str:
        parts = f": the steps {_said(self.steps)}, images {_said(self.images)}" if self.images else ""
        return f"about {_said(self.steps + self.images)}{parts}"


def duration(
    config: TrainConfig, found: Estimate, rows: int, images: int, prompts: int, own: int, speed: float
) -> Duration:
    """The time that a training takes.

    Args:
        found: its operations, for so many rows.
        images: in the folders.
        prompts: different captions.
        own: images that the model makes to learn from.
        speed: of the device, see `speed_of`.
    """
    guided = 1 if config.calibrate_cfg == 1 else 2
    looked = (len(STRENGTHS) + LOOKS) * config.calibrate + len(STRENGTHS) * config.by_prompt * prompts
    passes = looked * config.calibrate_steps * guided + own * OWN_STEPS * 2
    steps = config.steps_of(images + own) * config.batch_size * (found.forward + found.backward)
    per_second = rows * speed * EFFICIENCY
    return Duration(steps / per_second, passes * found.forward / per_second)


def speed_of(device: "torch.device", half: bool) -> float:
    """Floating-point operations per second of a device that multiplies large matrices, as fast as it can.

    Args:
        half: whether it may do so in half precision.
    """
    import torch

    return max(_speed(device, dtype) for dtype in (torch.float32, *([torch.bfloat16] if half else [])))


def _speed(device: "torch.device", dtype: "torch.dtype") -> float:
    import torch

    side = SIDES.get(device.type, SIDE)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    (matrix @ matrix)[0, 0].item()  # the first one is slower
    began, done = time.monotonic(), 0
    while (seconds := time.monotonic() - began) < MEASURED:
        (matrix @ matrix)[0, 0].item()  # waits for the device
        done += 1
    return done * 2 * side**3 / seconds


def _said(seconds: float) -> str:
    """A duration in whole units, no finer than it is known."""
    if seconds < 90:
        return f"{max(1, round(seconds) if seconds < 10 else round(seconds / 10) * 10)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
