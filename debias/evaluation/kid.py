"""Quality beside fairness: kernel distance between two sets of images, and distance between pairs of one seed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kid:
    """Kernel Inception Distance on whichever features were given.

    Attributes:
        value: mean over the subsets; about 0 for two sets from one source, and possibly just below.
        spread: standard deviation over the subsets.
        subset_size: images of each set in one subset.
    """

    value: float
    spread: float
    subset_size: int


def kid(
    features: np.ndarray,
    reference: np.ndarray,
    subsets: int = 100,
    subset_size: int = 50,
    random_seed: int = 0,
    paired: bool = False,
) -> Kid | None:
    """Unbiased MMD² with the kernel (x·y/D + 1)³, averaged over small subsets.

    From Bińkowski et al. 2018, arXiv 1801.01401.

    Unlike FID it is unbiased at any number of images, which is why it is the one shown here.

    Args:
        features: [N, D].
        reference: [M, D].
        subsets: how many subsets to average over.
        subset_size: images of each side in a subset, lowered to what there is.
        paired: row by row the same prompt and seed. Pairs are alike, so they are drawn together, and left out where the
            two sides are compared.

    Returns:
        The distance, or None with fewer than 10 images on either side.
    """
    features, reference = (np.asarray(side, dtype=np.float64).reshape(len(side), -1) for side in (features, reference))
    size = min(subset_size, len(features), len(reference))
    if size < 10:
        return None
    rng = np.random.default_rng(random_seed)
    values = []
    # Where a subset is all there is, another one would be the same.
    for _ in range(subsets if max(len(features), len(reference)) > size else 1):
        rows = rng.choice(len(features), size, False)
        others = rows if paired else rng.choice(len(reference), size, False)
        values.append(mmd2(features[rows], reference[others], paired))
    return Kid(float(np.mean(values)), float(np.std(values)), size)


def mmd2(x: np.ndarray, y: np.ndarray, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of [N, D] and [M, D] under (x·y/D + 1)³; of pairs, N = M."""
    n, m, depth = len(x), len(y), x.shape[1]
    xx, yy, xy = ((a @ b.T / depth + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    across = (xy.sum() - np.trace(xy)) / (n * (n - 1)) if paired else xy.mean()
    return float(within_x + within_y - 2 * across)


def paired_distance(features: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Cosine distance of each image to the base model's image of the same prompt and seed.

    Args:
        features: [N, D].
        base: [N, D], row by row the same prompt and seed.

    Returns:
        [N] in 0 (same direction) to 2.
    """
    features, base = (np.asarray(side, dtype=np.float64) for side in (features, base))
    norm = np.linalg.norm(features, axis=1) * np.linalg.norm(base, axis=1)
    return 1 - np.clip((features * base).sum(1) / np.maximum(norm, 1e-12), -1, 1)
