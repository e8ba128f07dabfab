import numpy as np
import pytest
from comfyui_ddm.debias.evaluation.kid import kid, mmd2, paired_distance


def test_two_sets_from_one_source_are_at_distance_zero():
    rng = np.random.default_rng(0)
    found = kid(rng.normal(size=(400, 8)), rng.normal(size=(400, 8)))
    assert abs(found.value) < 0.1
    assert found.subset_size == 50


def test_the_distance_grows_with_the_shift():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200, 8))
    values = [kid(rng.normal(size=(200, 8)) + shift, reference).value for shift in (0, 0.5, 1, 2)]
    assert values == sorted(values)


def test_it_is_unbiased_however_few_images():
    rng = np.random.default_rng(1)
    values = [mmd2(rng.normal(size=(10, 4)), rng.normal(size=(10, 4))) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_pairs_that_are_alike_do_not_make_two_sets_look_alike():
    rng = np.random.default_rng(2)
    values = {paired: [] for paired in (True, False)}
    for _ in range(2000):
        x = rng.normal(size=(10, 4))
        y = 0.9 * x + np.sqrt(1 - 0.9**2) * rng.normal(size=(10, 4))
        for paired, found in values.items():
            found.append(mmd2(x, y, paired))
    error = np.std(values[True]) / np.sqrt(2000)
    assert abs(np.mean(values[True])) < 4 * error
    assert np.mean(values[False]) < -20 * error
    x = rng.normal(size=(40, 4))
    assert kid(x, x, paired=True).value == pytest.approx(0, abs=1e-12)


def test_it_is_the_kernel_distance_of_the_paper():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [2.0, 0.0]])
    kernel = lambda a, b: (a @ b / 2 + 1) ** 3  # noqa: E731
    cross = np.mean([kernel(a, b) for a in x for b in y])
    assert mmd2(x, y) == pytest.approx(kernel(x[0], x[1]) + kernel(y[0], y[1]) - 2 * cross)


def test_a_handful_of_images_gives_no_distance():
    assert kid(np.zeros((9, 3)), np.zeros((100, 3))) is None


def test_the_same_image_is_at_distance_zero_from_itself():
    features = np.random.default_rng(0).normal(size=(5, 6))
    assert paired_distance(features, features) == pytest.approx(np.zeros(5), abs=1e-12)
    assert paired_distance(features, -features) == pytest.approx(np.full(5, 2.0))
