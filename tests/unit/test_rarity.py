import numpy as np
import pytest
from comfyui_ddm.debias.groups.rarity import cross_fit, indicate, intrinsic_dimension, log_rarity


@pytest.fixture
def cloud():
    """200 ordinary points, and 20 of a rare kind in the same places that spread further."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(200, 3)), 6 + 2 * rng.normal(size=(20, 3))])


def test_outliers_are_rarer(cloud):
    rarity = log_rarity(cloud)
    assert rarity[200:].mean() > rarity[:200].mean() + 1
    assert log_rarity(np.vstack([cloud, [[50.0, 50, 50]]]))[-1] > rarity.max()


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_intrinsic_dimension_is_that_of_the_data_not_of_the_space(dimension):
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    values = rng.normal(size=(800, dimension)) @ rng.normal(size=(dimension, 10))
    distances = NearestNeighbors(n_neighbors=11).fit(values).kneighbors(values)[0][:, 1:]
    assert intrinsic_dimension(distances) == pytest.approx(dimension, rel=0.25)


def test_repeated_images_are_common_and_finite():
    rarity = log_rarity(np.concatenate([np.zeros((30, 2)), np.random.default_rng(0).normal(size=(30, 2))]))
    assert np.isfinite(rarity).all() and rarity[:30].mean() < rarity[30:].mean()


def test_no_image_judges_itself(cloud):
    """Another estimate for one image shifts and scales all outputs of its fold alike, its own included."""
    from sklearn.model_selection import KFold

    rarity = log_rarity(cloud)
    changed = rarity.copy()
    changed[7] += 100
    before, after = cross_fit([cloud], rarity), cross_fit([cloud], changed)
    fold = next(test for _, test in KFold(5, shuffle=True, random_state=0).split(rarity) if 7 in test)
    slope, shift = np.polyfit(before[fold], after[fold], 1)
    assert np.allclose(slope * before[fold] + shift, after[fold], atol=1e-8)
    others = np.setdiff1d(np.arange(len(rarity)), fold)
    slope, shift = np.polyfit(before[others], after[others], 1)
    assert not np.allclose(slope * before[others] + shift, after[others], atol=1e-3)


def test_the_indicator_raises_the_rare_kind(cloud):
    level = indicate({"a": cloud, "b": cloud + 0.1 * np.random.default_rng(1).normal(size=cloud.shape)})
    assert level[200:].mean() > level[:200].mean() + 1
    assert level.mean() == pytest.approx(0, abs=1e-9) and level.std() == pytest.approx(1)


def test_features_in_which_all_images_are_alike_say_nothing():
    assert np.allclose(indicate({"a": np.zeros((20, 4))}), 0)
