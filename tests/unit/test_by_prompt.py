"""A share is a share within a prompt: verdict, recommended α and drift are decided prompt by prompt."""

import numpy as np
import pytest
from comfyui_ddm.debias.evaluation import diversity
from comfyui_ddm.debias.evaluation.evaluate import build_report
from comfyui_ddm.debias.groups.groups import Groups
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import Weighting, predict_curve
from comfyui_ddm.debias.probes.records import Attribute, Condition, EvaluationData
from comfyui_ddm.debias.rendering.panel import report_panel

CLASSES = ("man", "woman")


def report(men, tones=None, per_prompt=80, unlike=None):
    """Of men[α][prompt], the share of men, and of tones likewise; the same seeds at every α.

    Of the images at strength α the share unlike[α] is of another kind than the probe was made for.
    """
    prompt, condition, seed, columns = [], [], [], ([], [])
    for alpha, shares in men.items():
        for p, share in enumerate(shares):
            rng = np.random.default_rng([p, 7])
            prompt += [f"prompt {p}"] * per_prompt
            condition += [Condition(alpha)] * per_prompt
            seed += range(p * per_prompt, (p + 1) * per_prompt)
            for column, part in zip(columns, (share, tones[alpha][p] if tones else 0.5), strict=True):
                column.append(rng.permutation(per_prompt) < round(part * per_prompt))
    gender, tone = (np.stack([np.concatenate(own), ~np.concatenate(own)], 1).astype(float) for own in columns)
    for i, one in enumerate(condition):
        if i % 10 < 10 * (unlike or {}).get(one.alpha, 0):
            gender[i] = np.nan
    attributes = [Attribute("gender", CLASSES, gender, Target.uniform(CLASSES))]
    if tones:
        attributes.append(Attribute("tone", ("dark", "light"), tone))
    data = EvaluationData.of(prompt, attributes, condition, seed)
    return build_report(data, resamples=300, clusters=0, sheets=0)


def test_ten_prompts_all_men_and_ten_all_women_are_not_fair():
    made = report({0.0: [1.0] * 10 + [0.0] * 10})
    overall = made.attributes[0].overall[0]
    assert overall.shares[0].value == pytest.approx(0.5)
    assert overall.verdict == "not fair"
    assert overall.fd.value == pytest.approx(np.sqrt(0.5))
    assert made.summary.startswith("Prompt by prompt, gender is .71")


def test_twenty_balanced_prompts_are_fair():
    assert report({0.0: [0.5] * 20}).attributes[0].overall[0].verdict == "fair within ±.10"


def test_one_prompt_of_men_alone_among_balanced_ones_is_not_fair_and_is_named():
    overall = report({0.0: [1.0] + [0.5] * 19}).attributes[0].overall[0]
    assert overall.verdict == "not fair"
    assert (overall.worst.prompt, overall.worst.group, overall.worst.share) == ("prompt 0", "man", 1.0)


def test_the_recommended_alpha_of_a_model_that_leans_both_ways_is_decided_prompt_by_prompt():
    made = report({0.0: [0.9] * 5 + [0.1] * 5, 0.5: [0.7] * 5 + [0.3] * 5, 1.0: [0.5] * 10})
    assert made.recommendation().alpha == 1.0


def test_an_adapter_that_balances_the_whole_by_pushing_every_prompt_one_way_is_not_recommended():
    """Men .9 and .5 become .7 and .3: together exactly half, prompt by prompt no better."""
    made = report({0.0: [0.9] * 5 + [0.5] * 5, 1.0: [0.7] * 5 + [0.3] * 5})
    assert made.attributes[0].overall[1].shares[0].value == pytest.approx(0.5)
    assert made.recommendation().alpha == 0.0
    assert "no strength brings the prompts nearer" in made.recommendation().reason


def test_below_the_images_of_a_verdict_nothing_is_recommended():
    best = report({0.0: [0.9] * 4, 1.0: [0.5] * 4}, per_prompt=40).recommendation()
    assert best.alpha is None and "too few images" in best.reason


def test_a_model_that_is_fair_as_it_is_is_left_alone():
    best = report({0.0: [0.5] * 4, 1.0: [0.5] * 4}).recommendation()
    assert best.alpha == 0.0 and "as near to the target as can be told" in best.reason


def test_where_most_images_are_of_another_kind_than_the_probe_was_made_for_nothing_is_recommended():
    made = report({0.0: [0.9] * 4, 1.0: [0.5] * 4}, unlike={1.0: 0.7})
    assert made.recommendation().alpha is None
    assert "gender is undetermined" in made.recommendation().reason
    assert made.summary.startswith("224 of 640 images are unlike those that the probe for gender was made for")
    assert report({0.0: [0.9] * 4, 1.0: [0.5] * 4}, unlike={1.0: 0.2}).recommendation().alpha == 1.0


def test_a_strength_at_which_another_attribute_moves_is_not_recommended():
    """Tones move up under half of the prompts and down under the others, so that the whole stays half and half."""
    still, moved = [0.5] * 8, [0.8] * 4 + [0.2] * 4
    made = report({0.0: [0.9] * 8, 1.0: [0.5] * 8}, tones={0.0: still, 1.0: moved})
    assert made.recommendation().alpha == 0.0
    assert "tone moves" in made.recommendation().reason
    tone = made.attributes[1].overall[1]
    assert tone.drift == "moved"
    assert tone.shift.mean == pytest.approx(0.3, abs=0.01) and tone.shift.floor < 0.1
    quiet = report({0.0: [0.9] * 8, 1.0: [0.5] * 8}, tones={0.0: still, 1.0: still})
    assert quiet.recommendation().alpha == 1.0


def test_a_panel_says_distance_by_prompt_and_the_worst_prompt_first():
    panel = report_panel(report({0.0: [1.0, 0.2, 0.5]}))
    assert panel["headline"]["worst"]["prompt"] == "prompt 0"
    assert panel["headline"]["fd"]["value"] == pytest.approx(np.sqrt(2) * (0.5 + 0.3) / 3)
    assert [row["prompt"] for row in panel["prompts"]] == ["prompt 0", "prompt 1", "prompt 2"]


def test_a_set_whose_captions_lean_both_ways_is_predicted_to_need_correction():
    concept = np.repeat(np.arange(4), 100)
    men = np.concatenate([np.arange(100) < count for count in (90, 90, 10, 10)]).astype(float)
    membership = np.stack([men, 1 - men], 1)
    groups, target = Groups(CLASSES, membership, "labels:gender"), Target.uniform(CLASSES)
    curve = predict_curve(Weighting.of_groups(groups, target, concept), membership, target)
    assert curve.shares[0] == pytest.approx([0.5, 0.5])
    assert curve.distance[0] == pytest.approx(np.sqrt(2) * 0.4)
    assert curve.recommended > 0.5


def test_images_that_are_all_alike_have_a_vendi_score_of_one_and_no_distance():
    same = np.tile([1.0, 2.0, 3.0], (10, 1))
    assert diversity.vendi_score(same) == pytest.approx(1)
    assert diversity.pairwise_distance(same) == pytest.approx(0, abs=1e-12)
    assert diversity.vendi_score(np.eye(10)) == pytest.approx(10)
    assert diversity.pairwise_distance(np.eye(10)) == pytest.approx(1)


def test_diversity_is_of_images_of_one_prompt():
    """Two prompts, each with one face: the prompts differ, the faces of a prompt do not."""
    features = np.repeat(np.eye(2), 12, axis=0)
    score, distance, prompts = diversity.within_prompts(features, np.repeat([0, 1], 12))
    assert (score, distance, prompts) == (pytest.approx(1), pytest.approx(0, abs=1e-12), 2)
    assert diversity.within_prompts(features[:9], np.zeros(9, int)) is None
