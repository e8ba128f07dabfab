"""The label-free indicator: how rare an image is among its peers, learnt from the base model's own features.

Rarity is estimated as −log density in each feature group (k-NN radius and intrinsic dimension), averaged, and then
learnt by a cross-fitted regressor, so that no image judges itself. Its output is the image's log-weight ℓ:
w(α) ∝ exp(α·s·ℓ).
"""

from collections.abc import Sequence

import numpy as np

COMPONENTS = 8
NEIGHBOURS = 10
FOLDS = 5
ALIKE = 1e-4  # a smaller deviation is rounding, and must not be blown up to 1


def intrinsic_dimension(distances: np.ndarray) -> float:
    """Levina–Bickel maximum-likelihood dimension (NIPS 2004, eq. 8, averaged as MacKay & Ghahramani propose).

    Args:
        distances: [N, k] ascending distances to the k nearest neighbours (none of them zero).
    """
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return float(1 / max(logs.mean(), 1e-6))


def log_rarity(values: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """−log density of each row up to a constant: d·log r_k, with r_k the radius of its k nearest neighbours.

    Args:
        values: [N, C] features.

    Returns:
        [N] in nats.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(neighbours, len(values) - 1)
    distances, _ = NearestNeighbors(n_neighbors=count + 1).fit(values).kneighbors(values)
    distances = np.maximum(distances[:, 1:], 1e-9)
    return intrinsic_dimension(distances) * np.log(distances[:, -1])


def cross_fit(
    blocks: Sequence[np.ndarray], rarity: np.ndarray, *, folds: int = FOLDS, penalty: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Predict each image's rarity from the others: kernel ridge regression over a mean of per-block RBF kernels.

    Args:
        blocks: feature groups, each [N, C].
        rarity: [N] the noisy estimate to learn.
        penalty: ridge penalty in units of the kernel's diagonal.

    Returns:
        [N] the indicator's output ℓ, standardised.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.model_selection import KFold

    kernel = np.zeros((len(rarity), len(rarity)))
    for block in blocks:
        squared = euclidean_distances(block, squared=True)
        apart = squared[squared > 1e-12]
        if len(apart):  # a block in which all images are alike tells nothing
            kernel += np.exp(-squared / np.median(apart)) / len(blocks)
    output = np.zeros(len(rarity))
    for train, test in KFold(min(folds, len(rarity)), shuffle=True, random_state=seed).split(rarity):
        model = KernelRidge(alpha=penalty, kernel="precomputed").fit(
            kernel[np.ix_(train, train)], rarity[train] - rarity[train].mean()
        )
        output[test] = model.predict(kernel[np.ix_(test, train)])
    return (output - output.mean()) / max(output.std(), ALIKE)


def indicate(
    features: dict[str, np.ndarray], *, components: int = COMPONENTS, neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Learn the log-weight ℓ [N] of each image from centred features (`features.centre`), without any label."""
    from .features import principal_components

    blocks = [principal_components(values, components) for values in features.values()]
    estimates = [log_rarity(block, neighbours) for block in blocks]
    rarity = np.mean([(value - value.mean()) / max(value.std(), ALIKE) for value in estimates], axis=0)
    return cross_fit(blocks, rarity)
