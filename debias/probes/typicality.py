"""Whether an image is like those that a probe was made for; of others its classes mean nothing.

The likelihood of features under probabilistic principal components (Tipping & Bishop 1999): the Mahalanobis distance to
the training images (Lee et al. 2018, arXiv 1807.03888), with one variance for all directions in which they hardly
differ. It needs no images of another kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

# Directions that are told apart; the images that are wrongly called unlike, as a share of those kept from the fit.
DIRECTIONS, LOST = 96, 0.01
PREFIX = "typicality."


@dataclass(frozen=True, eq=False)
class Typicality:
    """How far features may be from those of the training images.

    Attributes:
        mean, scale: [D] of the training features.
        directions: [D, R]; a product with standardised features is of variance 1.
        spread: variance of what is left of standardised features.
        limit: the longest distance of an image that is alike.
    """

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    spread: float
    limit: float

    @classmethod
    def fit(cls, features: np.ndarray, kept: np.ndarray, lost: float = LOST) -> "Typicality":
        """Learn from features [N, D] of images, and find the limit on those [M, D] of images kept from them."""
        mean, scale = features.mean(0), features.std(0)
        scale = np.maximum(scale, 1e-3 * scale.max() + 1e-12)
        standard = (features - mean) / scale
        count = min(DIRECTIONS, max(1, len(features) // 4), features.shape[1])
        _, values, vectors = np.linalg.svd(standard, full_matrices=False)
        variances = values**2 / len(features)
        count = min(count, len(variances))
        spread = max(float(variances[count:].sum() / max(features.shape[1] - count, 1)), 1e-3 * float(variances.mean()))
        directions = (vectors[:count] / np.sqrt(np.maximum(variances[:count], spread))[:, None]).T
        found = cls(mean, scale, directions, spread, np.inf)
        return cls(mean, scale, directions, spread, float(np.quantile(found.distance(kept), 1 - lost)))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Distances [N] of features [N, D]."""
        standard = (features - self.mean) / self.scale
        inside = standard @ self.directions
        # Directions have the length 1/√variance, so this is what they leave of the features.
        length = np.linalg.norm(self.directions, axis=0)
        left = np.square(standard).sum(1) - np.square(inside / length).sum(1)
        return np.sqrt(np.square(inside).sum(1) + np.maximum(left, 0) / self.spread)

    def unlike(self, features: np.ndarray) -> np.ndarray:
        """Which images [N] are unlike those that the probe was made for."""
        return ~(self.distance(features) <= self.limit)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file keeps, by name."""
        kept = {name: getattr(self, name) for name in ("mean", "scale", "directions")}
        kept["limits"] = np.array([self.spread, self.limit])
        return {PREFIX + name: torch.tensor(value, dtype=torch.float32) for name, value in kept.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "Typicality | None":
        """The reverse of `tensors`; None where there is nothing of it.

        Raises:
            ValueError: shapes that do not belong together, or values out of range.
        """
        own = {
            name[len(PREFIX) :]: value.double().numpy() for name, value in tensors.items() if name.startswith(PREFIX)
        }
        if not own:
            return None
        if own.keys() != {"mean", "scale", "directions", "limits"}:
            raise ValueError("what it says of the images that it was made for is not complete")
        mean, scale, directions, limits = (own[name] for name in ("mean", "scale", "directions", "limits"))
        shapes = mean.ndim == 1 and scale.shape == mean.shape and directions.ndim == 2 and limits.shape == (2,)
        if not shapes or len(directions) != len(mean) or not (scale > 0).all() or not (limits > 0).all():
            raise ValueError("what it says of the images that it was made for is out of range")
        if not all(np.isfinite(value).all() for value in own.values()) or not np.linalg.norm(directions, axis=0).all():
            raise ValueError("what it says of the images that it was made for is out of range")
        return cls(mean, scale, directions, float(limits[0]), float(limits[1]))
