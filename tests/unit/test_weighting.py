import numpy as np
import pytest
from comfyui_ddm.debias.groups.groups import Groups
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import (
    ESS_FLOOR,
    FURTHEST,
    INDICATOR_ESS,
    MILD_ESS,
    Weighting,
    predict_curve,
    recommended_alpha,
)

ALPHAS = (0.25, 0.5, 1.0, 1.5)


def groups_of(labels, source="labels:x"):
    return Groups.from_labels([str(label) for label in labels], source)


@pytest.fixture
def men():
    """Two concepts of 700 and 350 images: 6 men to a woman in one, 4 men to a woman in the other."""
    labels = ["man"] * 600 + ["woman"] * 100 + ["man"] * 280 + ["woman"] * 70
    return groups_of(labels), np.repeat([0, 1], [700, 350])


def weighted(men, target="uniform"):
    groups, concept = men
    return Weighting.of_groups(groups, Target.parse(target, groups.names), concept)


def test_weights_have_mean_one_within_each_concept(men):
    for alpha in ALPHAS:
        weights = weighted(men).weights(alpha)
        assert np.allclose([weights[men[1] == c].mean() for c in (0, 1)], 1)


def test_at_alpha_0_every_weight_is_exactly_one(men):
    assert (weighted(men).weights(0) == 1).all()
    assert weighted(men).effective_share(0) == 1


@pytest.mark.parametrize("target", ["uniform", "man=.75,woman=.25"])
def test_at_alpha_1_the_predicted_shares_are_the_target(men, target):
    shares = weighted(men, target).predicted_shares(1.0, men[0].membership)
    assert shares == pytest.approx(Target.parse(target, men[0].names).shares, abs=0.005)


def test_log_odds_are_linear_in_alpha(men):
    groups, concept = men
    one = concept == 0
    weighting = Weighting.of_groups(
        Groups(groups.names, groups.membership[one], "labels:x"), Target.uniform(groups.names), concept[one]
    )
    shares = np.array([weighting.predicted_shares(a, groups.membership[one]) for a in np.linspace(-0.5, 1.5, 9)])
    odds = np.log(shares[:, 0] / shares[:, 1])
    assert np.allclose(np.diff(odds, 2), 0, atol=1e-9)
    assert odds[2] == pytest.approx(np.log(6))


def test_the_effective_sample_size_falls_with_alpha(men):
    sizes = [weighted(men).effective_share(alpha) for alpha in (0, *ALPHAS)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 1 and sizes[-1] > 0


@pytest.mark.parametrize(("target", "low", "high"), [("uniform", 1, 1), ("man=.75,woman=.25", 1.5, 2.5)])
def test_the_dial_reaches_to_where_mild_weights_cost_as_much_as_others(men, target, low, high):
    weighting = weighted(men, target)
    assert low <= weighting.reach <= high
    assert weighting.effective_share(weighting.reach) <= MILD_ESS + 0.01


def test_the_dial_reaches_no_further_than_three_times_for_what_is_all_but_balanced(men):
    assert weighted(men, "man=.84,woman=.16").reach == FURTHEST


def test_a_negative_alpha_amplifies(men):
    assert weighted(men).predicted_shares(-1.0, men[0].membership)[0] > men[0].shares[0] + 0.05


def test_images_without_a_group_keep_weight_one(men):
    groups, concept = men
    membership = groups.membership.copy()
    membership[::10] = 0
    groups = Groups(groups.names, membership, "labels:x")
    for alpha in ALPHAS:
        weights = Weighting.of_groups(groups, Target.uniform(groups.names), concept).weights(alpha)
        assert np.allclose(weights[::10], 1)
        assert np.allclose([weights[concept == c].mean() for c in (0, 1)], 1)


def test_a_concept_without_any_woman_keeps_finite_weights(men):
    groups = groups_of(["man", "woman"] * 20 + ["man"] * 6)
    weights = Weighting.of_groups(groups, Target.uniform(groups.names), np.repeat([0, 1], [40, 6])).weights(1.5)
    assert np.isfinite(weights).all() and np.allclose(weights[40:], 1)


def test_a_share_of_zero_is_a_possible_target(men):
    weighting = weighted(men, "man=0,woman=1")
    assert weighting.predicted_shares(1.0, men[0].membership)[0] < 1e-3


@pytest.mark.parametrize("together", [False, True])
def test_two_attributes_are_both_balanced_even_if_they_go_together(together):
    rng = np.random.default_rng(0)
    man = rng.random(4000) < 0.8
    short = rng.random(4000) < (np.where(man, 0.95, 0.2) if together else 0.8)
    parts = [groups_of(np.where(man, "man", "woman")), groups_of(np.where(short, "short", "long"))]
    targets = [Target.uniform(part.names) for part in parts]
    weighting = Weighting.of_attributes(parts, targets, np.zeros(4000, int))
    for part in parts:
        assert weighting.predicted_shares(1.0, part.membership) == pytest.approx([0.5, 0.5], abs=0.01)
    assert weighting.membership.shape == weighting.log_ratio.shape == (4000, 4)


def test_an_indicator_keeps_the_effective_sample_size_of_the_floor():
    level = np.random.default_rng(0).normal(size=500)
    weighting = Weighting.of_indicator(level, np.arange(500) % 5)
    assert weighting.effective_share(1.0) == pytest.approx(INDICATOR_ESS, abs=1e-3)
    weights = weighting.weights(1.0)
    assert weights[level.argmax()] > 1 > weights[level.argmin()]


def test_an_indicator_that_says_nothing_changes_nothing():
    assert np.allclose(Weighting.of_indicator(np.zeros(20), np.zeros(20, int)).weights(1.0), 1)


def test_weights_for_a_base_with_other_shares_lead_from_these_to_the_target():
    tones, genders = groups_of(["light"] * 60 + ["medium"] * 30 + ["dark"] * 10), groups_of(["man", "woman"] * 50)
    wanted = [Target.uniform(part.names) for part in (tones, genders)]
    weighting = Weighting.of_attributes([tones, genders], wanted, np.zeros(100, int), prior=0)
    base = dict(zip(("light", "medium", "dark"), (0.4, 0.4, 0.2), strict=True))
    own = np.array([base[name] for name in tones.names])
    found = weighting.starting_from([tones, genders], [own, None])
    shares = found.predicted_shares(1.0, tones.membership)
    # What multiplies the set's shares f to these, multiplies the base's to the target.
    reached = own * shares / tones.shares
    assert reached / reached.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.01)
    assert found.predicted_shares(1.0, genders.membership) == pytest.approx([0.5, 0.5], abs=0.01)
    assert (found.weights(0.0) == 1).all()


def test_corrected_weights_give_each_concept_what_it_still_lacks():
    tones, genders = groups_of(["light"] * 60 + ["medium"] * 30 + ["dark"] * 10), groups_of(["man", "woman"] * 50)
    wanted, concept = [Target.uniform(part.names) for part in (tones, genders)], np.arange(100) // 2 % 2
    weighting = Weighting.of_attributes([tones, genders], wanted, concept)
    even, odd = [1 / 3] * 3 + [0.5, 0.5], [0.2, 0.4, 0.4, 0.8, 0.2]
    found = weighting.corrected(wanted, np.split(np.array([even, odd]), [3], axis=1))
    before, after = weighting.weights(1.0), found.weights(1.0)
    assert after[concept == 0] == pytest.approx(before[concept == 0])
    cells = {
        (tone, gender): after[row] / before[row]
        for row in np.flatnonzero(concept == 1)
        for tone, gender in [(tones.membership[row].argmax(), genders.membership[row].argmax())]
    }
    dark, light, man, woman = 0, 1, 0, 1
    assert cells[dark, man] / cells[light, man] == pytest.approx(2)
    assert cells[light, woman] / cells[light, man] == pytest.approx(4)
    assert (found.weights(0.0) == 1).all()


def test_the_recommended_alpha_is_the_smallest_near_the_target(men):
    groups, _ = men
    curve = predict_curve(weighted(men), groups.membership, Target.uniform(groups.names))
    at = curve.alphas.tolist().index(curve.recommended)
    noise = np.sqrt(0.5 / (curve.effective_share * len(groups.membership)))
    assert curve.reached and 0.5 < curve.recommended <= 1
    assert curve.distance[at] <= noise[at] and (curve.distance[:at] > noise[:at]).all()


def test_the_recommended_alpha_obeys_the_floor():
    groups = groups_of(["man"] * 490 + ["woman"] * 10)
    weighting = Weighting.of_groups(groups, Target.uniform(groups.names), np.zeros(500, int))
    curve = predict_curve(weighting, groups.membership, Target.uniform(groups.names))
    assert weighting.effective_share(1.0) < ESS_FLOOR and not curve.reached
    assert 0 < curve.recommended < 1
    assert weighting.effective_share(curve.recommended) >= ESS_FLOOR * 0.999
    assert weighting.effective_share(curve.recommended + 0.05) < ESS_FLOOR


def test_a_concept_that_cannot_be_balanced_is_no_reason_to_over_correct_the_others():
    groups = groups_of(["man"] * 150 + ["woman"] * 50 + ["man"] * 200)
    weighting = Weighting.of_groups(groups, Target.uniform(groups.names), np.repeat([0, 1], 200))
    curve = predict_curve(weighting, groups.membership, Target.uniform(groups.names))
    assert curve.recommended == 1.0 and not curve.reached


def test_a_balanced_set_needs_no_alpha():
    groups = groups_of(["man", "woman"] * 100)
    weighting = Weighting.of_groups(groups, Target.uniform(groups.names), np.zeros(200, int))
    assert recommended_alpha(weighting, [groups], [Target.uniform(groups.names)]) == 0


def test_where_nothing_was_found_the_model_is_left_alone():
    level = np.random.default_rng(0).normal(size=300)
    thirds = groups_of(3 * level.argsort().argsort() // 300)
    weighting = Weighting.of_indicator(level, np.zeros(300, int))
    assert recommended_alpha(weighting, [thirds], [Target.uniform(thirds.names)]) == 0.0
