"""A probe checked by eye: which images are asked about, what answers tell, how a report is corrected by them."""

import json

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.evaluation.compare import Evaluation
from comfyui_ddm.debias.evaluation.intervals import CANNOT_TELL
from comfyui_ddm.debias.evaluation.metrics import correct_shares
from comfyui_ddm.debias.evaluation.probe_check import (
    FEWEST,
    IMAGES,
    Answer,
    Check,
    corrected,
    questions,
    read_answers,
)
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.records import Attribute, EvaluationData

CLASSES = ("man", "woman")


def records(truth, error, rng, thumbnails=True):
    """Images of which a probe with P(said | truth) = error is sure."""
    said = np.array([rng.choice(2, p=error[one]) for one in truth])
    rows = np.where(said[:, None] == np.arange(2), 0.95, 0.05)
    attribute = Attribute("gender", CLASSES, rows, Target.uniform(CLASSES))
    made = EvaluationData.of(
        ["a doctor"] * len(truth),
        [attribute],
        seed=list(range(len(truth))),
        thumbnails=[f"data:image/jpeg;base64,{i}" for i in range(len(truth))] if thumbnails else None,
    )
    return made, said


@pytest.fixture
def world():
    """Of 400 doctors 120 are women; a third of the men are called women."""
    rng = np.random.default_rng(3)
    truth = (np.arange(400) % 10 < 3).astype(int)
    made, said = records(truth, [[0.67, 0.33], [0.02, 0.98]], rng)
    return made, truth, said


def answered(made, truth, some=None):
    asked = questions(made, made.attributes[0])[:some]
    return {one.key: Answer(CLASSES[one.said], CLASSES[truth[one.row]]) for one in asked}


def test_thirty_images_are_asked_about_as_many_of_each_class_and_always_the_same(world):
    made, _, said = world
    asked = questions(made, made.attributes[0])
    assert len({one.key for one in asked}) == IMAGES
    assert [sum(one.said == k for one in asked) for k in (0, 1)] == [15, 15]
    assert all(one.said == said[one.row] for one in asked)
    assert asked == questions(made, made.attributes[0])


def test_a_class_that_is_rarely_said_leaves_its_places_to_the_other():
    made, _ = records(np.array([0] * 50 + [1] * 3), np.eye(2), np.random.default_rng(0))
    asked = questions(made, made.attributes[0])
    assert [sum(one.said == k for one in asked) for k in (0, 1)] == [27, 3]


def test_a_report_is_corrected_by_the_answers_and_its_interval_holds_the_truth(world):
    made, truth, said = world
    told, check = corrected(made, answered(made, truth))
    overall = Evaluation.of(told).report.attributes[0].overall[0]
    measured, fixed = overall.shares[1], overall.corrected[1]
    assert measured.value > 0.45
    assert abs(fixed.value - 0.3) < 0.12
    assert fixed.low <= 0.3 <= fixed.high
    assert fixed.high - fixed.low > measured.high - measured.low  # thirty answers are few
    assert Evaluation.of(made).report.attributes[0].overall[0].verdict.startswith("fair")
    assert overall.verdict == CANNOT_TELL  # what looks fair is not, with the probe's errors taken out
    assert check.accuracy == pytest.approx((truth == said).mean(), abs=0.1)
    report = Evaluation.of(told).report
    assert any("was checked by eye on 30 images" in note for note in report.notes)
    assert any(line.startswith("Corrected for what its probe gets wrong") for line in report.remarks)


def test_the_interval_of_the_corrected_share_holds_the_truth_as_often_as_it_says():
    held = 0
    for trial in range(40):
        rng = np.random.default_rng(100 + trial)
        truth = (rng.random(300) < 0.3).astype(int)
        made, _ = records(truth, [[0.85, 0.15], [0.1, 0.9]], rng)
        told, _ = corrected(made, answered(made, truth))
        attribute = told.attributes[0]
        shares = attribute.onehot().mean(0)
        drawn = correct_shares(np.broadcast_to(shares, (len(attribute.confusion_draws), 2)), attribute.confusion_draws)
        low, high = np.nanpercentile(drawn[:, 1], [2.5, 97.5])
        held += low - 0.02 <= truth.mean() <= high + 0.02
    assert held >= 36


def test_few_answers_correct_nothing_and_say_how_many_are_needed(world):
    made, truth, _ = world
    told, check = corrected(made, answered(made, truth, FEWEST))
    assert not check.enough
    assert told.attributes[0].accuracy is None
    assert any(f"when {FEWEST} images of each class" in note for note in told.notes)
    assert corrected(made, {})[0] is made


def test_an_image_of_nobody_counts_for_no_class(world):
    made, truth, _ = world
    answers = answered(made, truth)
    nobody = next(iter(answers))
    answers[nobody] = Answer(answers[nobody].said, None)
    check = Check.of(made.attributes[0], answers)
    assert check.counts.sum() == IMAGES - 1 and check.unclear.sum() == 1
    assert any("show none of its classes" in line for line in check.sentences("gender"))


def test_answers_are_read_as_the_panel_keeps_them():
    key = "0123456789abcdef"
    text = json.dumps({key: ["man", "woman"], "f" * 16: ["man", "unclear"], "e" * 16: ["cat", "dog"]})
    assert read_answers(text, CLASSES) == {key: Answer("man", "woman"), "f" * 16: Answer("man", None)}
    assert read_answers(" ", CLASSES) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"x": ["man", "man"]}', '{"0123456789abcdef": "man"}', "3"])
def test_what_are_no_answers_is_a_sentence(text):
    with pytest.raises(DDMError):
        read_answers(text, CLASSES)


def test_without_images_to_show_there_is_nothing_to_check():
    made, _ = records(np.zeros(5, int), np.eye(2), np.random.default_rng(0), thumbnails=False)
    with pytest.raises(DDMError, match="no images to show"):
        questions(made, made.attributes[0])
