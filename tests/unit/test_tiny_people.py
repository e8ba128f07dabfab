"""The embedded model's draw, captions, tokenizer and schedule."""

import itertools
import math

import numpy as np
import pytest
import torch
from comfyui_ddm.training.data.image_folder import ImageFolder, Item
from comfyui_ddm.training.embedded.small_model import build_tokenizer
from comfyui_ddm.training.embedded.tiny_people import (
    DARK,
    FRAMES,
    GENDER_SEED,
    GENDER_SHARES,
    GENDER_WORDS,
    TONE_SEED,
    TONE_SHARES,
    TONE_WORDS,
    Draw,
    all_captions,
    caption,
    leaning,
)
from comfyui_ddm.training.embedded.train_small_model import augment, rate_factor

ROLES = ("artist", "cook", "firefighter")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Every role, gender and tone; women twice, so that the shares cannot come from the counts."""
    rows = [
        {"role": role, "gender": gender, "skin_tone": tone}
        for role in ROLES
        for gender in ("man", "woman", "woman")
        for tone in TONE_WORDS
    ]
    root = tmp_path_factory.mktemp("people")
    return ImageFolder(root, [Item(root / f"{i}.png", "", row) for i, row in enumerate(rows)])


@pytest.fixture(scope="module")
def draw(people):
    return Draw.of(people)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("firefighter",), "a firefighter"),
        (("astronaut",), "an astronaut"),
        (("astronaut", "woman"), "a woman astronaut"),
        (("firefighter", "woman", "dark"), "a dark skin woman firefighter"),
        (("pilot", "", "default"), "a yellow skin pilot"),
        (("pilot", "", "medium-light"), "a medium-light skin pilot"),
    ],
)
def test_an_image_is_said_in_words(arguments, text):
    assert caption(*arguments) == text


def share(draw, column, values, role):
    rows = zip(draw.weights, draw.labels, strict=True)
    return sum(weight for weight, row in rows if row["role"] == role and row[column] in values) * len(ROLES)


def test_every_role_is_drawn_alike_and_leans_by_its_own_share(draw):
    men, dark = leaning(ROLES, GENDER_SEED), leaning(ROLES, TONE_SEED)
    assert draw.weights.sum() == pytest.approx(1)
    for role in ROLES:
        assert share(draw, "gender", ("man",), role) == pytest.approx(men[role])
        assert share(draw, "gender", ("woman",), role) == pytest.approx(1 - men[role])
        for tone in TONE_WORDS:
            side = dark[role] if tone in DARK else 1 - dark[role]
            assert share(draw, "skin_tone", (tone,), role) == pytest.approx(side / 3)


def test_a_world_may_lean_one_way(people):
    draw = Draw.of(people, one_way=True)
    for role in ROLES:
        assert share(draw, "gender", ("man",), role) == pytest.approx(GENDER_SHARES["man"])
        for tone, expected in TONE_SHARES.items():
            assert share(draw, "skin_tone", (tone,), role) == pytest.approx(expected)


def test_half_of_the_roles_lean_to_either_side_whatever_their_order():
    shares = leaning([f"role {number}" for number in range(36)], 5)
    assert sorted(shares.values()) == pytest.approx(np.linspace(0.1, 0.9, 36).tolist())
    assert leaning(list(shares)[::-1], 5) == shares != leaning(list(shares), 6)


def test_half_of_the_captions_are_neutral_and_none_says_what_is_not_there(draw):
    rng = np.random.default_rng(0)
    indices = rng.choice(len(draw.weights), 6000, p=draw.weights)
    texts = draw.captions(indices, rng)
    neutral = {frame.format(caption(role)) for frame in FRAMES for role in ROLES}
    told = [text for text in texts if text]
    assert 1 - len(told) / len(texts) == pytest.approx(0.10, abs=0.015)
    assert np.mean([text in neutral for text in told]) == pytest.approx(0.5, abs=0.025)
    assert np.mean([text.startswith(("a ", "an ")) and " of " not in text for text in told]) == pytest.approx(
        0.85, abs=0.02
    )
    for index, text in zip(indices, texts, strict=True):
        row, words = draw.labels[index], text.replace("-", "_").split()
        for gender, names in GENDER_WORDS.items():
            assert gender == row["gender"] or not set(names) & set(words)
        if "skin" in words:
            assert TONE_WORDS[row["skin_tone"]] in text


def test_all_captions_are_those_that_can_be_drawn(draw):
    rng = np.random.default_rng(1)
    drawn = set(draw.captions(rng.integers(len(draw.weights), size=3000), rng)) - {""}
    assert drawn <= set(all_captions(draw))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_word_is_one_token_and_the_tokenizer_is_saved(draw, tmp_path):
    from transformers import CLIPTokenizer

    texts = all_captions(draw)
    tokenizer = build_tokenizer(tmp_path / "tokenizer", texts)
    words = sorted({word for text in texts for word in text.replace("-", " ").split()})
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert {len(one) for one in ids} == {1}
    assert len({one[0] for one in ids}) == len(words)
    assert tokenizer.unk_token_id not in {one[0] for one in ids}
    again = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    some = ["a dark skin woman firefighter", "an emoji of an artist", "zebra"]
    assert again(some).input_ids == tokenizer(some).input_ids
    padded = again(some, padding="max_length").input_ids
    assert {len(row) for row in padded} == {77}
    assert padded[0][0] == again.bos_token_id and again.eos_token_id in padded[0]
    assert again.decode(padded[0], skip_special_tokens=True).strip() == some[0]


def test_the_learning_rate_warms_up_stays_and_decays():
    rates = [rate_factor(step, 2000) for step in range(2001)]
    assert rates[0] == pytest.approx(1 / 200) and rates[199] == 1.0
    assert rates[199:1300] == [1.0] * 1101
    assert all(late < early for early, late in itertools.pairwise(rates[1301:]))
    assert rates[2000] == pytest.approx(0.01)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_short_run_has_a_learning_rate_too(steps):
    assert all(0 < rate_factor(step, steps) <= 1 for step in range(steps))


def test_a_run_can_be_prolonged_before_its_decay():
    assert [rate_factor(step, 1000) for step in range(650)] == [rate_factor(step, 4000) for step in range(650)]


def test_augmented_images_stay_images():
    torch.manual_seed(0)
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    changed = augment(images)
    assert changed.shape == images.shape and not torch.equal(changed, images)
    assert changed.abs().max() <= 1 + 1e-5 and math.isfinite(changed.sum().item())
