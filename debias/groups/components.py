"""Imbalances as structure: directions of the base's own features that are skewed, because a rare group is a tail.

An attribute that splits images p : 1 − p is a two-valued variable, and its skewness (1 − 2p) / √(p (1 − p)) is 0 only
in balance (2.04 at six to one). So independent components (FastICA, Hyvärinen 1999) that are skewed are attributes out
of balance, and those that are not are left alone. Along one of them the groups overlap; in all features together they
do not: two Gaussians of one covariance, begun at the tail, find the discriminant without labels (EM, O'Neill 1978).

That is for captions that lean one way; in those that lean both ways skewness cancels, see `leaning`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Principal components of each feature group; of all together, to look for directions in, and to tell groups apart in.
EACH, FEW, MANY = 8, 12, 24
# Beyond so many deviations an image is odd, and not of a group.
ODD = 4.0
# FastICA finds the nearest of several solutions: the most skewed one of so many is taken.
STARTS = 4
# The upper fifth of a direction is where its rare group is begun with.
TAIL = 0.2
# What a group must have: skewness, distance in deviations, their product (one of six classes in balance is as skewed as
# one side of two at five to one, but not as far apart), and share. Two that are so much alike are one.
SKEWED, APART, CLEAR, RAREST, COMMONEST, ALIKE = 1.5, 3.0, 10.5, 0.04, 0.4, 0.5
MOST = 3
# Fewer images show nothing; and so many are needed for every dimension.
FEWEST, PER_DIMENSION = 60, 10


@dataclass(frozen=True)
class Component:
    """An attribute that is out of balance.

    Attributes:
        rare: [N] probability of each image to be of the rare group.
        skewness: of the images along the direction that shows it; 0 is balance.
        apart: Mahalanobis distance of the two groups' means, in standard deviations within a group.
    """

    rare: np.ndarray
    skewness: float
    apart: float


def skewed_components(features: Mapping[str, np.ndarray], seed: int = 0) -> list[Component]:
    """Find the attributes that are out of balance, at most three, the most skewed first, without any label.

    Args:
        features: per place and timestep [N, D], each concept's mean subtracted (`features.centre`).
        seed: of the starts.

    Returns:
        An empty list where nothing is skewed enough and clearly two groups, or where images are fewer than sixty.
    """
    from scipy.stats import skew

    count = len(next(iter(features.values())))
    if count < FEWEST:
        return []
    space = joint_space(features)
    directions = _independent(space[:, :FEW], seed)
    skewness = np.nan_to_num(skew(directions, axis=0))  # a constant has none
    found: list[Component] = []
    for column in np.argsort(-np.abs(skewness)):
        if abs(skewness[column]) < SKEWED or len(found) == MOST:
            break
        one = _split(space, directions[:, column] * np.sign(skewness[column]), abs(float(skewness[column])))
        known = any(np.corrcoef(one.rare, other.rare)[0, 1] > ALIKE for other in found)
        clear = one.apart >= APART and one.skewness * one.apart >= CLEAR
        if clear and RAREST <= one.rare.mean() <= COMMONEST and not known:
            found.append(one)
    return found


def joint_space(features: Mapping[str, np.ndarray], each: int = EACH, many: int | None = None) -> np.ndarray:
    """All features [N, D] as whitened principal components [N, C], odd images pulled in.

    Args:
        each: components of each feature group.
        many: components of all together; None: `MANY`, or fewer where images are few.
    """
    from .features import principal_components

    every = np.concatenate([principal_components(values, each) for values in features.values()], 1)
    return np.clip(principal_components(every, many or min(MANY, len(every) // PER_DIMENSION)), -ODD, ODD)


def _independent(values: np.ndarray, seed: int) -> np.ndarray:
    """Independent components [N, C] of whitened ones, by the start that finds the most skewed; zeros if constant."""
    import warnings

    from scipy.stats import skew
    from sklearn.decomposition import FastICA

    rank = int(np.linalg.matrix_rank(values - values.mean(0), tol=1e-6 * np.abs(values).max() * len(values) ** 0.5))
    if rank == 0:
        return np.zeros((len(values), 1))
    made = []
    with warnings.catch_warnings():
        # Gaussian data have no independent components to converge to; then none is skewed.
        warnings.simplefilter("ignore")
        for start in range(STARTS):
            # This contrast is the one for long tails and odd images (Hyvärinen 1999, eq. 12).
            model = FastICA(rank, whiten="unit-variance", fun="exp", random_state=seed + start, max_iter=300, tol=1e-3)
            made.append(model.fit_transform(values))
    return max(made, key=lambda found: float(np.sort(np.abs(skew(found, axis=0)))[-MOST:].sum()))


def _split(space: np.ndarray, line: np.ndarray, skewness: float) -> Component:
    """Two groups of images [N, C], begun with the upper end of a line [N]."""
    from sklearn.mixture import GaussianMixture

    tail = line > np.quantile(line, 1 - TAIL)
    means = np.stack([space[tail].mean(0), space[~tail].mean(0)])
    within = np.cov(np.concatenate([space[tail] - means[0], space[~tail] - means[1]]), rowvar=False)
    model = GaussianMixture(
        2,
        covariance_type="tied",
        reg_covar=1e-3,
        max_iter=300,
        weights_init=[TAIL, 1 - TAIL],
        means_init=means,
        precisions_init=np.linalg.inv(np.atleast_2d(within) + 1e-3 * np.eye(space.shape[1])),
    ).fit(space)
    between = model.means_[0] - model.means_[1]
    apart = float(np.sqrt(between @ model.precisions_ @ between))
    return Component(model.predict_proba(space)[:, 0], skewness, apart)
