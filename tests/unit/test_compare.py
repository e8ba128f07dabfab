"""Two reports side by side, and the short form that a node shows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.evaluation.compare import Evaluation, compare
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.records import Attribute, Condition, EvaluationData
from comfyui_ddm.debias.rendering import charts
from comfyui_ddm.debias.rendering.panel import report_panel, sweep_points
from comfyui_ddm.debias.rendering.report_html import render_report, sweep_overview

NAMES = ("man", "woman")


def records(men, alpha=None, count=80, prompts=("a doctor",), first_seed=0, target="uniform", **probe):
    """`men` of `count` images of every prompt are men, those of the lowest seeds first."""
    said = [[0.95, 0.05] if i < men else [0.05, 0.95] for _ in prompts for i in range(count)]
    accuracy = probe.get("accuracy", 0.95)
    attribute = Attribute(
        probe.get("name", "gender"), NAMES, np.array(said), target and Target.parse(target, NAMES), accuracy
    )
    return EvaluationData.of(
        [prompt for prompt in prompts for _ in range(count)],
        [attribute],
        [Condition(alpha)] * len(said),
        [first_seed + p * count + i for p in range(len(prompts)) for i in range(count)],
        features=np.random.default_rng(men).normal(size=(len(said), 4)),
        thumbnails=["data:image/gif;base64,R0lGODlhAQABAAAAACw="] * len(said),
    )


def study(men, alpha=None, **more):
    return Evaluation.of(records(men, alpha, **more))


def test_a_comparison_says_before_and_after_in_one_sentence():
    made = compare(study(72), study(40)).report
    assert made.summary.startswith("Before, men are 90% of 80 images; after, they are 50%")
    assert [one.label for one in made.conditions] == ["before", "after"]


def test_the_strengths_are_named_where_they_are_known():
    assert compare(study(72, 0.0), study(40, 1.0)).report.summary.startswith("At α = 0 men are 90%")


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.0), (0.5, -1.0), (1.0, 1.0), (None, 1.0)])
def test_before_stays_before_whatever_the_strengths(first, second):
    report = compare(study(72, first), study(40, second)).report
    men = [report.attributes[0].overall[i].shares[0].value for i in (report.base, report.after)]
    assert men == [0.9, 0.5]


def test_images_of_one_seed_are_pairs():
    paired = compare(study(44), study(40)).report
    apart = compare(study(44), study(40, first_seed=1000)).report
    assert (paired.quality[1].paired_images, apart.quality[1].paired_images) == (80, 0)
    change = [one.attributes[0].overall[1].change[0] for one in (paired, apart)]
    assert change[0].high - change[0].low < 0.6 * (change[1].high - change[1].low)
    assert any("no seed in common" in note for note in apart.notes)
    assert not any("no seed in common" in note for note in paired.notes)


def test_only_prompts_that_both_have_are_compared_and_the_others_are_named():
    report = compare(study(72, prompts=("a doctor", "a judge")), study(40, prompts=("a pilot", "a doctor"))).report
    assert report.prompts == 1
    assert any("“a judge”" in note and "“a pilot”" in note for note in report.notes)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda: study(40, prompts=("a judge",)), "no prompt in common"),
        (lambda: study(40, name="tone"), "is on gender"),
        (lambda: study(40, target="man=.6,woman=.4"), "the same target"),
        (lambda: study(40, accuracy=0.8), "different probes"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(after, said):
    with pytest.raises(DDMError, match=said):
        compare(study(72), after())


def test_of_a_report_on_several_strengths_the_first_is_compared_with_the_last():
    halves = [records(72, 0.0), records(40, 1.0)]
    dial = Evaluation.of(
        EvaluationData.of(
            ["a doctor"] * 160,
            [
                replace(
                    halves[0].attributes[0],
                    probabilities=np.concatenate([h.attributes[0].probabilities for h in halves]),
                )
            ],
            [Condition(alpha) for alpha in (0.0, 1.0) for _ in range(80)],
            [*halves[0].seed, *halves[1].seed],
        )
    )
    report = compare(dial, dial).report
    assert [report.attributes[0].overall[i].shares[0].value for i in (0, 1)] == [0.9, 0.5]


def test_a_panel_is_plain_json_with_shares_targets_and_the_base():
    panel = json.loads(json.dumps(report_panel(compare(study(72), study(40)).report, "compare"), allow_nan=False))
    group = panel["attributes"][0]["groups"][0]
    assert (panel["kind"], panel["n"], group["name"], group["share"], group["target"]) == (
        "compare", 160, "man", 0.5, 0.5
    )  # fmt: skip
    assert group["before"]["share"] == 0.9
    assert group["low"] < 0.5 < group["high"]
    assert panel["prompts"][0]["prompt"] == "a doctor"


def test_a_panel_has_no_before_where_there_is_one_condition():
    assert "before" not in report_panel(study(72).report)["attributes"][0]["groups"][0]


@pytest.mark.parametrize(
    ("men", "count", "tone", "said"),
    [
        (2, 4, "unknown", "too few to say: 4 images, and a verdict needs 60"),
        (0, 1, "unknown", "too few to say: one image, and a verdict needs 60"),
        (59, 59, "unknown", "too few to say"),
        (60, 60, "unfair", "not fair"),
        (150, 300, "fair", "fair within ±.10"),
        (34, 60, "unknown", "cannot tell"),
    ],
)
def test_a_verdict_takes_sixty_images(men, count, tone, said):
    verdict = report_panel(study(men, count=count).report)["verdict"]
    assert verdict["tone"] == tone
    assert verdict["text"].startswith(said)


def test_with_several_prompts_the_sentence_says_how_many():
    verdict = report_panel(study(2, count=4, prompts=("a doctor", "a judge")).report)["verdict"]
    assert verdict["text"] == "too few to say: 8 images of 2 prompts, and a verdict needs 60 of each"


def test_without_a_target_there_is_no_verdict():
    assert report_panel(study(2, target=None).report)["verdict"] == {"tone": "unknown", "text": "no target"}


def test_a_sweep_has_a_point_for_every_strength_with_its_quality():
    points = sweep_points(compare(study(72, 0.0), study(40, 1.0)).report)
    assert [one["alpha"] for one in points] == [0.0, 1.0]
    assert points[0]["quality"] == 0.0 < points[1]["quality"]
    assert points[0]["fd"] > points[1]["fd"]


def test_the_page_speaks_of_one_noise_only_where_seeds_are_shared():
    paired, apart = (compare(study(44), study(40, first_seed=seed)).report for seed in (0, 1000))
    assert "starts from the same noise" in render_report(paired)
    assert "starts from the same noise" not in render_report(apart)


def test_the_chart_of_a_sweep_marks_the_recommended_strength_beside_fairness_against_quality():
    alphas = (0.0, 0.5, 1.0)
    halves = [records(men, alpha) for men, alpha in zip((72, 60, 40), alphas, strict=True)]
    said = np.concatenate([one.attributes[0].probabilities for one in halves])
    merged = EvaluationData.of(
        ["a doctor"] * len(said),
        [replace(halves[0].attributes[0], probabilities=said)],
        [Condition(alpha) for alpha in alphas for _ in range(80)],
        [*range(80)] * 3,
        features=np.concatenate([one.features for one in halves]),
    )
    figure = sweep_overview(Evaluation.of(merged).report, 0.5)
    words = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert len(words) == 3
    assert "recommended α = 0.5" in words[0]
    assert words[2] == ["α = 0", "α = 0.5", "α = 1"]
    assert len(sweep_overview(compare(study(72, 0.0), study(40, 1.0)).report).axes) == 2


def test_a_share_beside_fairness_never_goes_beyond_all():
    axes = charts.pareto([0.6, 0.3, 0.1], [1.0, 1.0, 1.0], ["a", "b", "c"], "Recognised", percent=True).axes[0]
    assert axes.get_ylim()[1] < 1.02
