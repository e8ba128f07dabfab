"""Captions that lean to different sides show which sides there are; captions in balance do not."""

import numpy as np
import pytest
from comfyui_ddm.debias.groups.components import joint_space, skewed_components
from comfyui_ddm.debias.groups.features import centre
from comfyui_ddm.debias.groups.leaning import _agreed, _split, find_leaning

CAPTIONS, IMAGES = 24, 14
CAPTION = np.repeat(np.arange(CAPTIONS), IMAGES)


def sides(few, seed=1):
    """A two-valued attribute [N]: `few` images of a caption are of the other side, which it is takes turns."""
    rng = np.random.default_rng(seed)
    rare = [rng.permutation(np.arange(IMAGES) < few) for _ in range(CAPTIONS)]
    return np.concatenate([one if number % 2 else ~one for number, one in enumerate(rare)])


def one_way():
    """The same two images of every caption are of the other side."""
    return np.concatenate([np.random.default_rng(number).permutation(IMAGES) < 2 for number in range(CAPTIONS)])


def features(*attributes, caption=CAPTION, seed=0):
    """Two places that see attributes [N] in directions of their own, under noise, each caption's mean subtracted."""
    rng = np.random.default_rng(seed)
    hidden = np.stack([*(6.0 * one for one in attributes), *rng.normal(size=(4, len(caption)))], 1)
    places = ("up0@50", "last@50")
    seen = {
        one: hidden @ rng.normal(size=(hidden.shape[1], 20)) + rng.normal(size=(len(caption), 20)) * 0.3
        for one in places
    }
    return centre(seen, caption)


def agreement(found, truth):
    right = ((found.side > 0.5) == truth).mean()
    return max(right, 1 - right)


def test_captions_that_lean_to_either_side_are_found_where_all_together_are_in_balance():
    truth = sides(2)
    assert skewed_components(features(truth)) == []
    found = find_leaning(features(truth), CAPTION)
    assert agreement(found, truth) > 0.95
    # Shares of 1/7 and 6/7 deviate by .36, of which sampling makes a part.
    assert 0.3 < found.spread < 0.36 and found.either == 0.5 and found.told > 0.9


def test_captions_in_balance_among_those_that_lean_are_told_apart_by_what_those_show():
    truth = sides(2)
    truth[CAPTION < 4] = sides(7)[CAPTION < 4]
    other = sides(7, seed=5)
    found = find_leaning(features(truth, other), CAPTION)
    assert agreement(found, truth) > 0.95


def test_captions_that_begin_with_another_attributes_sides_are_told_by_those_that_do_not():
    truth, other = sides(2), sides(2, seed=5)
    begun = np.where(CAPTION < 6, other, truth).astype(float)
    wide = joint_space(features(truth, other))
    agreed = _agreed(wide, CAPTION, begun, seed=0)
    assert ((begun > 0.5) == truth).mean() < 0.95 < ((agreed > 0.5) == truth).mean()


def test_two_parts_are_those_of_the_least_variance_and_a_single_image_is_one():
    upper, apart = _split(np.array([5.2, 0.0, 0.2, 5.0, 0.1]))
    assert upper.tolist() == [True, False, False, True, False] and apart > 20
    assert _split(np.array([3.0]))[1] == _split(np.array([3.0, 3.0]))[1] == 0


@pytest.mark.parametrize("seed", range(4))
def test_captions_in_balance_show_nothing(seed):
    assert find_leaning(features(sides(7, seed), sides(7, seed + 10), seed=seed), CAPTION) is None


def test_captions_of_one_lean_are_left_to_the_pooled_statistic():
    seen = features(one_way())
    (pooled,) = skewed_components(seen)
    assert find_leaning(seen, CAPTION, rivals=[pooled.rare]) is None


def test_of_two_explanations_the_likelier_one_counts():
    truth = sides(2)
    unlikely = np.random.default_rng(0).random(len(truth))
    assert find_leaning(features(truth), CAPTION, rivals=[unlikely]) is not None
    assert find_leaning(features(truth), CAPTION, rivals=[unlikely, 0.01 + 0.98 * truth]) is None


def test_few_captions_and_images_without_structure_show_nothing():
    few = CAPTION % 6
    assert find_leaning(features(sides(2), caption=few), few) is None
    assert find_leaning({"up0@50": np.zeros((len(CAPTION), 5))}, CAPTION) is None
    assert find_leaning(features(sides(2)[:50], caption=CAPTION[:50]), CAPTION[:50]) is None


def test_the_same_images_give_the_same_sides_however_captions_are_numbered():
    seen = features(sides(2))
    once, again, renumbered = (find_leaning(seen, caption) for caption in (CAPTION, CAPTION, 5 * CAPTION + 3))
    assert np.array_equal(once.side, again.side) and np.array_equal(once.side, renumbered.side)
