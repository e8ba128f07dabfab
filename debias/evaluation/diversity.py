"""How different the images of one group are: “everyone has the same face” is no balance, whatever the shares say."""

import numpy as np

SAMPLE = 10  # images that a Vendi score is of: it grows with their number, so that is the same everywhere


def vendi_score(features: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of the cosine kernel over N, for features [N, D]: 1 (all alike) to N.

    Friedman & Dieng 2023, arXiv 2210.02410, equation 1.
    """
    unit = _unit(features)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit)).clip(1e-12)
    return float(np.exp(-(values * np.log(values)).sum()))


def pairwise_distance(features: np.ndarray) -> float:
    """Mean cosine distance between two of the images, features [N, D]: 0 (all alike) to 2."""
    unit = _unit(features)
    count = len(unit)
    return float(1 - (np.square(unit.sum(0)).sum() - count) / (count * (count - 1)))


def within_prompts(features: np.ndarray, prompt: np.ndarray, random_seed: int = 0) -> tuple[float, float, int] | None:
    """Vendi score of `SAMPLE` images and pairwise distance of the images of one prompt, as means over the prompts.

    Args:
        features: [N, D] of one group's images.
        prompt: [N] indices; prompts with fewer than `SAMPLE` images are left out.

    Returns:
        Score, distance, and of how many prompts; None if all were left out.
    """
    rng = np.random.default_rng(random_seed)
    figures = []
    for index in np.unique(prompt):
        own = features[prompt == index]
        if len(own) >= SAMPLE:
            sample = own[rng.choice(len(own), SAMPLE, replace=False)]
            figures.append((vendi_score(sample), pairwise_distance(own)))
    if not figures:
        return None
    score, distance = np.mean(figures, axis=0)
    return float(score), float(distance), len(figures)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64).reshape(len(features), -1)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
