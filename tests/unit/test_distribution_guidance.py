"""Distribution guidance as mathematics: losses, gradients, assignment; no model in sight."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors, save_tensors
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.methods.distribution_guidance import Guidance, begin_together, read_words
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier, even_weights, fit_head

NAMES = ("man", "woman")


def clouds(count=40, size=2, channels=4, classes=2, seed=0):
    """Features in which the first channels tell the class, more clearly the less noise there is; and the membership."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % classes
    layers = []
    for t, clear in ((100, 3.0), (900, 0.0)):
        h = torch.randn(count, channels, size, size, generator=generator)
        h[torch.arange(count), truth] += clear
        layers.append((t, h))
    return layers, np.eye(classes)[truth]


@pytest.fixture(scope="module")
def head():
    return fit_head(*clouds(), NAMES, "gender", "base")


def test_a_head_tells_classes_where_they_can_be_told_and_pushes_only_there(head):
    layers, membership = clouds(seed=1)
    found = head.logits(layers[0][1], 100).argmax(1).numpy()
    assert (found == membership.argmax(1)).mean() > 0.95
    assert head.accuracy[0] > 0.9
    assert head.push[1].norm() < 0.5 * head.push[0].norm()


def test_a_head_lies_between_its_timesteps_and_stays_at_its_ends(head):
    h = clouds()[0][0][1]
    early, middle, late = (head.logits(h, t) for t in (100, 500, 900))
    assert torch.allclose(middle, (early + late) / 2, atol=1e-5)
    assert torch.equal(head.logits(h, 0), early) and torch.equal(head.logits(h, 999), late)


def test_a_larger_image_has_about_the_same_logits(head):
    h = clouds()[0][0][1]
    large = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (head.logits(large, 100) - head.logits(h, 100)).abs().max() < 0.5
    gradient = torch.tensor([[0.0, 1.0]]).repeat(len(h), 1)
    assert head.shift(gradient, large, 100).shape == large.shape


def test_a_saved_head_is_the_same(head, tmp_path):
    head.save(tmp_path / "head.safetensors")
    loaded = HSpaceClassifier.load(tmp_path / "head.safetensors")
    assert all(torch.equal(getattr(loaded, name), getattr(head, name)) for name in ("weight", "bias", "push"))
    assert (loaded.names, loaded.attribute, loaded.accuracy) == (head.names, "gender", head.accuracy)
    assert (loaded.base_hash, loaded.digest, loaded.words) == ("base", head.digest, NAMES)


def test_a_head_from_before_words_were_kept_has_its_classes_names(head, tmp_path):
    head.save(tmp_path / "head.safetensors")
    tensors, metadata = load_tensors(tmp_path / "head.safetensors")
    del metadata["ddm.words"]
    save_tensors(tmp_path / "older.safetensors", tensors, metadata)
    assert HSpaceClassifier.load(tmp_path / "older.safetensors").words == NAMES


@pytest.mark.parametrize(
    ("names", "words", "prompt", "said"),
    [
        (("a", "b"), None, "a doctor", ""),
        (("side A", "side B"), (), "a doctor seen from the side a", ""),
        (("man", "woman"), None, "a Woman doctor", "Woman"),
        (("man", "woman"), None, "a mandolin player", ""),
        (("man", "woman"), None, "a male doctor", "male"),
        (("man", "woman"), None, "a lady, doctor", "lady"),
        (("man", "woman"), None, "a nurse and her husband", "her"),
        (("Female", "Male"), None, "two women", "women"),
        (("man", "woman"), None, "a fireman at a female-owned shop's manhole", "female"),
        (("man", "woman"), None, "a shepherd on the heath", ""),
        (("young", "old"), None, "an elderly judge", "elderly"),
        (("young", "old"), None, "a senior engineer", ""),
        (("man", "woman"), (), "a lady", ""),
        (("the", "of"), None, "the duke of York", ""),
        (("7", "8"), None, "the digit 7", "7"),
    ],
)
def test_a_class_leaves_prompts_alone_that_say_it_as_a_word(head, names, words, prompt, said):
    tables = (head.timesteps, head.weight, head.bias, head.push, head.accuracy)
    assert Guidance(HSpaceClassifier(names, "gender", *tables, words=words)).said(prompt) == said


def test_rare_classes_are_told_apart_too():
    layers, membership = clouds(200, classes=2)
    some = np.concatenate([np.flatnonzero(membership[:, 0]), np.flatnonzero(membership[:, 1])[:10]])
    few = fit_head([(t, h[some]) for t, h in layers], membership[some], NAMES, "gender")
    found = few.logits(layers[0][1], 100).argmax(1).numpy()
    assert (found == membership.argmax(1)).mean() > 0.9


def leaning_clouds(count=480, captions=8, seed=0):
    """Images whose caption, nine in ten of one class, shows more clearly than the class does."""
    rng = np.random.default_rng(seed)
    caption = np.arange(count) % captions
    truth = (rng.random(count) < 0.9) == (caption % 2 == 0)
    h = rng.normal(size=(count, 4, 2, 2))
    h[:, 0] += 1.0 * truth[:, None, None]
    h[:, 1] += 4.0 * (caption % 2 == 0)[:, None, None]
    return [(100, torch.as_tensor(h).float())], np.stack([~truth, truth], 1).astype(float), caption


def test_a_head_learns_the_image_and_not_what_its_caption_leans_to():
    layers, membership, caption = leaning_clouds()
    push = {
        name: fit_head(layers, membership, NAMES, "gender", caption=own).push[0, 1].mean((1, 2))
        for name, own in (("one caption", None), ("its own", caption))
    }
    assert abs(push["one caption"][1]) > abs(push["one caption"][0])
    assert abs(push["its own"][1]) < 0.3 * push["its own"][0]


def test_what_mistaken_sides_hide_does_not_shorten_the_push_but_where_nothing_is_told_there_is_none():
    layers, membership = clouds(600)
    wrong = np.random.default_rng(0).random(600) < 0.15
    mistaken = np.where(wrong[:, None], 1 - membership, membership)
    right, weak, made_up = (
        fit_head(layers, own, NAMES, "gender", noisy=noisy).push.flatten(1).norm(dim=1).tolist()
        for own, noisy in ((membership, False), (mistaken, False), (mistaken, True))
    )
    assert 1.2 * weak[0] < made_up[0] < right[0]
    assert made_up[1] < 0.3 * made_up[0]


def test_sides_with_mistakes_push_along_the_difference_of_their_means():
    layers, membership = clouds(600)
    wrong = np.random.default_rng(0).random(600) < 0.15
    mistaken = np.where(wrong[:, None], 1 - membership, membership)
    h, side = layers[0][1], mistaken.argmax(1)
    means = (h[side == 1].mean(0) - h[side == 0].mean(0)).flatten()
    alike = [
        torch.cosine_similarity(fit_head(layers, mistaken, NAMES, "gender", noisy=noisy).push[0, 1].flatten(), means, 0)
        for noisy in (True, False)
    ]
    assert alike[0] > 0.999 > alike[1]


def test_both_sides_of_every_caption_count_alike_and_one_sided_captions_not_at_all():
    truth, caption = np.array([0, 0, 0, 1, 1, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    weights = even_weights(truth, caption)
    for one in (0, 1):
        sides = [weights[(caption == one) & (truth == side)].sum() for side in (0, 1)]
        assert sides[0] == pytest.approx(sides[1]) and sides[0] > 0
    assert not weights[caption == 2].any() and weights.mean() == pytest.approx(1)
    # The harmonic mean of 3 and 1 is 1.5 times that of 1 and 1.
    assert weights[caption == 0].sum() == pytest.approx(1.5 * weights[caption == 1].sum())


def test_where_no_caption_has_two_sides_classes_count_alike():
    truth = np.array([0, 0, 0, 1])
    assert even_weights(truth, truth) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_images_without_a_class_are_left_out_and_too_few_are_a_sentence():
    layers, membership = clouds()
    membership[:4] = 0
    fit_head(layers, membership, NAMES, "gender")
    membership[6:, 1] = 0
    with pytest.raises(DDMError, match="too few images to learn from: 1 of woman"):
        fit_head(layers, membership, NAMES, "gender")


@pytest.mark.parametrize(("mode", "together"), [("queue", 1), ("queue", 2), ("batch", 1), ("batch", 2)])
def test_the_gradient_is_that_of_the_loss(head, mode, together):
    """Against automatic differentiation, in units of one image."""
    guidance = Guidance(head, Target(NAMES, np.array([0.3, 0.7])), mode=mode)
    guidance.begin(["a"] * 6, together)
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    p = logits.softmax(1)
    if mode == "batch":
        tau = torch.tensor([0.3, 0.7])
        loss = 8 * 6 * ((p.mean(0) - tau).square() / tau).sum()
    else:
        wanted = torch.as_tensor(guidance._assigned(p.detach().numpy()))
        # The softmax is at temperature 8, shared by what is guided at once, and the gradient by the logits over it.
        temperature = 8 / together
        loss = -temperature * (logits / temperature).log_softmax(1)[torch.arange(6), wanted].sum()
    loss.backward()
    assert np.allclose(guidance.gradient(logits.detach().numpy()), logits.grad.numpy(), atol=1e-9)


def test_of_more_classes_an_image_is_pushed_away_from_the_one_that_the_head_sees():
    names = ("light", "medium", "dark")
    guidance = Guidance(SimpleNamespace(names=names, words=names, digest="0"), Target(names, np.array([0.0, 1.0, 0.0])))
    guidance.begin(["a"] * 2)
    from_light, from_dark = guidance.gradient(np.array([[5.0, 1.0, -5.0], [-5.0, 1.0, 5.0]]))
    assert from_light[0] > 100 * abs(from_light[2]) and from_dark[2] > 100 * abs(from_dark[0])
    assert from_light[1] == from_dark[1] == pytest.approx(-from_light[0], rel=0.01)


def test_of_several_attributes_each_pushes_less_an_image_that_its_head_is_sure_of():
    names, sure = ("man", "woman"), np.array([[8.0, 0.0]])
    several = [
        Guidance(SimpleNamespace(names=names, words=names, digest="0"), Target(names, np.array([1.0, 0.0])))
        for _ in range(2)
    ]
    alone = Guidance(SimpleNamespace(names=names, words=names, digest="0"), Target(names, np.array([1.0, 0.0])))
    idle = Guidance(SimpleNamespace(names=names, words=names, digest="0"), scale=0)
    begin_together(several, ["a"])
    begin_together([alone, idle], ["a"])
    pushes = [np.linalg.norm(guidance.gradient(sure)) for guidance in (*several, alone)]
    assert pushes[0] == pushes[1] < pushes[2] / 2


def test_of_more_classes_a_push_is_about_as_long_as_of_two():
    lengths = []
    for count in (2, 3, 6):
        names = tuple(map(str, range(count)))
        guidance = Guidance(SimpleNamespace(names=names, words=names, digest="0"), Target(names, np.eye(count)[0]))
        guidance.begin(["a"])
        lengths.append(np.linalg.norm(guidance.gradient(np.zeros((1, count)))) / (1 - 1 / count))
    assert lengths == pytest.approx([2**0.5] * 3)


@pytest.mark.parametrize("mode", ["queue", "batch"])
def test_a_push_does_not_depend_on_how_many_images_there_are(head, mode):
    h = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    shifts = []
    for copies in (1, 5):
        guidance = Guidance(head, Target(NAMES, np.array([0.25, 0.75])), mode=mode)
        guidance.begin(["a"] * 4 * copies)
        shifts.append(guidance.shift(h.repeat(copies, 1, 1, 1), 100))
    assert torch.allclose(shifts[0], shifts[1][:4], atol=1e-5)


def test_a_push_makes_what_is_wanted_more_likely(head):
    h = clouds()[0][0][1]
    guidance = Guidance(head, Target(NAMES, np.array([0.0, 1.0])))
    guidance.begin(["a"] * len(h))
    pushed = h + guidance.shift(h, 100)
    before, after = (head.logits(one, 100).softmax(1)[:, 1].mean() for one in (h, pushed))
    assert after > before + 0.3


def test_images_get_the_class_that_they_are_nearest_to(head):
    guidance = Guidance(head)
    guidance.begin(["a", "b", "a", "b"])
    likely = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]])
    assert list(guidance._assigned(likely)) == [0, 1, 1, 0]


def test_scale_0_pushes_nothing_and_still_counts(head):
    guidance = Guidance(head, scale=0.0)
    layers, membership = clouds(8)
    guidance.begin(["a"] * 8)
    assert guidance.shift(layers[0][1], 100) is None
    assert list(guidance.end()) == list(membership.argmax(1))
    assert list(guidance.tally.total) == [4, 4]


def test_images_that_were_given_up_do_not_count(head):
    guidance = Guidance(head)
    guidance.begin(["a"] * 40)
    guidance.shift(clouds()[0][0][1], 100)
    guidance.begin(["a"])
    assert guidance.end() is None
    assert guidance.tally.total.sum() == 0


@pytest.mark.parametrize("mode", ["queue", "batch"])
def test_a_prompt_that_says_who_is_meant_is_left_alone(head, mode):
    h = clouds()[0][0][1]
    mixed, plain = Guidance(head, mode=mode), Guidance(head, mode=mode)
    mixed.begin(["a doctor", "a (Woman:1.2) doctor"] * 4)
    plain.begin(["a doctor"] * 4)
    shift = mixed.shift(h[:8], 100)
    assert (shift[1::2] == 0).all() and torch.allclose(shift[::2], plain.shift(h[:8:2], 100), atol=1e-6)
    assert len(mixed.end()) == 8 and mixed.tally.counts.keys() == {"a doctor"} and mixed.tally.total.sum() == 4
    mixed.begin(["a woman"] * 8)
    assert mixed.shift(h[:8], 100) is None


def test_words_are_whole_ones_and_others_than_the_classes_can_be_given(head):
    said = Guidance(head).said
    assert [said(one) for one in ("a WOMAN doctor", "old man", "a fireman", b"a woman")] == ["WOMAN", "man", "", ""]
    tags = ("1girl, solo", "multiple_boys", "old_man", "woman's day", "womanly", "mandrill, 1girlfriends")
    assert [said(one) for one in tags] == ["girl", "boys", "man", "woman", "", ""]
    assert Guidance(head, words=["7"]).said("17, 7th") == "" != Guidance(head, words=["7"]).said("a 7")
    assert Guidance(head, words=["old man", "girl"]).said("an old man") == "old man"
    assert Guidance(head, words=["girl"]).said("a woman") == Guidance(head, words=[]).said("a woman") == ""
    assert [read_words(text) for text in ("", " man , boy,", "-")] == [None, ["man", "boy"], []]
    assert Guidance(head).facts["words"] == ["man", "woman"]


def test_mistakes_are_sentences(head, tmp_path):
    with pytest.raises(DDMError, match="queue or batch"):
        Guidance(head, mode="both")
    with pytest.raises(DDMError, match="tells apart"):
        Guidance(head, Target.uniform(("cat", "dog")))
    guidance = Guidance(head)
    guidance.begin(["a"])
    with pytest.raises(DDMError, match="started for 1 images"):
        guidance.shift(torch.zeros(2, 4, 2, 2), 100)
    with pytest.raises(DDMError, match="reads 4 channels"):
        guidance.shift(torch.zeros(1, 8, 2, 2), 100)
