"""Label-free ways to weight a set, each a function of cached features: what the research log compares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..debias.groups.components import skewed_components
from ..debias.groups.features import TIMESTEPS, principal_components
from ..debias.groups.groups import Groups
from ..debias.groups.rarity import COMPONENTS, NEIGHBOURS, indicate, log_rarity
from ..debias.groups.target import Target
from ..debias.groups.weighting import INDICATOR_ESS, Weighting

ALL_TIMESTEPS = (50, 150, 250, 400, 500, 650, 750, 850)
LOW, HIGH = (50, 150, 250), (650, 750, 850)
DISCOVERED = ("up0", "last")
RARITY = ("first", "last")
SEPARATE, SMALLEST, SPLITS = 2.0, 0.03, 6


@dataclass(frozen=True)
class Subject:
    """A set as a variant sees it.

    Attributes:
        features: per place and timestep ("mid@250") [N, D], centred per concept.
        concept: [N].
        auto: weights it by the library's `auto`, which asks the model itself.
    """

    features: dict[str, np.ndarray]
    concept: np.ndarray
    auto: Callable[[], Weighting]

    def chosen(self, places: Sequence[str] = (), timesteps: Sequence[int] = TIMESTEPS) -> dict[str, np.ndarray]:
        """Features of some places (beginnings of their names; all of them if none is given) at some timesteps."""
        wanted = {str(timestep) for timestep in timesteps}
        return {
            name: values
            for name, values in self.features.items()
            if name.split("@")[1] in wanted and (not places or name.startswith(tuple(places)))
        }

    def joint(self, components: int) -> np.ndarray:
        """All depths and noises together, as whitened principal components [N, C]."""
        blocks = [principal_components(values, COMPONENTS) for values in self.chosen().values()]
        return principal_components(np.concatenate(blocks, 1), components)


Variant = Callable[[Subject], Weighting]


def skewed(
    subject: Subject, places: Sequence[str] = DISCOVERED, timesteps: Sequence[int] = TIMESTEPS, seed: int = 0
) -> Weighting:
    """The library's `discovered`, with other features or another start: skewed components, else the indicator."""
    found = skewed_components(subject.chosen(places, timesteps), seed)
    if not found:
        return indicator(subject, places, timesteps)
    names = ("rare", "common")
    groups = [Groups(names, np.stack([one.rare, 1 - one.rare], 1), "found") for one in found]
    return Weighting.of_attributes(groups, [Target.uniform(names)] * len(groups), subject.concept)


def indicator(
    subject: Subject,
    places: Sequence[str] = RARITY,
    timesteps: Sequence[int] = TIMESTEPS,
    components: int = COMPONENTS,
    neighbours: int = NEIGHBOURS,
    floor: float = INDICATOR_ESS,
) -> Weighting:
    """Rarity, learnt by a cross-fitted regressor: what `discovered` does where no component is skewed."""
    level = indicate(subject.chosen(places, timesteps), components=components, neighbours=neighbours)
    return Weighting.of_indicator(level, subject.concept, floor)


def density(subject: Subject, places: Sequence[str] = RARITY, timesteps: Sequence[int] = TIMESTEPS) -> Weighting:
    """Rarity as estimated, without the indicator that learns it from the other images."""
    blocks = [principal_components(values, COMPONENTS) for values in subject.chosen(places, timesteps).values()]
    estimates = [log_rarity(block) for block in blocks]
    rarity = np.mean([(value - value.mean()) / max(value.std(), 1e-4) for value in estimates], axis=0)
    return Weighting.of_indicator(rarity, subject.concept)


def clusters(subject: Subject, count: int) -> Weighting:
    """k-means clusters, balanced."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=10, random_state=0).fit_predict(subject.joint(COMPONENTS))
    return balanced(np.eye(count)[found], subject.concept)


def mixture(subject: Subject, count: int) -> Weighting:
    """The components of a Gaussian mixture, softly balanced."""
    from sklearn.mixture import GaussianMixture

    values = subject.joint(COMPONENTS)
    model = GaussianMixture(count, covariance_type="diag", n_init=5, reg_covar=1e-3, random_state=0).fit(values)
    return balanced(model.predict_proba(values), subject.concept)


def splits(subject: Subject) -> Weighting:
    """Find the strongest split, balance it, project it out, and again while one is significant.

    A split is an axis (a direction of k-means, or an independent component) along which two Gaussians are Ashman's
    D ≥ 2 apart and explain the images better than one (BIC). Log-weights add; where they would leave fewer than the
    ESS floor, they are scaled back to it, as the indicator's are.
    """
    values, log_weight = subject.joint(12), np.zeros(len(subject.concept))
    for _ in range(SPLITS):
        axis, membership = strongest(values)
        if membership is None:
            break
        log_weight += np.log(balanced(membership, subject.concept).weights(1.0))
        values = values - np.outer(values @ axis, axis)
    together = Weighting(subject.concept, np.ones((len(log_weight), 1)), log_weight[:, None])
    if together.effective_share(1.0) >= INDICATOR_ESS:
        return together
    return Weighting.of_indicator(log_weight, subject.concept)


def strongest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The unit axis [C] with the best supported split of rows [N, C], and the posterior [N, 2]; None without any."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.decomposition import FastICA
    from sklearn.mixture import GaussianMixture

    means = KMeans(2, n_init=10, random_state=0).fit(values).cluster_centers_
    rank = int(np.linalg.matrix_rank(values, tol=1e-6 * np.abs(values).max() * len(values) ** 0.5))
    with warnings.catch_warnings():
        # Gaussian data have no independent components to converge to; then no axis will show a split.
        warnings.simplefilter("ignore")
        axes = FastICA(rank, whiten="unit-variance", random_state=0, max_iter=500).fit(values).components_
    best, winner = 0.0, (means[0], None)
    for axis in [means[0] - means[1], *axes]:
        axis = axis / max(np.linalg.norm(axis), 1e-12)
        line = (values @ axis)[:, None]
        one, two = (GaussianMixture(k, n_init=2, random_state=0, reg_covar=1e-4).fit(line) for k in (1, 2))
        apart = abs(float(two.means_[0, 0] - two.means_[1, 0])) / float(two.covariances_.mean()) ** 0.5
        gain = one.bic(line) - two.bic(line)
        if apart >= SEPARATE and two.weights_.min() >= SMALLEST and gain > best:
            best, winner = gain, (axis, two.predict_proba(line))
    return winner


def balanced(membership: np.ndarray, concept: np.ndarray) -> Weighting:
    """Weight soft groups [N, K] to equal shares."""
    names = tuple(f"group {number}" for number in range(membership.shape[1]))
    return Weighting.of_groups(Groups(names, membership, "found"), Target.uniform(names), concept)


VARIANTS: dict[str, Variant] = {
    "auto": lambda subject: subject.auto(),
    "discovered": skewed,
    "discovered, another start": partial(skewed, seed=100),
    "discovered, all depths": partial(skewed, places=()),
    "discovered, first block and last up-block": partial(skewed, places=RARITY),
    "discovered, last up-block": partial(skewed, places=("last",)),
    "discovered, low noise": partial(skewed, timesteps=LOW),
    "discovered, high noise": partial(skewed, timesteps=HIGH),
    "indicator": indicator,
    "indicator, eight noise levels": partial(indicator, timesteps=ALL_TIMESTEPS),
    "indicator, low noise": partial(indicator, timesteps=LOW),
    "indicator, high noise": partial(indicator, timesteps=HIGH),
    "indicator, first block": partial(indicator, places=("first",)),
    "indicator, mid-block": partial(indicator, places=("mid",)),
    "indicator, last up-block": partial(indicator, places=("last",)),
    "indicator, both up-blocks": partial(indicator, places=("up0", "last")),
    "indicator, all depths": partial(indicator, places=()),
    "indicator, mid-block, eight noise levels": partial(indicator, places=("mid",), timesteps=ALL_TIMESTEPS),
    "indicator, 4 components": partial(indicator, components=4),
    "indicator, 16 components": partial(indicator, components=16),
    "indicator, 5 neighbours": partial(indicator, neighbours=5),
    "indicator, 30 neighbours": partial(indicator, neighbours=30),
    "indicator, ESS .2": partial(indicator, floor=0.2),
    "indicator, ESS .5": partial(indicator, floor=0.5),
    "indicator, all depths, ESS .2": partial(indicator, places=(), floor=0.2),
    "density alone": density,
    "density alone, mid-block, low noise": partial(density, places=("mid",), timesteps=LOW),
    "density alone, first block, high noise": partial(density, places=("first",), timesteps=HIGH),
    "k-means, 2 clusters balanced": partial(clusters, count=2),
    "k-means, 8 clusters balanced": partial(clusters, count=8),
    "Gaussian mixture, 2 components balanced": partial(mixture, count=2),
    "Gaussian mixture, 8 components balanced": partial(mixture, count=8),
    "sequential splits": splits,
}
