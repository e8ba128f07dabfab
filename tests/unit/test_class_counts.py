"""Counts over a queue, and which classes come next."""

import numpy as np
import pytest
from comfyui_ddm.debias.methods.class_counts import ClassCounts


def fill(tally, prompts):
    """Ask for one image after the other, and get what was asked for."""
    for prompt in prompts:
        tally.add([prompt], tally.wanted([prompt]))
    return tally


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.75, 0.25), (0.2, 0.3, 0.5)])
def test_sixty_single_images_have_the_target_to_the_nearest_image(shares):
    counts = fill(ClassCounts(shares), ["a doctor"] * 60).total
    assert np.abs(counts - 60 * np.array(shares)).max() <= 1


def test_single_images_of_sixty_prompts_have_the_target_too():
    counts = fill(ClassCounts((0.75, 0.25)), [f"prompt {number}" for number in range(60)]).total
    assert np.abs(counts - (45, 15)).max() <= 1


@pytest.mark.parametrize("prompts", [["a", "b"] * 30, ["a"] * 30 + ["b"] * 30, ["a", "a", "b"] * 20])
def test_every_prompt_is_balanced_by_itself_in_whatever_order_they_come(prompts):
    tally = fill(ClassCounts((0.5, 0.5)), prompts)
    for counts in tally.counts.values():
        assert abs(counts[0] - counts[1]) <= 2


def test_a_batch_is_planned_as_its_images_one_by_one_would_be():
    one_by_one = fill(ClassCounts((0.5, 0.5)), ["a"] * 5 + ["b"] * 3)
    together = ClassCounts((0.5, 0.5))
    wanted = together.wanted(["a"] * 5 + ["b"] * 3)
    together.add(["a"] * 5 + ["b"] * 3, wanted)
    assert {key: list(value) for key, value in one_by_one.counts.items()} == {
        key: list(value) for key, value in together.counts.items()
    }


def test_what_went_wrong_is_made_up_for():
    tally = ClassCounts((0.5, 0.5))
    tally.add(["a"] * 4, [0] * 4)
    assert list(tally.wanted(["a"] * 4)) == [1] * 4


def test_a_class_with_share_0_is_never_asked_for():
    tally = ClassCounts((1.0, 0.0))
    tally.add(["a"] * 9, [0] * 9)
    assert set(tally.wanted(["a"] * 9)) == {0}


def test_planning_counts_nothing_and_clearing_forgets():
    tally = ClassCounts((0.5, 0.5))
    tally.wanted(["a"])
    assert tally.total.sum() == 0
    tally.add(["a"], [0])
    tally.clear()
    assert tally.total.sum() == 0


def test_with_seeds_of_their_own_two_attributes_come_in_all_combinations():
    """Images come one by one, each as both tallies want it; without seeds, half the combinations never would."""
    first, second, cells = ClassCounts((0.5, 0.5)), ClassCounts((0.5, 0.5)), np.zeros((2, 2))
    for _ in range(240):
        one, other = (tally.wanted(["a doctor"], seed)[0] for seed, tally in enumerate((first, second)))
        first.add(["a doctor"], [one])
        second.add(["a doctor"], [other])
        cells[one, other] += 1
    assert np.abs(first.total - 120).max() <= 1 and np.abs(second.total - 120).max() <= 1
    assert cells.min() > 0.15 * 240


def test_a_seed_plans_a_batch_as_its_images_one_by_one_too():
    one_by_one, together = ClassCounts((0.2, 0.3, 0.5)), ClassCounts((0.2, 0.3, 0.5))
    for _ in range(20):
        one_by_one.add(["a"], one_by_one.wanted(["a"], 3))
    together.add(["a"] * 20, together.wanted(["a"] * 20, 3))
    assert np.array_equal(one_by_one.total, together.total)
