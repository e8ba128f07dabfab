"""Probes by the diffusion model itself: which class's words help it most to denoise an image.

Diffusion classifier (Li et al. 2023, arXiv 2303.16203, eq. 5): with common noise ε, ‖ε̂(x_t, words) − ε‖² under the
words of one class less that under the words of another is, summed over noise levels, a log-likelihood ratio. The scale
of the ratio, and what errors to expect of an image that the model knows at all, are found on images that it makes of
the words itself. Nothing is labelled; how often the probe is right is not known until somebody has looked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from ..core.error import DDMError
from .probe import calibrate
from .probe_network import check_images
from .words_probe import TEMPLATES, WordsProbe

# Noise levels, as shares of the training schedule: who is in an image is decided in the noisier half.
LEVELS = (0.65, 0.8, 0.95)
# Draws of noise at every level; each says another phrase, in another template.
NOISES = 2
# Side of the latent grid that stands for what the whole image looks like.
GRID = 8
# The model's own images of each class, and how many of them it has to recognise.
PER_CLASS, LEAST = 16, 0.75
# How far beyond its own images the logarithm of an error may be, as a share of their range: above, and below, where a
# prompt says more of an image than the words alone do.
ABOVE, BELOW = 0.5, 1.5


class Saying(NamedTuple):
    """What is said at one pass: at a level (a share of the schedule), under a draw of noise."""

    level: float
    noise: int
    text: str


class Denoiser(Protocol):
    """A diffusion model, as this probe needs it.

    Attributes:
        identity: names the weights.
        size: side in pixels of the images that it reads.
    """

    identity: str
    size: int

    def errors(self, images: np.ndarray, sayings: Sequence[Saying]) -> tuple[np.ndarray, np.ndarray]:
        """Mean squared errors [N, S] of the predicted noise, and latents [N, C, h, w], of images uint8 [N, H, W, 3].

        The noise of a level and draw is the same for all images and texts.
        """


class DenoisingErrors:
    """An extractor: features float64 [N, D] of images, by what words do for the denoising of each.

    They are, by class and level, the mean error over the classes less the error with the words of the class; by level,
    the logarithm of the mean error; and the latents on a coarse grid, which say what the image looks like.

    Attributes:
        identity, size: of the model.
        phrases: of each class.
    """

    def __init__(self, denoiser: Denoiser, phrases: Sequence[Sequence[str]]):
        self.denoiser, self.identity, self.size, self.phrases = denoiser, denoiser.identity, denoiser.size, phrases

    def __call__(self, images: np.ndarray, prompts: Sequence[str] | None = None) -> np.ndarray:
        """Read images uint8 [N, H, W, 3]; where prompts [N] are known, the words of the classes are said after them."""
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate([""] * len(images) if prompts is None else prompts):
            rows.setdefault(prompt, []).append(row)
        found = np.concatenate([self._features(images[own], prompt) for prompt, own in rows.items()])
        return found[np.argsort(np.concatenate([*rows.values()]))]

    def _features(self, images: np.ndarray, prompt: str) -> np.ndarray:
        draws = [(level, noise) for level in LEVELS for noise in range(NOISES)]
        sayings = [
            Saying(*draw, text)
            for own in self.phrases
            for draw, text in zip(draws, worded(own, len(draws), prompt), strict=True)
        ]
        errors, latents = self.denoiser.errors(images, sayings)
        errors = errors.reshape(len(images), len(self.phrases), len(LEVELS), NOISES).mean(-1)
        mean = errors.mean(1)
        gains = (mean[:, None] - errors).reshape(len(images), -1)
        grid = torch.nn.functional.adaptive_avg_pool2d(torch.as_tensor(latents).float(), GRID).flatten(1).numpy()
        return np.concatenate([gains, np.log(np.maximum(mean, 1e-12)), grid], axis=1).astype(np.float64)

    def levels(self, features: np.ndarray) -> np.ndarray:
        """Of features [N, D], the logarithms [N, L] of the mean errors, which tell what the model does not make."""
        start = len(self.phrases) * len(LEVELS)
        return features[:, start : start + len(LEVELS)]


class DenoisingProbe(WordsProbe):
    """A probe that knows what images were asked to show, and whose images are denoised as well as the model's own.

    Attributes:
        bounds: [2, L], between which the logarithms of the errors are.
    """

    bounds: np.ndarray

    def look(self, images: np.ndarray, prompts: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `Probe.look`."""
        check_images(images)
        features = self.extractor(images, prompts)
        return features, self.extractor.levels(features)

    def unlike(self, features: np.ndarray) -> np.ndarray:
        """As `Probe.unlike`: too hard to denoise for this model, or as easy as none of its images."""
        return ((features < self.bounds[0]) | (features > self.bounds[1])).any(1)


def worded(phrases: Sequence[str], count: int, prompt: str = "") -> list[str]:
    """So many texts of the phrases of a class in turn: after a prompt, or without one in all templates."""
    said = [f"{prompt}, {phrase}" if prompt else form.format(phrase) for form in TEMPLATES for phrase in phrases]
    return [said[i % len(said)] for i in range(count)]


def probe_from_denoising(
    classes: Mapping[str, Sequence[str]],
    attribute: str,
    denoiser: Denoiser,
    make: Callable[[Sequence[str]], np.ndarray],
    per_class: int = PER_CLASS,
) -> DenoisingProbe:
    """A probe of the classes, of unknown accuracy.

    Args:
        classes: phrases by class.
        attribute: what they are classes of.
        denoiser: the model that compares.
        make: its images uint8 [N, H, W, 3] of N texts.
        per_class: how many of them to look at for each class.

    Raises:
        DDMError: the model does not tell its own images of the words apart.
    """
    names = sorted(classes)
    extractor = DenoisingErrors(denoiser, [classes[name] for name in names])
    features = extractor(make([text for name in names for text in worded(classes[name], per_class)]))
    truth = np.repeat(np.arange(len(names)), per_class)
    count = len(LEVELS)
    gains = features[:, : len(names) * count].reshape(len(features), len(names), count)
    scale = np.maximum(np.median(np.abs(gains), axis=(0, 1)), 1e-12)
    head = nn.Linear(features.shape[1], len(names))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        for k in range(len(names)):
            head.weight[k, k * count : (k + 1) * count] = torch.tensor(1 / scale / count)
    probe = DenoisingProbe(names, attribute, head, extractor=extractor, identity=extractor.identity)
    logits = features @ head.weight.double().numpy().T
    own = float((logits.argmax(1) == truth).mean())
    if own < LEAST:
        raise DDMError(
            f"This model does not tell these words apart: it recognises {own:.0%} of its own images of them. Write "
            "other words, connect an image–text model, or use DDM Fit Probe on labelled images."
        )
    probe.temperature = calibrate(logits, truth)
    levels = extractor.levels(features)
    low, high = levels.min(0), levels.max(0)
    probe.bounds = np.stack([low - BELOW * (high - low), high + ABOVE * (high - low)])
    probe.made_for = f"images of the model that it is made from, which recognises {own:.0%} of its own by their words"
    return probe
