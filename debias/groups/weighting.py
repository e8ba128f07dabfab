"""Tempered weights: what α means, and what it costs (DESIGN: w_i(α) ∝ (τ_k / f_{k|c})^α).

Minimising the weighted denoising loss learns the score of q_α(k|c) ∝ f_{k|c}^(1−α) τ_k^α, a geometric path from the
data's shares to the target along which log-odds are linear in α.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from ..adapter.alpha_schedule import ALPHA_MAX
from .groups import Groups
from .target import Target

ESS_FLOOR = 0.2
# What an indicator's α = 1 costs. In benchmarks/discovery.md .33 balances most, but adapters stay somewhat behind their
# weights (men .62 where they said .53), so α = 1 goes a little further.
INDICATOR_ESS = 0.28
PRIOR = 4.0
# Weights that cost less than this at α = 1 are mild: what they ask for is faint beside all else that images have.
MILD_ESS = 0.65
FURTHEST = 3.0
# What a target of 0 counts as.
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Weighting:
    """The weights of N images at every α.

    Attributes:
        concept: [N] index of the image's concept; weights have mean 1 within each.
        membership: [N, K] soft groups. A weighting by an indicator has one group and a log-ratio per image.
        log_ratio: [N, K] log(τ_k / f_{k|c}) of the image's concept, in nats.
    """

    concept: np.ndarray
    membership: np.ndarray
    log_ratio: np.ndarray

    @classmethod
    def of_groups(cls, groups: Groups, target: Target, concept: np.ndarray, prior: float = PRIOR) -> "Weighting":
        """Weight the groups of one attribute towards a target; see `of_attributes`."""
        return cls.of_attributes([groups], [target], concept, prior)

    @classmethod
    def of_attributes(
        cls, groups: Sequence[Groups], targets: Sequence[Target], concept: np.ndarray, prior: float = PRIOR
    ) -> "Weighting":
        """Weight one or several groupings of the same images towards their targets.

        The groups of several attributes are crossed into cells. Attributes go together (long hair and women), so the
        product of their ratios would correct twice; instead each concept's cells are raked until every attribute meets
        its target at α = 1 (iterative proportional fitting, Deming & Stephan 1940: of all distributions that do, the
        nearest to the data's).

        The shares of small concepts are shrunk to the global ones by a Dirichlet prior worth `prior` images.
        Images without a group keep weight 1 at every α.

        Args:
            groups: the attributes, memberships [N, K_a]; cells are in row-major order of them.
            targets: one per attribute.
            concept: [N] index of the image's concept.
        """
        cells = _crossed([part.membership for part in groups], np.multiply)
        share = (1 / cells.shape[1] + cells.sum(0)) / (1 + cells.sum())
        counts = np.zeros((concept.max() + 1, cells.shape[1]))
        np.add.at(counts, concept, cells)
        data = (counts + prior * share) / (counts.sum(1, keepdims=True) + prior)
        raked = _rake(data, [np.maximum(target.shares, LEAST_SHARE) for target in targets])
        return cls(concept, cells, (np.log(raked) - np.log(data))[concept])

    @classmethod
    def of_indicator(cls, log_weight: np.ndarray, concept: np.ndarray, floor: float = INDICATOR_ESS) -> "Weighting":
        """Weight by an indicator's log-weight ℓ: w(α) ∝ exp(α·s·ℓ), with s such that ESS(1) = `floor`."""
        from scipy.optimize import brentq

        def weighting(scale: float) -> "Weighting":
            return cls(concept, np.ones((len(log_weight), 1)), scale * log_weight[:, None])

        spread = max(float(np.ptp(log_weight)), 1e-9)
        if weighting(50 / spread).effective_share(1.0) > floor:
            return weighting(50 / spread)
        return weighting(brentq(lambda s: weighting(s).effective_share(1.0) - floor, 0.0, 50 / spread, xtol=1e-6))

    def starting_from(self, groups: Sequence[Groups], shares: Sequence[np.ndarray | None]) -> "Weighting":
        """The weights for a model whose own shares b differ from the set's f: log(τ/b) instead of log(τ/f).

        Args:
            groups: the attributes, as they were weighted.
            shares: b [K_a] of each, all above 0; None for those that shall stay as they are.
        """
        known = [self.predicted_shares(0.0, part.membership) for part in groups]
        steps = [np.log(f / (f if b is None else b))[None] for f, b in zip(known, shares, strict=True)]
        return replace(self, log_ratio=self.log_ratio + _crossed(steps, np.add))

    def corrected(self, targets: Sequence[Target], shares: Sequence[np.ndarray]) -> "Weighting":
        """The weights for a model that they have brought to shares p_c, concept by concept: τ/p_c more at α = 1.

        Args:
            targets: of the attributes, as they were weighted.
            shares: p [C, K_a] of each attribute in each concept, all above 0.
        """
        pairs = zip(targets, shares, strict=True)
        steps = [np.log(np.maximum(target.shares, LEAST_SHARE)) - np.log(own) for target, own in pairs]
        return replace(self, log_ratio=self.log_ratio + _crossed(steps, np.add)[self.concept])

    @property
    def by_indicator(self) -> bool:
        """Whether an indicator made the weights, and not groups with a target."""
        return self.membership.shape[1] == 1

    def weights(self, alpha: float) -> np.ndarray:
        """Give the weights [N] at one α, with mean 1 within each concept; at α = 0 all are exactly 1."""
        if alpha == 0:
            return np.ones(len(self.concept))
        known = self.membership.sum(1)
        tempered = (self.membership * np.exp(alpha * self.log_ratio)).sum(1)
        mean = np.bincount(self.concept, tempered) / np.maximum(np.bincount(self.concept, known), 1e-12)
        return tempered / np.maximum(mean, 1e-12)[self.concept] + (1 - known)

    def effective_share(self, alpha: float) -> float:
        """Effective sample size (Kish) as a share of the set: (Σw)² / (N Σw²)."""
        weights = self.weights(alpha)
        return float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))

    @property
    def reach(self) -> float:
        """How many times as far as usual the dial is to be trained, 1 to `FURTHEST`: until mild weights cost enough.

        A mild target (three to one where the images are six to one) asks for little that grows with α. Trained over
        the usual dial, the adapter would learn as much of what does not matter, and calibration would enlarge both.
        Log-odds are linear in α, so it may be learnt from further out, where more is asked for.
        """
        from scipy.optimize import brentq

        if self.effective_share(1.0) <= MILD_ESS:
            return 1.0
        if self.effective_share(FURTHEST) >= MILD_ESS:
            return FURTHEST
        return float(brentq(lambda alpha: self.effective_share(alpha) - MILD_ESS, 1.0, FURTHEST, xtol=1e-3))

    def predicted_shares(self, alpha: float, membership: np.ndarray) -> np.ndarray:
        """Predict the shares [K] of any grouping of the set at α, as the mean over concepts (never pooled first)."""
        return self.shares_by_concept(alpha, membership).mean(0)

    def shares_by_concept(self, alpha: float, membership: np.ndarray) -> np.ndarray:
        """Predict the shares [C, K] of any grouping at α in each concept that has images of it."""
        weighted = self.weights(alpha)[:, None] * membership
        totals = np.zeros((self.concept.max() + 1, membership.shape[1]))
        np.add.at(totals, self.concept, weighted)
        totals = totals[totals.sum(1) > 0]
        return totals / totals.sum(1, keepdims=True)

    def chance(self, alpha: float, membership: np.ndarray, target: Target) -> tuple[float, float]:
        """What FD by concept a perfectly fair set would show: about its mean, and about its 95th percentile.

        The mean over concepts of s = √((1 − Σ τ²) / n), with the concept's effective number of images n (Kish); and,
        with each distance half-normal (mean .8 s, standard deviation .6 s), the mean plus 1.645 standard deviations.
        """
        weights = self.weights(alpha) * membership.sum(1)
        total, square = np.bincount(self.concept, weights), np.bincount(self.concept, weights**2)
        images = total[total > 0] ** 2 / square[total > 0]
        scale = np.sqrt((1 - np.square(target.shares).sum()) / images)
        return float(scale.mean()), float(0.8 * scale.mean() + 1.645 * 0.6 * np.linalg.norm(scale) / len(scale))


@dataclass(frozen=True)
class PredictedCurve:
    """What the weights promise before any training.

    Attributes:
        alphas: [A] grid over 0…α_max.
        shares: [A, K] predicted group shares.
        distance: [A] FD by concept, the mean over concepts of ‖p_c − τ‖₂: concepts that lean to opposite sides do not
            make up for each other.
        chance: [A] what a perfectly fair set of as many effective images would show.
        effective_share: [A] ESS(α) as a share of the set.
        recommended: the smallest α within sampling noise of the target, subject to the ESS floor.
        reached: whether it is within it; if not, it is the nearest that the floor allows.
    """

    alphas: np.ndarray
    shares: np.ndarray
    distance: np.ndarray
    chance: np.ndarray
    effective_share: np.ndarray
    recommended: float
    reached: bool


def predict_curve(
    weighting: Weighting,
    membership: np.ndarray,
    target: Target,
    *,
    alpha_max: float = ALPHA_MAX,
    step: float = 0.05,
    floor: float = ESS_FLOOR,
) -> PredictedCurve:
    """Predict shares, distance and price over the dial, and recommend an α.

    Everything is decided concept by concept, against sampling noise (see `Weighting.chance`). A set within its 95%
    needs no correction. Of others, the smallest α within the mean noise is recommended; if no α within the floor comes
    that near, the nearest one up to 1: beyond it, some concepts would be over-corrected to make up for others that
    cannot be. An indicator stands where nothing was found out of balance: for it α = 0.
    """
    alphas = np.round(np.arange(0, alpha_max + step / 2, step), 6)
    by_concept = [weighting.shares_by_concept(alpha, membership) for alpha in alphas]
    shares = np.stack([own.mean(0) for own in by_concept])
    distance = np.array([np.linalg.norm(own - target.shares, axis=1).mean() for own in by_concept])
    chance = np.array([weighting.chance(alpha, membership, target)[0] for alpha in alphas])
    effective = np.array([weighting.effective_share(alpha) for alpha in alphas])
    allowed = effective >= floor * 0.999
    near = distance <= chance
    near[0] |= distance[0] <= weighting.chance(0.0, membership, target)[1]
    reached = np.flatnonzero(allowed & near)
    nearest = np.argmin(np.where(allowed & (alphas <= 1), distance, np.inf))
    best = reached[0] if len(reached) else nearest
    recommended = 0.0 if weighting.by_indicator else float(alphas[best])
    return PredictedCurve(alphas, shares, distance, chance, effective, recommended, bool(len(reached)))


def recommended_alpha(weighting: Weighting, groups: Sequence[Groups], targets: Sequence[Target]) -> float:
    """Recommend one α for all attributes: the largest of those that `predict_curve` recommends for each."""
    return max(
        predict_curve(weighting, part.membership, target).recommended
        for part, target in zip(groups, targets, strict=True)
    )


def _crossed(parts: Sequence[np.ndarray], combine: np.ufunc) -> np.ndarray:
    """Combine figures [N, K_a] of several attributes into those of their cells [N, K_1·K_2·…], in row-major order."""
    return reduce(lambda cells, part: combine(cells[:, :, None], part[:, None, :]).reshape(len(cells), -1), parts)


def _rake(cells: np.ndarray, targets: Sequence[np.ndarray], rounds: int = 200) -> np.ndarray:
    """Scale cells [C, K_1·K_2·…] in turn until the marginal of every attribute is its target [K_a]."""
    table = cells.reshape(len(cells), *(len(target) for target in targets))
    for _ in range(rounds if len(targets) > 1 else 1):
        before = table
        for axis, target in enumerate(targets, start=1):
            others = tuple(other for other in range(1, table.ndim) if other != axis)
            shape = [1] * table.ndim
            shape[axis] = len(target)
            table = table * (target.reshape(shape) / table.sum(others, keepdims=True))
        if np.abs(table - before).max() < 1e-10:
            break
    return table.reshape(cells.shape)
