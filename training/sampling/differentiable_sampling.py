"""Sampling that can be learnt through: adjusted direct fine-tuning (arXiv 2311.07604, section 4.2).

Latents are detached where they enter the U-Net, so gradients reach each prediction only on the direct path through the
sampler, which is linear. They are therefore known before any gradient enters the U-Net: the images are made without
one, and then each step is computed anew with the gradient of its prediction at hand. That is exact, holds one U-Net's
activations at a time whatever the number of steps, and a few steps can be drawn to stand for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..models.text import Text

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

    from ..models.base import Base


@dataclass(frozen=True)
class Trajectory:
    """One sampling of N latents.

    Attributes:
        inputs: what entered the U-Net at each of S steps [N, C, h, w], detached.
        predictions: what guidance made of its answers [N, C, h, w]; leaves, whose gradients `backward` of a loss fills.
        timesteps: [S].
        latents: the scaled latents at the end [N, C, h, w], a function of the predictions.
    """

    inputs: Sequence["torch.Tensor"]
    predictions: Sequence["torch.Tensor"]
    timesteps: "torch.Tensor"
    latents: "torch.Tensor"

    def backward(
        self, base: "Base", text: Text, empty: Text | None, guidance: float, chosen: Sequence[int], rows: int
    ) -> None:
        """Pass the gradients on into the U-Net and the texts, with the scale of each step.

        Args:
            text, empty: [N] texts as the trajectory was made with, with or without gradients.
            chosen: the steps to pass through; their gradients are multiplied to stand for all.
            rows: images at a time.
        """
        import torch

        scales = base.family.gradient_scales(base, self.timesteps)
        scales = scales * (len(self.inputs) / len(chosen))
        for step in chosen:
            gradient = self.predictions[step].grad * scales[step].to(base.device)
            for part in torch.arange(len(gradient)).split(rows):
                predicted = predict(
                    base,
                    self.inputs[step][part],
                    self.timesteps[step],
                    text[part],
                    None if empty is None else empty[part],
                    guidance,
                )
                # Several parts and steps share one graph of the texts.
                predicted.backward(gradient[part], retain_graph=True)


def predict(
    base: "Base", latents: "torch.Tensor", timestep: "torch.Tensor", text: Text, empty: Text | None, guidance: float
) -> "torch.Tensor":
    """What the base predicts [N, C, h, w] (ε, v or flow) with classifier-free guidance (arXiv 2207.12598)."""
    import torch

    if empty is None:
        return base.predict(latents, timestep, text)
    both = Text.cat([empty, text])
    without, told = base.predict(torch.cat([latents, latents]), timestep, both).chunk(2)
    return without + guidance * (told - without)


def roll_out(
    base: "Base",
    scheduler: "SchedulerMixin",
    noise: "torch.Tensor",
    steps: int,
    text: Text,
    empty: Text | None,
    guidance: float,
    rows: int,
) -> Trajectory:
    """Sample latents from noise [N, C, h, w]; no gradient enters the U-Net or the texts.

    Args:
        scheduler: a diffusers scheduler without randomness (see `Family.solver`).
        text, empty: [N] texts; `empty` is None for no guidance.
        rows: images at a time.
    """
    import torch

    scheduler.set_timesteps(steps, device=base.device)
    latents = noise.to(base.device)
    inputs, predictions = [], []
    for timestep in scheduler.timesteps:
        inputs.append(latents.detach())
        with torch.no_grad():
            parts = torch.arange(len(noise)).split(rows)
            answers = [
                predict(base, inputs[-1][part], timestep, text[part], None if empty is None else empty[part], guidance)
                for part in parts
            ]
        predictions.append(torch.cat(answers).requires_grad_())
        latents = scheduler.step(predictions[-1], timestep, latents, return_dict=False)[0]
    return Trajectory(inputs, predictions, scheduler.timesteps.clone(), latents)


def drawn_steps(rng: np.random.Generator, steps: int, count: int) -> list[int]:
    """Which of the steps to learn through: all when `count` is 0 or more than there are, else one of each stretch."""
    if not 0 < count < steps:
        return list(range(steps))
    edges = np.linspace(0, steps, count + 1)
    return [int(rng.uniform(low, high)) for low, high in pairwise(edges)]
