"""Expected targets: against enumeration of every draw and every assignment."""

from itertools import permutations, product

import numpy as np
import pytest
from comfyui_ddm.debias.methods.optimal_assignment import aims, assign, expected_targets, two_class_targets


def probabilities(count: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=count)


def by_brute_force(seen: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """E[u_σ*] over all K^N draws, σ* by trying all N! permutations."""
    count, classes = seen.shape
    corners = np.eye(classes)
    expected = np.zeros_like(seen)
    for drawn in product(range(classes), repeat=count):
        cost = {order: np.linalg.norm(seen - corners[list(order)], axis=1).sum() for order in set(permutations(drawn))}
        best = min(cost, key=cost.get)
        expected += np.prod(shares[list(drawn)]) * corners[list(best)]
    return expected


def test_an_assignment_is_the_cheapest_of_all():
    seen = probabilities(6, 3)
    counts = np.array([3, 1, 2])
    cost = lambda order: np.linalg.norm(seen - np.eye(3)[list(order)], axis=1).sum()  # noqa: E731
    best = min(set(permutations([0, 0, 0, 1, 2, 2])), key=cost)
    assert assign(seen, counts).tolist() == list(best)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9])
def test_the_closed_form_of_two_classes_is_what_enumeration_gives(share):
    seen = probabilities(6, 2)
    expected = by_brute_force(seen, np.array([1 - share, share]))
    assert np.allclose(two_class_targets(seen[:, 1], share), expected[:, 1])


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1), (0.5, 0.5, 0.0)])
def test_three_classes_are_what_enumeration_gives(shares):
    seen = probabilities(5, 3)
    found = expected_targets(seen, np.array(shares), np.random.default_rng(0))
    assert np.allclose(found, by_brute_force(seen, np.array(shares)))


def test_where_there_are_too_many_draws_some_are_averaged():
    seen, shares = probabilities(24, 6), np.full(6, 1 / 6)
    found = expected_targets(seen, shares, np.random.default_rng(0))
    assert np.allclose(found.sum(1), 1)
    # Every class is expected as often as the target says.
    assert np.allclose(found.mean(0), shares, atol=0.03)


def test_confident_images_of_a_batch_on_target_keep_their_class():
    seen = np.repeat([[0.99, 0.01], [0.01, 0.99]], 12, axis=0)
    (aim,) = aims([seen], [np.array([0.5, 0.5])], np.random.default_rng(0))
    assert (aim.classes == seen.argmax(1)).mean() > 0.9
    assert (aim.classes[aim.confidence >= 0.8] == seen.argmax(1)[aim.confidence >= 0.8]).all()


def test_a_batch_of_one_class_is_split_by_the_target():
    seen = np.stack([np.linspace(0.9, 0.99, 40), np.linspace(0.1, 0.01, 40)], axis=1)
    (aim,) = aims([seen], [np.array([0.75, 0.25])], np.random.default_rng(0))
    assert (aim.classes == 1).sum() == pytest.approx(10, abs=1)
    assert aim.classes[0] == 1 and aim.classes[-1] == 0


@pytest.mark.parametrize("sizes", [(2, 2), (2, 2, 2)])
def test_attributes_are_balanced_in_every_cell_together(sizes):
    """All women are light, all men dark: each attribute is on target alone, the cells are not."""
    tied = np.repeat([[0.98, 0.02], [0.02, 0.98]], 16, axis=0)
    jitter = np.random.default_rng(1).uniform(-0.01, 0.01, (len(sizes), 32, 1)) * np.array([1, -1])
    seen = [tied + part for part in jitter]
    found = aims(seen, [np.array([0.5, 0.5])] * len(sizes), np.random.default_rng(0))
    cells = np.ravel_multi_index([aim.classes for aim in found], sizes)
    assert np.bincount(cells, minlength=2 ** len(sizes)).min() >= 32 // 2 ** len(sizes) - 2
    alone = [aims([part], [np.array([0.5, 0.5])], np.random.default_rng(0))[0].classes for part in seen]
    assert all((one == tied.argmax(1)).mean() > 0.9 for one in alone)


def test_the_same_draws_give_the_same_aims():
    seen = [probabilities(16, 6, 1), probabilities(16, 2, 2)]
    targets = [np.full(6, 1 / 6), np.array([0.3, 0.7])]
    first, second = (aims(seen, targets, np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a.confidence, b.confidence) for a, b in zip(first, second, strict=True))
