"""Calibration of a trained adapter's scale, without a label: α = 1 shall move the model as far as promised.

Log-odds are linear in the strength, but a short training under guidance reaches only part of the way. So the model
makes pictures at three strengths with the same seeds, a regression learnt on the set reads them in the base's own
features, and the strength at which their score is what the weights predict for α = 1 becomes the file's α = 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..debias.feature import centre, places, unet_features
from ..debias.weight import Weighting
from .lora import lora_names, set_alpha

if TYPE_CHECKING:
    import torch

    from .base import Base

STRENGTHS = (0.0, 1.0, 2.0)
COMPONENTS = 48
# Fewer pictures teach no regression; and a score is in nats, so a smaller move is rounding.
FEWEST, LEAST = 8, 1e-6


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Attributes:
        scale: factor on the LoRA, within 0.5…2; 1 where it found no effect.
        strengths: the strengths that were tried.
        scores: mean score of the pictures at each.
        goal: the score that the weights promise at α = 1.
    """

    scale: float
    strengths: tuple[float, ...]
    scores: tuple[float, ...]
    goal: float


def scale_of(strengths: Sequence[float], scores: Sequence[float], goal: float) -> float:
    """Interpolate the strength at which the score reaches the goal, within 0.5…2; 1 where nothing moves towards it."""
    moved = (np.asarray(scores) - scores[0]) * np.sign(goal - scores[0])
    moved = np.maximum.accumulate(moved)
    if moved[-1] <= LEAST:
        return 1.0
    return float(np.clip(np.interp(abs(goal - scores[0]), moved, strengths), 0.5, 2.0))


def scores_of_set(weighting: Weighting) -> np.ndarray:
    """Say how strongly the weights ask for each picture [N]: its log-weight at α = 1."""
    return np.log(np.maximum(weighting.weights(1.0), 1e-9))


def calibrate(
    base: "Base",
    latents: "torch.Tensor",
    captions: Sequence[str],
    concept: np.ndarray,
    weighting: Weighting,
    *,
    pictures: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure the trained "debias" LoRA on the base's U-Net and find the factor that makes α = 1 what was promised.

    Args:
        latents: [N, C, h, w] scaled latents of the set.
        captions: [N]; pictures are made of captions drawn from them.
        concept: [N] which pictures are compared with each other (see `group.peers`).
        weighting: the weights that were trained towards.
        pictures: how many to make at each strength.
        seed: of captions and noise.
    """
    import torch
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from .sampler import generate_batches

    rng = np.random.default_rng([seed, 77])
    drawn = np.sort(rng.integers(len(captions), size=pictures))
    prompts, seeds = [captions[row] for row in drawn], [seed + 2_000_000 + number for number in range(pictures)]
    made, last = [], (0, 1)

    def sampled(done: int, total: int) -> None:
        nonlocal last
        last = (done, total)
        reading()

    def reading(*_: int) -> None:
        # The pictures are there by then, but whoever watches can still stop.
        if progress:
            progress(*last)

    for number, strength in enumerate(STRENGTHS):
        batches = generate_batches(
            base,
            prompts,
            seeds,
            alpha=strength,
            bf16=base.half_is_native,
            progress=lambda done, total, n=number: sampled(n * total + done, len(STRENGTHS) * total),
        )
        made.append(torch.cat([batch.latents for batch in batches]))
    for name in lora_names(base.unet):
        set_alpha(base.unet, name, 0.0)
    own = _features(base, latents, captions, reading)
    centred = centre(own, concept)
    new = [_features(base, part, prompts, reading) for part in made]
    for name in lora_names(base.unet):
        set_alpha(base.unet, name, 1.0)
    model = make_pipeline(
        StandardScaler(), PCA(min(COMPONENTS, len(captions) // 4), random_state=0), RidgeCV(np.logspace(-2, 4, 13))
    )
    asked = scores_of_set(weighting)
    x = np.concatenate(list(centred.values()), 1)
    guessed = cross_val_predict(model, x, asked)
    model.fit(x, asked)
    means = {name: values - centred[name] for name, values in own.items()}
    scores = [
        float(model.predict(np.concatenate([part[name] - means[name][drawn] for name in part], 1)).mean())
        for part in new
    ]
    gap = float((weighting.weights(1.0) * guessed).sum() / weighting.weights(1.0).sum() - guessed.mean())
    goal = (scores[0] if weighting.by_indicator else float(guessed.mean())) + gap
    return Calibration(scale_of(STRENGTHS, scores, goal), STRENGTHS, tuple(scores), goal)


def _features(
    base: "Base", latents: "torch.Tensor", captions: Sequence[str], progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    import torch

    names, index = np.unique(np.asarray(captions, dtype=object), return_inverse=True)
    return unet_features(
        base.denoise,
        places(base.unet),
        base.scheduler.alphas_cumprod,
        latents,
        base.encode_text([str(name) for name in names]),
        torch.as_tensor(index, device=base.device),
        progress=progress,
    )
