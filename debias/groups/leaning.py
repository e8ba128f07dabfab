"""Imbalances within captions that lean to different sides, where the skewness of all images together cancels.

Image i of caption c is x_i = (a_i − π_c) δ + ε: one direction δ for all captions, and a share π_c = P(a = 1 | c) of its
own. Along δ the third moment within a caption is π_c (1 − π_c) (1 − 2 π_c) |δ|³, whose square does not cancel. So
directions that maximise Σ_c n_c m₃,c² / Σ_c n_c propose δ, and EM fits δ, the shares and the covariance of ε. Some
direction is always skewed by chance; an attribute out of balance is one to whose both sides many captions lean, by more
than chance, and that other captions show as well. What captions of one lean show (`components`) is told from it by
likelihood.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .components import FEWEST, joint_space

# Fewer captions cannot be halved.
CAPTIONS = 8
# Random starts and steps of the ascent, its learning rate; how many of the directions are tried, and how much two of
# them may be alike (cosine); beyond so many deviations an image is odd.
STARTS, STEPS, RATE, TRIED, NEAR, ODD = 40, 100, 0.15, 6, 0.7, 3.0
# The shares of a caption are drawn towards those of all as by so many images.
PRIOR = 2.0
# How often captions are halved. What an attribute must have: how surely the other half tells its sides, the spread of
# their shares, and the part of the captions that leans to each of them.
HALVINGS, TOLD, SPREAD, EITHER = 3, 0.7, 0.29, 0.25
# A caption leans if its share is so far from one half. What captions show tells the sides in others: in so many
# components of each feature group and of all together, with a ridge in units of their variance.
LEANS, WIDE_EACH, WIDE, RIDGE = 0.2, 32, 64, 1.0
# How often sides are told anew, by how many deals of the captions each time into how many parts; and which part of the
# captions, those whose sides lie furthest apart, tells the others next.
ROUNDS, DEALS, PARTS, CLEAREST = 8, 3, 12, 0.8


@dataclass(frozen=True)
class Leaning:
    """An attribute to whose sides captions lean.

    Attributes:
        side: [N] probability of each image to be on the one side.
        likelihood: of all images, in nats above that of one side for all.
        spread: standard deviation over captions of the side's share, beyond what so few images make by chance.
        either: the part of the captions that leans to the side to which fewer do.
        told: how surely what half of the captions show tells the sides within the others (AUC; ½ is chance).
    """

    side: np.ndarray
    likelihood: float
    spread: float = 0.0
    either: float = 0.0
    told: float = 0.0

    @property
    def score(self) -> float:
        """Of several attributes the one with the largest counts: likely, and found again in other captions."""
        return self.likelihood * (2 * self.told - 1)

    @property
    def opens(self) -> bool:
        """Whether it clears the gate."""
        return self.told >= TOLD and self.spread >= SPREAD and self.either >= EITHER


def find_leaning(
    features: Mapping[str, np.ndarray], caption: np.ndarray, seed: int = 0, rivals: Sequence[np.ndarray] = ()
) -> Leaning | None:
    """Find the attribute to whose sides captions lean differently.

    Args:
        features: per place and timestep [N, D], each caption's mean subtracted (`features.centre`).
        caption: [N] index of the caption.
        seed: of starts and halvings.
        rivals: sides [N] that explain the images otherwise, such as `skewed_components`.

    Returns:
        None where none clears the gate, where a rival is as likely (to a nat), and where there are fewer than sixty
        images or eight captions.
    """
    caption = np.unique(caption, return_inverse=True)[1]
    if len(caption) < FEWEST or caption.max() + 1 < CAPTIONS:
        return None
    space, wide = joint_space(features), joint_space(features, WIDE_EACH, WIDE)
    if not space.any():
        return None
    found = [_in_all_captions(one, space, wide, caption, seed) for one in proposals(space, caption, seed)]
    best = max((one for one in found if one.opens), key=lambda one: one.score, default=None)
    if best is None or any(best.likelihood < _two_sides(space, caption, rival).likelihood + 1 for rival in rivals):
        return None
    return best


def proposals(space: np.ndarray, caption: np.ndarray, seed: int = 0) -> list[Leaning]:
    """What may be an attribute among images [N, D]: two sides along each of the directions most skewed in captions.

    In a caption whose mean is subtracted, the rare side is far out, and the common one near 0 on the other side: so the
    sides are begun with the sign.
    """
    lines = [space @ direction for direction in _skewed_within(space, caption, seed)]
    return [_two_sides(space, caption, 1 / (1 + np.exp(-4 * line / line.std()))) for line in lines]


def _in_all_captions(one: Leaning, space: np.ndarray, wide: np.ndarray, caption: np.ndarray, seed: int) -> Leaning:
    """The same attribute with its sides told in every caption of a wide space.

    As all captions agree on them; or as those that lean show them, where agreement ends at what does not lean.
    """
    told = _told_everywhere(wide, caption, one.side)
    agreed = _gated(_agreed(wide, caption, told, seed), space, wide, caption, seed)
    return agreed if agreed.opens else _gated(told, space, wide, caption, seed)


def _gated(side: np.ndarray, space: np.ndarray, wide: np.ndarray, caption: np.ndarray, seed: int) -> Leaning:
    """Sides [N] with what the gate asks of them."""
    count, share = np.bincount(caption), np.bincount(caption, side) / np.bincount(caption)
    chance = side.mean() * (1 - side.mean()) * (1 / count).mean()
    either = min((share >= 0.5 + LEANS).mean(), (share <= 0.5 - LEANS).mean())
    told = []
    for number in range(HALVINGS):
        first = np.random.default_rng([seed, number]).permutation(len(count)) % 2 == 0
        for half in (first[caption], ~first[caption]):
            line = wide @ _discriminant(wide[half], caption[half], side[half])
            told.append(_auc_within(line[~half], side[~half] > 0.5, caption[~half]))
    spread = np.sqrt(max(0.0, share.var() - chance))
    likelihood = _two_sides(space, caption, side.clip(0.01, 0.99)).likelihood
    return Leaning(side, likelihood, float(spread), float(either), float(np.mean(told)))


def _auc_within(line: np.ndarray, side: np.ndarray, caption: np.ndarray) -> float:
    """How often a line [N] is higher for an image of the one side than for one of the other, within captions."""
    right, pairs = 0.0, 0
    for one in np.unique(caption):
        ours, others = line[(caption == one) & side], line[(caption == one) & ~side]
        if len(ours) and len(others):
            fewer = min(len(ours), len(others))
            right, pairs = right + fewer * (ours[:, None] > others).mean(), pairs + fewer
    return right / max(pairs, 1)


def _skewed_within(space: np.ndarray, caption: np.ndarray, seed: int) -> list[np.ndarray]:
    """Directions [D] of large third moments within captions, by gradient ascent from the axes and at random."""
    import torch

    start = np.concatenate([np.eye(space.shape[1]), np.random.default_rng(seed).normal(size=(STARTS, space.shape[1]))])
    ways = torch.nn.functional.normalize(torch.as_tensor(start)).requires_grad_()
    values, index = torch.as_tensor(space), torch.as_tensor(caption)
    count = torch.bincount(index).double()
    optimizer = torch.optim.Adam([ways], lr=RATE)

    def score() -> torch.Tensor:
        along = values @ torch.nn.functional.normalize(ways).T
        cubes = (along / along.std(0)).clamp(-ODD, ODD) ** 3
        third = torch.zeros(len(count), len(ways), dtype=cubes.dtype).index_add_(0, index, cubes) / count[:, None]
        return (count[:, None] * third.square()).sum(0) / count.sum()

    for _ in range(STEPS):
        optimizer.zero_grad()
        (-score().sum()).backward()
        optimizer.step()
    with torch.no_grad():
        order, ways = score().argsort(descending=True), torch.nn.functional.normalize(ways).numpy()
    kept: list[np.ndarray] = []
    for row in order:
        if len(kept) < TRIED and all(abs(ways[row] @ other) < NEAR for other in kept):
            kept.append(ways[row])
    return kept


def _two_sides(space: np.ndarray, caption: np.ndarray, side: np.ndarray, rounds: int = 200) -> Leaning:
    """Fit the two sides of images [N, D] by EM, begun with probabilities [N]."""
    count, ridge = np.bincount(caption), 1e-3 * np.eye(space.shape[1])
    for _ in range(rounds):
        share = ((np.bincount(caption, side) + PRIOR * side.mean()) / (count + PRIOR))[caption]
        # Least squares of x = (a − π) δ, over what a may be.
        delta = (side - share) @ space / (np.square(side - share) + side * (1 - side)).sum()
        one, other = space - np.outer(1 - share, delta), space + np.outer(share, delta)
        within = ((one.T * side) @ one + (other.T * (1 - side)) @ other) / len(space) + ridge
        direction = np.linalg.solve(within, delta)
        # log π N(x | one) − log (1 − π) N(x | other) is linear in x.
        odds = np.log(share / (1 - share)) + (space + np.outer(share - 0.5, delta)) @ direction
        before, side = side, 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        if np.abs(side - before).max() < 1e-4:
            break
    likelihood = _log_density(other, within).sum() + (np.log(1 - share) + np.logaddexp(0, odds)).sum()
    likelihood -= _log_density(space, space.T @ space / len(space) + ridge).sum()
    return Leaning(side, float(likelihood))


def _told_everywhere(space: np.ndarray, caption: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Sides [N] with those anew in captions that do not lean: skewness has not told them there, and EM often another
    attribute's.

    The discriminant of the captions that lean, in a wider space [N, D], splits the images of each of the others into
    the two parts that are closest together.
    """
    share = (np.bincount(caption, side) / np.bincount(caption))[caption]
    leans = np.abs(share - 0.5) >= LEANS
    if not leans.any():
        return side
    line = space @ _discriminant(space[leans], caption[leans], side[leans])
    side = side.copy()
    for one in np.unique(caption[~leans]):
        side[caption == one], _ = _split(line[caption == one])
    return side


def _agreed(space: np.ndarray, caption: np.ndarray, side: np.ndarray, seed: int) -> np.ndarray:
    """Sides [N] on which captions agree: each caption's are told by what the others show, again and again.

    The discriminant of some captions splits the images of each of the others into the two parts that are closest
    together. Captions that lean begin; later those whose parts lie furthest apart tell the others. Told by its own
    sides a caption would keep its mistakes.
    """
    share = np.bincount(caption, side) / np.bincount(caption)
    telling = np.abs(share - 0.5) >= LEANS
    images = [np.flatnonzero(caption == one) for one in range(len(share))]
    for number in range(ROUNDS):
        votes, apart = np.zeros(len(side)), np.zeros(len(share))
        for deal in range(DEALS):
            part = np.random.default_rng([seed, number, deal]).permutation(len(share)) % PARTS
            for own in range(PARTS):
                rows = (telling & (part != own))[caption]
                if not rows.any():
                    return side
                line = space @ _discriminant(space[rows], caption[rows], side[rows])
                for one in np.flatnonzero(part == own):
                    upper, distance = _split(line[images[one]])
                    votes[images[one]] += upper / DEALS
                    apart[one] += distance
        side, telling = votes, apart >= np.quantile(apart, 1 - CLEAREST)
    return side


def _discriminant(space: np.ndarray, caption: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Direction [D] that tells the sides of images [N, D] within captions: Fisher's, with a ridge."""
    share = np.bincount(caption, side) / np.maximum(np.bincount(caption), 1)
    away = side - share[caption]
    delta = away @ space / max(np.square(away).sum(), 1e-9)
    rest = space - np.outer(away, delta)
    return np.linalg.solve(rest.T @ rest / len(rest) + RIDGE * np.eye(space.shape[1]), delta)


def _split(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Two parts of values [N] that have the least variance (two means): which are in the upper one, and how many
    standard deviations within a part they lie apart.
    """
    order, total = np.sort(values), values.sum()
    lower = np.arange(1, len(values))
    means = np.cumsum(order)[:-1] / lower
    between = lower * (len(values) - lower) * np.square((total - means * lower) / (len(values) - lower) - means)
    upper = values >= order[1 + between.argmax()] if len(values) > 1 else np.zeros(len(values), dtype=bool)
    if not upper.any() or upper.all():
        return upper, 0.0
    within = np.where(upper, values - values[upper].mean(), values - values[~upper].mean()).std()
    return upper, float((values[upper].mean() - values[~upper].mean()) / max(within, 1e-9))


def _log_density(values: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Of a Gaussian of mean 0 [N], up to its constant."""
    squares = np.einsum("nd,nd->n", values @ np.linalg.inv(covariance), values)
    return -0.5 * (squares + np.linalg.slogdet(covariance)[1])
