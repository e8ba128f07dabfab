"""Fairness metrics as pure functions of counts and shares.

Everywhere the last axis holds the K classes and leading axes are batches: p, τ and counts are [..., K]. A row without a
single counted image has shares NaN, and so has every metric of it. Public code disagrees on names; with two classes
and d = |p − ½|, `pairwise_bias` is 2d and `fairness_distance` √2·d.
"""

import numpy as np


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts [..., K] to shares [..., K] that sum to 1 (NaN where nothing was counted)."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def fairness_distance(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """FD = ‖p − τ‖₂ [...]; 0 is the target (arXiv 2503.12536)."""
    return np.sqrt(np.square(np.asarray(p) - target).sum(-1))


def pairwise_bias(p: np.ndarray) -> np.ndarray:
    """Mean over pairs of classes of |p_i − p_j| [...] (arXiv 2311.07604); 0 is uniform, whatever the target."""
    p = np.asarray(p, dtype=np.float64)
    i, j = np.triu_indices(p.shape[-1], 1)
    return np.abs(p[..., i] - p[..., j]).mean(-1)


def parity_gap(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How far the most favoured class lies above the least favoured one, both measured from their target [...]."""
    return np.ptp(np.asarray(p) - target, axis=-1)


def kl_divergence(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """KL(p ‖ τ) in nats [...]; infinite where a class with target 0 occurs."""
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * (np.log(p) - np.log(target))
    return np.where(p == 0, 0.0, terms).sum(-1)


def entropy(p: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats [...]."""
    p = np.asarray(p, dtype=np.float64)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1) + 0.0


def normalised_entropy(p: np.ndarray) -> np.ndarray:
    """Entropy over log K [...], in 0 (one class only) to 1 (uniform)."""
    return entropy(p) / np.log(np.shape(p)[-1])


def effective_groups(p: np.ndarray) -> np.ndarray:
    """exp(entropy) [...]: how many equally common classes would be as diverse, in 1 to K."""
    return np.exp(entropy(p))


def prompt_range(p: np.ndarray) -> np.ndarray:
    """The largest parity difference between two prompts, per class: [P, K] to [K] (NaN if none counted)."""
    p = np.asarray(p, dtype=np.float64)
    p = p[~np.isnan(p).any(-1)]
    return np.ptp(p, axis=0) if len(p) else np.full(p.shape[-1], np.nan)


def mean_over_prompts(values: np.ndarray) -> np.ndarray:
    """Mean over the prompts, axis 0, of those that were counted: every prompt weighs the same."""
    values = np.asarray(values, dtype=np.float64)
    counted = ~np.isnan(values)
    total = np.where(counted, values, 0).sum(0)
    return np.divide(total, counted.sum(0), out=np.full(total.shape, np.nan), where=counted.any(0))


def correct_shares(p: np.ndarray, confusion: np.ndarray) -> np.ndarray | None:
    """Shares with the probe's own errors taken out.

    A probe with confusion A (A_ij = P(says j | is i)) turns true shares π into Aᵀπ; this solves for π and projects it
    onto the simplex (the matrix correction behind CLEAM, Teo et al. 2023).

    Args:
        p: measured shares [..., K].
        confusion: counts or rates [K, K], rows are the true classes; or [..., K, K], one for each row of p.

    Returns:
        Corrected shares [..., K], or None where the probe errs so much that the correction would amplify noise more
        than tenfold; NaN where that is so of some of several.
    """
    p = np.asarray(p, dtype=np.float64)
    rates = np.asarray(confusion, dtype=np.float64)
    seen = rates.sum(-1, keepdims=True)
    rates = np.where(seen > 0, rates / np.where(seen > 0, seen, 1), np.eye(rates.shape[-1]))
    useless = np.linalg.cond(rates) > 10
    if np.all(useless):
        return None
    inverse = np.linalg.inv(np.where(useless[..., None, None], np.eye(rates.shape[-1]), rates))
    found = project_to_simplex((p[..., None, :] @ inverse)[..., 0, :])
    return np.where(useless[..., None], np.nan, found)


def project_to_simplex(values: np.ndarray) -> np.ndarray:
    """The nearest point [..., K] whose entries are not negative and sum to 1 (Euclidean; Held et al. 1974)."""
    values = np.asarray(values, dtype=np.float64)
    ordered = -np.sort(-values, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    rank = np.arange(1, values.shape[-1] + 1)
    support = np.maximum((ordered - excess / rank > 0).sum(-1, keepdims=True), 1)
    shift = np.take_along_axis(excess, support - 1, axis=-1) / support
    return np.maximum(values - shift, 0) + 0 * values
