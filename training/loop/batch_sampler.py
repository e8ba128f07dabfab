"""The rows of each step: which image, at which strength, under which words, and who says what is right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...debias.groups.weighting import Weighting
from .settings import TrainSettings

if TYPE_CHECKING:
    from ..data.caption_table import CaptionTable

# Strengths at which the weights are computed; between them, the nearest one counts.
GRID = 121
# Multiples of the golden ratio, modulo 1, are spread as evenly as can be, however many they are.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Batch:
    """One step's rows [B]: images, strengths, timesteps, texts, and where the target comes from.

    Attributes:
        anchor: text row under which the base itself gives the target, or −1 where the images do.
        flip: whether the image's mirror image is learnt.
        style: whether the step teaches the style LoRA, and it alone (α is 0).
    """

    image: np.ndarray
    flip: np.ndarray
    alpha: np.ndarray
    timestep: np.ndarray
    text: np.ndarray
    anchor: np.ndarray
    style: bool

    def __getitem__(self, rows: np.ndarray) -> "Batch":
        """Some of the rows."""
        picked = {name: values[rows] for name, values in vars(self).items() if name != "style"}
        return Batch(**picked, style=self.style)


class BatchSampler:
    """Draws the rows of each step; stateless, so that step n is the same whether or not the run was resumed.

    The images of a step are of one bucket b. With W_b(α) = Σ_{i∈b} w_i(α) and W = Σ_b W_b, it is drawn with
    P_b = mean_α W_b(α)/W(α), then each row's α with density ∝ W_b(α)/W(α), then its image with probability
    w_i(α)/W_b(α). So over the steps α is uniform, and image i has probability w_i(α)/W(α) at each, as if there were
    no buckets.

    α is uniform over both sides of 0, and not over the side that is used. Whatever sets the images apart from the
    base at every α (their style, other shares of what is not balanced) pulls one way at α and the other way at −α; so
    of all differences the adapter learns the one that grows with α. Where an image that is drawn at α calls for
    r + α d, it learns d, to first order; over (0, α_max] alone it would learn d + r E[α]/E[α²].

    Args:
        weighting: of the images.
        captions: what is said of them.
        bucket: [N] number of each image's bucket.
        timesteps: (shares [B], style) → timesteps [B] (see `Family.timesteps`).
        style: whether the first steps teach a style.
        alpha_range_scale: how many times `TrainSettings.alpha_max` the α go up to.
    """

    def __init__(
        self,
        weighting: Weighting,
        captions: "CaptionTable",
        settings: TrainSettings,
        bucket: np.ndarray,
        timesteps: Callable[[np.ndarray, bool], np.ndarray],
        style: bool,
        alpha_range_scale: float = 1.0,
    ):
        self.weighting, self.captions, self.settings = weighting, captions, settings
        self.timesteps = timesteps
        self.style_steps = round(settings.style_share * settings.steps) if style else 0
        most = settings.alpha_max * alpha_range_scale
        grid = np.linspace(-most, most, GRID)
        # The cell of each strength of the grid: what is nearest to it.
        self.edges = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
        weights = np.stack([weighting.weights(alpha) for alpha in grid])
        share = weights / weights.sum(1, keepdims=True) * np.diff(self.edges)[:, None] / (2 * most)
        self.members = [np.flatnonzero(bucket == number) for number in range(bucket.max() + 1)]
        self.cumulative = [np.cumsum(weights[:, rows], 1) for rows in self.members]
        dial = [np.cumsum(np.append(0, share[:, rows].sum(1))) for rows in self.members]
        self.dial = [along / along[-1] for along in dial]
        # By style: the share of the steps that each bucket has.
        self.share = {False: [along[-1] for along in dial], True: [len(rows) / len(bucket) for rows in self.members]}

    def bucket(self, step: int, style: bool) -> int:
        """Draw the bucket of a step; evenly over the steps (a Weyl sequence), from a random start."""
        if len(self.members) == 1:
            return 0
        start = np.random.default_rng([self.settings.seed, 0, 1]).random()
        return int(np.searchsorted(np.cumsum(self.share[style])[:-1], (start + step * GOLDEN) % 1, side="right"))

    def draw(self, step: int) -> Batch:
        """Draw the rows of one step, with α, timestep and image stratified over the batch."""
        settings, captions = self.settings, self.captions
        rng = np.random.default_rng([settings.seed, step])
        count = settings.batch_size

        def stratified() -> np.ndarray:
            return rng.permutation((np.arange(count) + rng.random(count)) / count)

        style = step < self.style_steps
        bucket = self.bucket(step, style)
        alpha = np.zeros(count) if style else np.interp(stratified(), self.dial[bucket], self.edges)
        rows = self.cumulative[bucket][np.searchsorted(self.edges[1:-1], alpha)]
        position = stratified() * rows[:, -1]
        image = self.members[bucket][np.minimum((rows < position[:, None]).sum(1), rows.shape[1] - 1)]
        timestep = self.timesteps(stratified(), style)
        dropped = rng.random(count) < settings.caption_dropout_rate
        own = captions.neutral[image, rng.integers(captions.neutral.shape[1], size=count)]
        text = np.where(dropped, captions.empty, own)
        anchor = np.full(count, -1)
        if captions.said_by_group is not None:
            membership = self.weighting.membership[image] * np.exp(alpha[:, None] * self.weighting.log_ratio[image])
            known = membership.sum(1) > 0
            share = np.cumsum(membership, 1) / np.maximum(membership.sum(1), 1e-12)[:, None]
            group = np.minimum((share < rng.random(count)[:, None]).sum(1), membership.shape[1] - 1)
            word = captions.said_by_group[image, group]
            if style:
                text = np.where(known & (rng.random(count) < 0.5), word, text)
            else:
                anchor = np.where(known, word, anchor)
        if captions.said.shape[1] and not style:
            keep = stratified() < settings.keep
            said = captions.said[image, rng.integers(captions.said.shape[1], size=count)]
            text, anchor = np.where(keep, said, text), np.where(keep, said, anchor)
        flip = rng.random(count) < 0.5
        return Batch(image, flip, alpha.astype(np.float32), timestep, text, anchor, style)
