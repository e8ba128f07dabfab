"""An attribute out of balance shows as a skewed direction; what is in balance, or only odd, does not."""

import numpy as np
import pytest
from comfyui_ddm.debias.groups.components import skewed_components

COUNT = 420


def features(*attributes, seed=0):
    """Two places that see attributes [N] in directions of their own, under noise."""
    rng = np.random.default_rng(seed)
    hidden = np.stack([*attributes, *rng.normal(size=(4, COUNT))], 1)
    places = ("up0@50", "last@50")
    return {one: hidden @ rng.normal(size=(hidden.shape[1], 20)) + rng.normal(size=(COUNT, 20)) * 0.3 for one in places}


def split(rare):
    """A two-valued attribute [N] of deviation about 1, `rare` of its images on one side."""
    sides = np.random.default_rng(1).permutation(np.arange(COUNT) < rare * COUNT)
    return sides / np.sqrt(rare * (1 - rare))


def test_an_attribute_at_six_to_one_is_found_without_a_label():
    rare = split(1 / 7)
    (found,) = skewed_components(features(rare))
    assert ((found.rare > 0.5) == (rare > 0)).mean() > 0.98
    assert found.rare.mean() == pytest.approx(1 / 7, abs=0.02) and found.skewness > 1.5 and found.apart > 2


def test_what_is_in_balance_is_left_alone():
    rare = split(1 / 7)
    even = np.random.default_rng(2).permutation(np.arange(COUNT) % 2) * 2.0
    (found,) = skewed_components(features(rare, even))
    assert abs(np.corrcoef(found.rare, even)[0, 1]) < 0.15
    assert skewed_components(features(even)) == []


def test_two_attributes_are_found_apart():
    rng = np.random.default_rng(3)
    first, second = (rng.permutation(np.arange(COUNT) < COUNT // 7) * 2.9 for _ in range(2))
    found = skewed_components(features(first, second))
    assert len(found) == 2
    alike = np.abs([[np.corrcoef(one.rare, other)[0, 1] for other in (first, second)] for one in found])
    assert sorted(alike.argmax(1)) == [0, 1] and alike.max(1).min() > 0.9


@pytest.mark.parametrize(("apart", "count"), [(6.0, 0), (12.0, 1)])
def test_what_is_skewed_must_lie_apart_as_well(apart, count):
    """A class among several in balance is rare too, but nearer to the others than one side is to the other."""
    rng = np.random.default_rng(1)
    rare = rng.permutation(np.arange(COUNT) < COUNT / 10)
    assert len(skewed_components(features(apart * rare + rng.normal(size=COUNT)))) == count


def test_a_few_odd_images_are_no_group():
    odd = np.zeros(COUNT)
    odd[:3] = 30.0
    assert skewed_components(features(odd)) == []


@pytest.mark.parametrize("values", [np.zeros((COUNT, 5)), np.random.default_rng(4).normal(size=(COUNT, 5))])
def test_where_there_is_no_structure_nothing_is_found(values):
    assert skewed_components({"up0@50": values}) == []


def test_the_same_images_give_the_same_groups():
    twice = [skewed_components(features(split(1 / 7)))[0].rare for _ in range(2)]
    assert np.array_equal(*twice)
