"""Tempered weights: what α means, and what it costs (DESIGN: w_i(α) ∝ (τ_k / f_{k|c})^α).

Minimising the weighted denoising loss learns the score of q_α(k|c) ∝ f_{k|c}^(1−α) τ_k^α, a geometric path from the
data's shares to the target along which log-odds are linear in α.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .group import Groups
from .target import Target

ALPHA_MAX = 1.5
ESS_FLOOR = 0.2
PRIOR = 4.0


@dataclass(frozen=True)
class Weighting:
    """The weights of N pictures at every α.

    Attributes:
        concept: [N] index of the picture's concept; weights have mean 1 within each.
        membership: [N, K] soft groups. A weighting by an indicator has one group and a log-ratio per picture.
        log_ratio: [N, K] log(τ_k / f_{k|c}) of the picture's concept, in nats.
    """

    concept: np.ndarray
    membership: np.ndarray
    log_ratio: np.ndarray

    @classmethod
    def of_groups(cls, groups: Groups, target: Target, concept: np.ndarray, prior: float = PRIOR) -> "Weighting":
        """Weight groups towards a target.

        The shares f_{k|c} of small concepts are shrunk to the global ones by a Dirichlet prior worth `prior` pictures.
        Pictures without a group keep weight 1 at every α.
        """
        share = (1 / len(groups.names) + groups.membership.sum(0)) / (1 + groups.membership.sum())
        counts = np.zeros((concept.max() + 1, len(groups.names)))
        np.add.at(counts, concept, groups.membership)
        shrunk = (counts + prior * share) / (counts.sum(1, keepdims=True) + prior)
        ratio = np.log(np.maximum(target.shares, 1e-6)) - np.log(shrunk)
        return cls(concept, groups.membership, ratio[concept])

    @classmethod
    def of_indicator(cls, log_weight: np.ndarray, concept: np.ndarray, floor: float = ESS_FLOOR) -> "Weighting":
        """Weight by an indicator's log-weight ℓ: w(α) ∝ exp(α·s·ℓ), with s such that ESS(1) = `floor`."""
        from scipy.optimize import brentq

        def weighting(scale: float) -> "Weighting":
            return cls(concept, np.ones((len(log_weight), 1)), scale * log_weight[:, None])

        spread = max(float(np.ptp(log_weight)), 1e-9)
        if weighting(50 / spread).effective_share(1.0) > floor:
            return weighting(50 / spread)
        return weighting(brentq(lambda s: weighting(s).effective_share(1.0) - floor, 0.0, 50 / spread, xtol=1e-6))

    @classmethod
    def product(cls, parts: Sequence["Weighting"]) -> "Weighting":
        """Combine weightings of the same pictures by several attributes: their weights multiply (log-weights add)."""
        concept, membership, ratio = parts[0].concept, parts[0].membership, parts[0].log_ratio
        for part in parts[1:]:
            membership = (membership[:, :, None] * part.membership[:, None, :]).reshape(len(concept), -1)
            ratio = (ratio[:, :, None] + part.log_ratio[:, None, :]).reshape(len(concept), -1)
        return cls(concept, membership, ratio)

    def weights(self, alpha: float) -> np.ndarray:
        """Give the weights [N] at one α, with mean 1 within each concept; at α = 0 all are exactly 1."""
        if alpha == 0:
            return np.ones(len(self.concept))
        known = self.membership.sum(1)
        tempered = (self.membership * np.exp(alpha * self.log_ratio)).sum(1) + (1 - known)
        mean = np.bincount(self.concept, tempered) / np.maximum(np.bincount(self.concept), 1)
        return tempered / mean[self.concept]

    def effective_share(self, alpha: float) -> float:
        """Effective sample size (Kish) as a share of the set: (Σw)² / (N Σw²)."""
        weights = self.weights(alpha)
        return float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))

    def predicted_shares(self, alpha: float, membership: np.ndarray) -> np.ndarray:
        """Predict the shares [K] of any grouping of the set at α, as the mean over concepts (never pooled first)."""
        weighted = self.weights(alpha)[:, None] * membership
        totals = np.zeros((self.concept.max() + 1, membership.shape[1]))
        np.add.at(totals, self.concept, weighted)
        totals = totals[totals.sum(1) > 0]
        return (totals / totals.sum(1, keepdims=True)).mean(0)


@dataclass(frozen=True)
class PredictedCurve:
    """What the weights promise before any training.

    Attributes:
        alphas: [A] grid over 0…α_max.
        shares: [A, K] predicted group shares.
        distance: [A] FD = ‖p − τ‖₂ to the target.
        effective_share: [A] ESS(α) as a share of the set.
        recommended: the smallest α within sampling noise of the target, subject to the ESS floor.
    """

    alphas: np.ndarray
    shares: np.ndarray
    distance: np.ndarray
    effective_share: np.ndarray
    recommended: float


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

    Sampling noise is the root mean square FD of a perfectly fair set with the effective number of pictures,
    √((1 − Σ τ²) / n). If no α within the floor comes that near, the nearest one is recommended.
    """
    alphas = np.round(np.arange(0, alpha_max + step / 2, step), 6)
    shares = np.stack([weighting.predicted_shares(alpha, membership) for alpha in alphas])
    distance = np.linalg.norm(shares - target.shares, axis=1)
    effective = np.array([weighting.effective_share(alpha) for alpha in alphas])
    noise = np.sqrt((1 - np.square(target.shares).sum()) / np.maximum(effective * len(membership), 1))
    allowed = effective >= floor * 0.999
    reached = np.flatnonzero(allowed & (distance <= noise))
    best = reached[0] if len(reached) else int(np.argmin(np.where(allowed, distance, np.inf)))
    return PredictedCurve(alphas, shares, distance, effective, float(alphas[best]))
