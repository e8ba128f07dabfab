from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.groups.diffusion_classifier import ATTRIBUTES, Verdict
from comfyui_ddm.training.data import group_images
from comfyui_ddm.training.data.group_images import Grouper, check_source, said_by_group
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base

CAPTIONS = ["a doctor"] * 12 + ["a judge"] * 12
GENDER = (["man"] * 9 + ["woman"] * 3) * 2


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def latents():
    return Latents.of(torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


def verdict(shares, gain=9.0, by_caption=False):
    """A verdict over 24 images with so many of them sure of each word; the last word explains its own by `gain`.

    Both captions have as many of each, or the first caption those of the first words.
    """
    truth = np.repeat(np.arange(len(shares)), shares)
    truth = truth if by_caption else truth.reshape(12, 2).T.ravel()
    gains = np.append(np.zeros(len(shares) - 1), gain)
    return Verdict(np.eye(len(shares))[truth] * 0.98 + 0.02 / len(shares), 0.9, gains)


class Told(Grouper):
    """A grouper whose model gives fixed verdicts, and knows nothing of words that have none."""

    verdicts: dict[tuple[str, ...], Verdict]

    def classify(self, words, rows=None):
        return self.verdicts.get(tuple(words), verdict((12, 12), gain=1.0))


def test_labels_need_no_model():
    grouping = Grouper(None, None, CAPTIONS).group("labels:gender", labels=lambda column: GENDER)
    assert grouping.groups[0].names == ("man", "woman")
    shares = grouping.weighting.predicted_shares(1.0, grouping.groups[0].membership)
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)
    assert grouping.groups[0].words == () and grouping.targets[0].shares.tolist() == [0.5, 0.5]


def test_labels_can_have_another_target():
    grouping = Grouper(None, None, CAPTIONS).group("labels:gender", "man=.25,woman=.75", lambda column: GENDER)
    shares = grouping.weighting.predicted_shares(1.0, grouping.groups[0].membership)
    assert shares == pytest.approx([0.25, 0.75], abs=0.03)


def test_several_columns_are_balanced_jointly_each_towards_its_own_target():
    columns = {"gender": GENDER, "tone": (["light"] * 8 + ["dark"] * 4) * 2}
    grouping = Grouper(None, None, CAPTIONS).group("labels:gender,tone", "uniform;dark=.75,light=.25", columns.get)
    gender, tone = grouping.groups
    assert [part.source for part in grouping.groups] == ["labels:gender", "labels:tone"]
    weighting = grouping.weighting
    assert weighting.predicted_shares(1.0, gender.membership) == pytest.approx([0.5, 0.5], abs=0.03)
    assert weighting.predicted_shares(1.0, tone.membership) == pytest.approx([0.75, 0.25], abs=0.03)


def test_several_lists_of_words_are_balanced_jointly():
    grouper = Told(None, None, CAPTIONS)
    grouper.verdicts = {("man", "woman"): verdict((20, 4)), ("old", "young"): verdict((18, 6))}
    grouping = grouper.group("words:man|woman, old|young")
    assert [part.names for part in grouping.groups] == [("man", "woman"), ("old", "young")]
    assert grouping.weighting.membership.shape == (24, 4)


def test_each_of_several_attributes_needs_its_target():
    with pytest.raises(DDMError, match=r"2 attributes .* but 1 in the target"):
        Grouper(None, None, CAPTIONS).group("labels:a,b", "man=.5,woman=.5", lambda column: GENDER)
    with pytest.raises(DDMError, match="no two different"):
        check_source("words:man|woman,young")


def test_the_model_classifies_by_words(base, latents):
    said = []
    grouper = Grouper(base, latents, CAPTIONS, report=lambda what, done, total: said.append((what, done, total)))
    grouping = grouper.group("words:man | woman")
    groups = grouping.groups[0]
    assert groups.names == groups.words == ("man", "woman")
    assert groups.membership.sum(1) == pytest.approx(np.ones(24))
    assert set(groups.evidence) == {"reliability", "gain"}
    assert list(dict.fromkeys(what for what, _, _ in said)) == ["man", "woman", "plain caption"]
    assert said[-1][1] == said[-1][2]


def test_a_word_is_measured_once_even_if_it_is_asked_again(base, latents):
    said = []
    grouper = Grouper(base, latents, CAPTIONS, report=lambda what, done, total: said.append(what))
    some = grouper.classify(("man", "woman"), np.arange(0, 24, 2))
    count = len(said)
    every = grouper.classify(("man", "woman"))
    assert len(said) == 2 * count
    again = grouper.classify(("woman", "boy"))
    assert len(said) < 3 * count and again.posterior.shape == every.posterior.shape == (24, 2)
    assert some.posterior.shape == (12, 2)


def test_discovery_makes_thirds_and_weighs_the_rare_one_up(base, latents):
    grouping = Grouper(base, latents, CAPTIONS).group("discovered")
    groups = grouping.groups[0]
    assert groups.names == ("0 rare", "1 between", "2 common")
    assert groups.membership.sum(0).tolist() == [8, 8, 8]
    mean = groups.membership.T @ grouping.weighting.weights(1.0)
    assert mean[0] > mean[2]
    assert grouping.weighting.by_indicator


def test_discovery_balances_each_caption_towards_its_own_rare_side(base, latents, monkeypatch):
    truth = np.array(["man"] * 10 + ["woman"] * 2 + ["man"] * 2 + ["woman"] * 10) == "man"
    found = SimpleNamespace(side=np.where(truth, 0.99, 0.01), spread=0.3, told=0.9)
    monkeypatch.setattr(group_images, "find_leaning", lambda *_: found)
    grouping = Grouper(base, latents, CAPTIONS).group("discovered")
    assert grouping.groups[0].names == ("side A", "side B")
    by_caption = grouping.weighting.shares_by_concept(1.0, np.stack([truth, ~truth], 1))
    assert by_caption[:, 0] == pytest.approx([0.5, 0.5], abs=0.15)  # from .83 and .17, drawn to both captions'


def test_discovery_is_no_crash_when_every_caption_is_another(base, latents):
    grouping = Grouper(base, latents, [f"image {i}" for i in range(24)]).group("discovered")
    assert not np.allclose(grouping.weighting.weights(1.0), 1)


def test_auto_corrects_what_it_can_tell_apart_and_is_out_of_balance():
    grouper = Told(None, None, CAPTIONS)
    grouper.verdicts = {
        ATTRIBUTES["gender"]: verdict((20, 4)),
        ATTRIBUTES["age"]: verdict((12, 12)),
        ATTRIBUTES["hair"]: verdict((22, 2), gain=3.0),
    }
    grouping = grouper.group("auto")
    assert [part.source for part in grouping.groups] == ["auto:gender"]
    rows = {row["attribute"]: row for row in grouping.tried}
    assert set(rows) == set(ATTRIBUTES)
    told = {name: (row["told_apart"], row["used"]) for name, row in rows.items() if row["told_apart"]}
    assert told == {"gender": (True, True), "age": (True, False)}
    # A hint on some of the images was followed on all of them, and was not enough.
    assert rows["hair"]["shares"] == pytest.approx([0.905, 0.095], abs=0.01)
    assert "shares" not in rows["glasses"]


def test_auto_corrects_what_captions_lean_to_either_side_of():
    grouper = Told(None, None, CAPTIONS)
    grouper.verdicts = {ATTRIBUTES["gender"]: verdict((12, 12), by_caption=True)}
    grouping = grouper.group("auto")
    assert [part.source for part in grouping.groups] == ["auto:gender"]
    assert grouper.imbalance(grouping.groups[0]) == pytest.approx(0.48, abs=0.03)


def test_auto_falls_back_to_discovery(base, latents):
    grouper = Told(base, latents, CAPTIONS)
    grouper.verdicts = {ATTRIBUTES["gender"]: verdict((12, 12))}
    grouping = grouper.group("auto")
    assert grouping.source == "auto" and grouping.groups[0].source == "discovered"
    assert len(grouping.tried) == len(ATTRIBUTES) and not any(row["used"] for row in grouping.tried)


@pytest.mark.parametrize("source", ["gender", "words", "words:", "labels:", "label:gender", "labels:gender,", ""])
def test_an_unknown_source_is_refused_with_those_there_are(source):
    with pytest.raises(DDMError, match=r"labels:COLUMN"):
        check_source(source)


@pytest.mark.parametrize("source", ["auto", "discovered"])
def test_a_target_needs_named_groups(source):
    with pytest.raises(DDMError, match="needs named groups"):
        check_source(source, "man=.5,woman=.5")


@pytest.mark.parametrize("source", ["auto", "discovered", "words:man|woman"])
def test_images_that_cannot_be_compared_are_refused(source):
    with pytest.raises(DDMError, match="too few"):
        Grouper(None, None, ["a doctor"] * 3).group(source)


def test_cells_of_captions_and_weights_are_in_the_same_order():
    grouper = Told(None, None, CAPTIONS)
    grouper.verdicts = {ATTRIBUTES["gender"]: verdict((20, 4)), ATTRIBUTES["skin tone"]: verdict((18, 6))}
    grouping = grouper.group("auto")
    said = said_by_group(grouping, "a doctor")
    assert said[0] == "a light skin man doctor" and said[-1] == "a dark skin woman doctor"
    gender, tone = (part.membership for part in grouping.groups)
    cells = grouping.weighting.membership
    assert cells.shape == (24, 4)
    assert cells[:, 1] == pytest.approx(gender[:, 0] * tone[:, 1])


@pytest.mark.parametrize("kept", [True, False])
def test_an_image_is_classified_once_for_all_runs_that_keep_what_was_measured(
    base, latents, tmp_path, monkeypatch, kept
):
    counts, denoise = [], Base.denoise
    monkeypatch.setattr(
        Base, "denoise", lambda self, noisy, *rest: counts.append(len(noisy)) or denoise(self, noisy, *rest)
    )

    def classified(words, captions=CAPTIONS, **options):
        del counts[:]
        grouper = Grouper(base, latents, captions, cache=tmp_path if kept else None, **options)
        some = grouper.classify(words, np.array([3, 5])).posterior
        return some, grouper.classify(words).posterior

    once = 24 * 5 * 2  # five timesteps, two noises
    first = classified(("man", "woman"))
    assert sum(counts) == 3 * once  # each word, and the plain caption
    again = classified(("man", "woman"))
    assert sum(counts) == (0 if kept else 3 * once)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    classified(("man", "boy"))
    assert sum(counts) == (once if kept else 3 * once)
    classified(("man", "woman"), seed=1)
    assert sum(counts) == 3 * once
    classified(("man", "woman"), ["a pilot"] * 24)
    assert sum(counts) == 3 * once
