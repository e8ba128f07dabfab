"""Imbalances as structure: directions of the base's own features that are skewed, because a rare group is a tail.

An attribute that splits pictures p : 1 − p is a two-valued variable, and its skewness (1 − 2p) / √(p (1 − p)) is 0 only
in balance (2.04 at six to one). So independent components (FastICA, Hyvärinen 1999) that are skewed are attributes out
of balance, and those that are not are left alone. A mixture of two Gaussians says who is in the tail.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Principal components of each feature group, and of all of them together: what pictures of a set differ in most.
EACH, TOGETHER = 8, 12
# Beyond so many deviations a picture is odd, and not of a group.
ODD = 4.0
# FastICA finds the nearest of several solutions: the most skewed one of so many is taken.
STARTS = 4
# What a component must have: skewness, distance of the two Gaussians in deviations, and share of the rare one.
SKEWED, APART, RAREST, COMMONEST = 1.5, 1.5, 0.04, 0.4
MOST = 3
# Among fewer pictures, some direction is always as skewed by chance.
FEWEST = 60


@dataclass(frozen=True)
class Component:
    """A direction with a rare group in its tail.

    Attributes:
        rare: [N] probability of each picture to be of the rare group.
        skewness: of the pictures along it; 0 is balance.
        apart: distance of the two groups' means, in standard deviations of one (Ashman's D, up to √2).
    """

    rare: np.ndarray
    skewness: float
    apart: float


def skewed_components(features: Mapping[str, np.ndarray], seed: int = 0) -> list[Component]:
    """Find the attributes that are out of balance, at most three, the most skewed first, without any label.

    Args:
        features: per place and timestep [N, D], each concept's mean subtracted (`feature.centre`).
        seed: of the starts.

    Returns:
        None where nothing is skewed enough and clearly two groups, or where there are fewer than sixty pictures.
    """
    from scipy.stats import skew

    joint = _joint(features)
    if len(joint) < FEWEST:
        return []
    values = _best(joint, seed)
    skewness = np.nan_to_num(skew(values, axis=0))  # a constant has none
    found = []
    for column in np.argsort(-np.abs(skewness)):
        if abs(skewness[column]) < SKEWED or len(found) == MOST:
            break
        component = _split(values[:, column] * np.sign(skewness[column]), abs(float(skewness[column])))
        if component.apart >= APART and RAREST <= component.rare.mean() <= COMMONEST:
            found.append(component)
    return found


def _joint(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """All features as whitened principal components [N, C], odd pictures pulled in."""
    from .feature import principal_components

    blocks = [principal_components(values, EACH) for values in features.values()]
    return np.clip(principal_components(np.concatenate(blocks, 1), TOGETHER), -ODD, ODD)


def _best(values: np.ndarray, seed: int) -> np.ndarray:
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
            # This contrast is the one for long tails and odd pictures (Hyvärinen 1999, eq. 12).
            model = FastICA(rank, whiten="unit-variance", fun="exp", random_state=seed + start, max_iter=300, tol=1e-3)
            made.append(model.fit_transform(values))
    return max(made, key=lambda found: float(np.sort(np.abs(skew(found, axis=0)))[-MOST:].sum()))


def _split(line: np.ndarray, skewness: float) -> Component:
    """Two groups along a line [N] whose tail is at its upper end."""
    from sklearn.mixture import GaussianMixture

    column = line[:, None] / max(line.std(), 1e-12)
    model = GaussianMixture(2, n_init=3, reg_covar=1e-3, random_state=0).fit(column)
    means = model.means_[:, 0]
    apart = float(abs(means[0] - means[1]) / np.sqrt(model.covariances_.mean()))
    return Component(model.predict_proba(column)[:, int(means.argmax())], skewness, apart)
