"""Which class each image of a batch should have, so that the batch follows a target and little is changed.

Distributional alignment, arXiv 2311.07604, section 4.1: classes are drawn from the target, given to the images by
optimal transport from what a probe says, and averaged over the draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

# Count vectors are all gone through up to this number, else so many draws are averaged.
DRAWS = 200


@dataclass(frozen=True)
class Aim:
    """What N images should show of one attribute.

    Attributes:
        classes: int64 [N], y = argmax q.
        confidence: float64 [N], c = max q: how sure it is, over the draws, that the image is to have that class.
    """

    classes: np.ndarray
    confidence: np.ndarray


def aims(
    probabilities: Sequence[np.ndarray], targets: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[Aim, ...]:
    """Assign images to the product classes of all attributes together, then look at each attribute alone.

    The joint target is the product of the targets: gender × tone is balanced in every cell, not at the edges only.

    Args:
        probabilities: [N, K] for each attribute, rows sum to 1.
        targets: shares [K] for each attribute.
        rng: for the draws where there are too many count vectors to go through.
    """
    sizes = [len(shares) for shares in targets]
    joint, shares = np.ones((len(probabilities[0]), 1)), np.ones(1)
    for part, goal in zip(probabilities, targets, strict=True):
        joint = (joint[:, :, None] * part[:, None, :]).reshape(len(joint), -1)
        shares = np.outer(shares, goal).ravel()
    cells = expected_targets(joint, shares, rng).reshape(-1, *sizes)
    marginals = (
        cells.sum(axis=tuple(other + 1 for other in range(len(sizes)) if other != one)) for one in range(len(sizes))
    )
    return tuple(Aim(q.argmax(1), q.max(1)) for q in marginals)


def expected_targets(probabilities: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """q [N, K] = E[u_σ*]: u₁…u_N are drawn from `shares`, and σ* = argmin_σ Σᵢ ‖pᵢ − u_σᵢ‖₂ gives them to images.

    Arguments as in `aims`, of one attribute. Two classes have a closed form (see `two_class_targets`).
    """
    if len(shares) == 2:
        second = two_class_targets(probabilities[:, 1], float(shares[1]))
        return np.stack([1 - second, second], axis=1)
    expected, total = np.zeros_like(probabilities, dtype=np.float64), 0.0
    for counts, weight in _counts(len(probabilities), np.asarray(shares), rng):
        expected[np.arange(len(probabilities)), assign(probabilities, counts)] += weight
        total += weight
    return expected / total


def two_class_targets(second: np.ndarray, share: float) -> np.ndarray:
    """P(y = 1) [N] for two classes: BinomCDF(r; N, 1 − ρ), with r the 0-based rank of p₁ from below.

    The cost of a swap is linear in p₁, so the images of lowest p₁ get class 0, as many as were drawn; the image of
    rank r gets class 1 where at most r were. (The authors' code does so for ρ = ½ only.)

    Args:
        second: p₁ [N].
        share: ρ, the target share of class 1.
    """
    from scipy.stats import binom

    rank = np.argsort(np.argsort(second, kind="stable"), kind="stable")
    return binom.cdf(rank, len(second), 1 - share)


def assign(probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Classes [N] with the given counts [K] (their sum is N) that minimise Σᵢ ‖pᵢ − onehot(classᵢ)‖₂."""
    from scipy.optimize import linear_sum_assignment

    vertices = np.repeat(np.arange(len(counts)), counts)
    costs = np.linalg.norm(probabilities[:, None, :] - np.eye(len(counts))[None], axis=2)
    _, places = linear_sum_assignment(costs[:, vertices])
    return vertices[places]


def _counts(number: int, shares: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, float]]:
    """How often each class is drawn, with its probability; or draws of equal weight where there are too many."""
    if comb(number + len(shares) - 1, len(shares) - 1) > DRAWS:
        yield from ((counts, 1.0) for counts in rng.multinomial(number, shares, size=DRAWS))
        return
    from scipy.stats import multinomial

    law = multinomial(number, shares)
    for counts in _compositions(number, len(shares)):
        if weight := float(law.pmf(counts)):
            yield np.array(counts), weight


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in _compositions(total - first, parts - 1))
