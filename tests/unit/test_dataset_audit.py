import json
import re

import numpy as np
import pytest
from comfyui_ddm.debias.evaluation.build_audit import AuditedSet, inspect
from comfyui_ddm.debias.groups.groups import Groups, concepts, peers
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import INDICATOR_ESS, Weighting
from comfyui_ddm.debias.rendering.audit_html import render_audit
from PIL import Image

EVIL = "<script>alert('1')</script> & $x_1^{"
ROLES = ("doctor", "judge", "pilot")
COUNT = 90


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "one.png"
    Image.new("RGB", (16, 16), (200, 30, 30)).save(path)
    return path


@pytest.fixture(scope="module")
def images(file):
    captions = [f"a {ROLES[i % 3]}" for i in range(COUNT)]
    return AuditedSet(
        [file] * COUNT, [f"{i}.png" for i in range(COUNT)], captions, [("broken.png", "it is cut off")], ["Not UTF-8."]
    )


def people(minority=18, source="labels:gender", names=("man", "woman"), **rest):
    rng = np.random.default_rng(0)
    woman = rng.permutation(np.arange(COUNT)) < minority
    return Groups(names, np.eye(2)[woman.astype(int)], source, **rest)


def audit(images, groups, target="uniform", **rest):
    concept = peers(concepts(images.captions)[1])
    targets = [Target.parse(target, part.names) for part in groups]
    return inspect(images, groups, targets, Weighting.of_attributes(groups, targets, concept), **rest)


@pytest.fixture(scope="module")
def labelled(images):
    return audit(images, [people()], source="labels:gender")


@pytest.fixture(scope="module")
def discovered(images):
    level = np.random.default_rng(1).normal(size=COUNT)
    thirds = 3 * level.argsort().argsort() // COUNT
    groups = Groups.from_labels([("2 common", "1 between", "0 rare")[third] for third in thirds], "discovered")
    weighting = Weighting.of_indicator(level, concepts(images.captions)[1])
    return inspect(images, [groups], [Target.uniform(groups.names)], weighting, source="discovered"), level


def test_the_summary_says_who_is_there_and_what_balance_costs(labelled):
    assert re.fullmatch(
        r"Men are 80% \(71–87%\) of 90 images; the target is 50%. At α = 1 your 90 images count as \d\d\.",
        labelled.summary,
    )


def test_shares_have_intervals_and_weights_balance_them(labelled):
    man, woman = labelled.attributes[0].groups
    assert (man.images, woman.images) == (72, 18)
    assert man.share.low < man.share.value == 0.8 < man.share.high
    assert man.images * man.weight == pytest.approx(woman.images * woman.weight, rel=0.1)


def test_the_advice_names_the_alpha_and_its_price(labelled):
    count = labelled.price.at(labelled.recommended)
    assert f"α = {labelled.recommended:g} is recommended" in labelled.advice
    assert f"your 90 images count as {count}" in labelled.advice
    assert labelled.price.images[0] == 90 and labelled.price.ratio[0] == 1
    assert labelled.price.images == sorted(labelled.price.images, reverse=True)


def test_rare_images_are_those_of_the_minority(labelled, images):
    woman = people().membership[:, 1]
    rare = [int(one.caption.split(".")[0]) for one in labelled.rare]
    common = [int(one.caption.split(".")[0]) for one in labelled.common]
    assert len(rare) == len(common) == 20
    assert woman[rare[:18]].all() and not woman[common].any()
    assert re.fullmatch(r"\d+\.png: counts [\d.]+ times", labelled.rare[0].caption)


def test_every_group_shows_its_surest_images(images):
    soft = people().membership * 0.9 + 0.05
    soft[4] = [0.55, 0.45]
    groups = Groups(("man", "woman"), soft, "words:man|woman", ("man", "woman"), {"reliability": 0.9, "gain": 5})
    attribute = audit(images, [groups]).attributes[0]
    assert attribute.name == "man or woman"
    assert [len(group.examples) for group in attribute.groups] == [10, 10]
    assert all(one.caption.endswith("woman 95%") for one in attribute.groups[1].examples)
    assert [one.caption for one in attribute.doubtful] == ["4.png: man 55%"]


def test_subjects_come_furthest_from_the_target_first(labelled):
    rows = labelled.attributes[0].concepts
    assert {row.name for row in rows} == {"a doctor", "a judge", "a pilot"}
    shares = [row.counts[0] / row.images for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(row.images for row in rows) == COUNT


def test_an_indicator_names_nobody(discovered):
    made, level = discovered
    assert made.by_indicator and made.recommended == 0.0 and "leave the model as it is" in made.advice
    assert made.summary.startswith("Nothing is out of balance here that balancing helps")
    assert "the rarest third of 90 images of 3 subjects would be drawn" in made.summary
    groups = made.attributes[0].groups
    assert [group.name for group in groups] == ["rare", "between", "common"]
    assert groups[0].weight > groups[1].weight > groups[2].weight
    assert made.attributes[0].shares == [] and groups[0].target is None
    assert made.price.images[20] == pytest.approx(INDICATOR_ESS * COUNT, abs=0.2)
    rare = [int(one.caption.split(".")[0]) for one in made.rare]
    assert level[rare].mean() > 0.8


def test_a_balanced_set_needs_no_correction(images):
    made = audit(images, [people(45)])
    assert made.recommended == 0 and made.advice.startswith("Nothing needs correcting")
    assert "as near to the target of 50% as can be told" in made.summary


def test_subjects_that_lean_either_way_are_not_called_balanced(images):
    """One definition of chance: what the summary says and what is recommended are decided subject by subject."""
    lean = np.array([(i // 3) % 5 < (4, 1, 2.5)[i % 3] for i in range(COUNT)]).astype(int)
    made = audit(images, [Groups(("man", "woman"), np.eye(2)[lean], "labels:gender")])
    assert made.recommended > 0 and "is recommended" in made.advice
    assert re.search(r"is 50% within each subject, and subjects lean either way \(FD 0\.\d\d\)", made.summary)


@pytest.mark.parametrize("minority", range(30, 46))
def test_the_summary_and_the_recommendation_agree(images, minority):
    made = audit(images, [people(minority)])
    assert (made.recommended == 0) == ("as can be told" in made.summary) == made.advice.startswith("Nothing needs")


def test_a_set_beyond_help_says_that_more_images_are_needed(images):
    made = audit(images, [people(1)])
    assert "More images of the rare kind" in made.advice


def test_words_that_the_model_can_hardly_tell_apart_are_doubted(images):
    evidence = {"reliability": 0.2, "gain": 1.1}
    made = audit(images, [people(source="words:man|woman", words=("man", "woman"), evidence=evidence)])
    assert any("can hardly tell “man” from “woman”" in line for line in made.remarks)


def test_what_a_person_should_know_is_remarked(file):
    captions = ["a doctor"] * 9 + [""] * 2 + ["a judge on a beach"]
    images = AuditedSet([file] * 12, [str(i) for i in range(12)], captions, [("broken.png", "it is cut off")])
    labels = Groups.from_labels(["man", "woman", ""] * 4, "labels:gender")
    said = " ".join(audit(images, [labels]).remarks)
    for words in (
        "One file could not",
        "12 images are few",
        "2 images have no caption",
        "3 images have a caption",
    ):
        assert words in said
    assert "4 images have no gender" in said


def test_json_is_strict_and_without_images(labelled):
    data = json.loads(labelled.to_json(images=False))
    assert data["format"] == 1 and data["images"] == 90
    assert data["skipped"] == [{"file": "broken.png", "reason": "it is cut off"}]
    assert data["rare"][0].endswith("times") and "base64" not in json.dumps(data)
    assert len(data["price"]["alphas"]) == len(data["attributes"][0]["shares"]) == 31
    assert "base64" in labelled.to_json()


def test_the_page_stands_alone_and_shows_everything(labelled):
    page = render_audit(labelled)
    for words in ("Who is in the images: gender", "Rare", "Common", "What balance costs", "broken.png", "Not UTF-8."):
        assert words in page
    assert page.count("<svg") == 3 and "recommended α" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|url\((?!#)", page)


def test_the_page_of_an_indicator_speaks_of_rare_and_common(discovered):
    page = render_audit(discovered[0])
    assert "Who is in the images" not in page and "How many times as often the rarest third" in page
    assert all(f'<th scope="row">{name}</th>' in page for name in ("rare", "between", "common"))


def test_attributes_that_were_tried_are_listed(images):
    tried = [
        {"attribute": "gender", "words": ("man", "woman"), "reliability": 0.9, "gain": 5.0}
        | {"told_apart": True, "used": True, "shares": [0.8, 0.2]},
        {"attribute": "age", "words": ("young", "old"), "reliability": 0.1, "gain": 1.0}
        | {"told_apart": False, "used": False},
    ]
    page = render_audit(audit(images, [people(source="auto:gender")], source="auto", tried=tried))
    assert "man 80%, woman 20%" in page and "out of balance, corrected" in page and "not told apart" in page


def test_users_words_are_escaped(file):
    captions = [EVIL] * 20 + ["a doctor"] * 20
    images = AuditedSet([file] * 40, [EVIL] * 40, captions, [(EVIL, EVIL)], [EVIL])
    names = ("man", EVIL)
    groups = Groups(names, np.eye(2)[np.arange(40) % 4 // 3], f"words:man|{EVIL}", names)
    tried = [{"attribute": EVIL, "words": names, "reliability": 0.9, "gain": 5.0, "told_apart": True, "used": True}]
    page = render_audit(audit(images, [groups], title=EVIL, tried=tried))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_an_image_that_has_gone_leaves_a_gap(images, tmp_path):
    gone = AuditedSet([tmp_path / "gone.png"] * COUNT, images.names, images.captions)
    assert 'class="missing"' in render_audit(audit(gone, [people()]))


def test_the_same_set_gives_the_same_page(images, labelled):
    assert render_audit(audit(images, [people()], source="labels:gender")) == render_audit(labelled)
