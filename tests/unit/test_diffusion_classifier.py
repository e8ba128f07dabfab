import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.groups.diffusion_classifier import classify, denoising_errors, parse_words, say
from comfyui_ddm.debias.groups.noise import ddpm_rates


@pytest.mark.parametrize(
    ("caption", "word", "said"),
    [
        ("a firefighter", "woman", "a woman firefighter"),
        ("a firefighter", "old", "an old firefighter"),
        ("an astronaut", "man", "a man astronaut"),
        ("a bald person", "woman", "a bald woman"),
        ("an old person", "young", "a young old person"),
        ("person", "woman", "a woman"),
        ("the judge", "old", "the old judge"),
        ("firefighter", "woman", "a woman firefighter"),
        ("portrait of a person", "man", "a portrait of a man"),
        ("a doctor", "with glasses", "a doctor with glasses"),
        ("a doctor", "without glasses", "a doctor without glasses"),
        ("", "woman", "a woman"),
        ("", "with glasses", "a person with glasses"),
    ],
)
def test_an_attribute_word_is_said_in_a_caption(caption, word, said):
    assert say(caption, word) == said


def test_words_are_separated_by_a_bar_and_may_stand_in_quotes():
    assert parse_words("man | woman") == parse_words('"man|woman"') == ("man", "woman")


@pytest.mark.parametrize("text", ["", "man", "man|man", "man|woman|man", "|"])
def test_words_that_name_no_two_groups_are_refused(text):
    with pytest.raises(DDMError, match="no two different groups"):
        parse_words(text)


def synthetic(truth, words=2, signal=1.0, seed=0):
    """Errors [N, words, 5, 2] (noise has deviation 1), lower by `signal` under the true word, and plain ones.

    An image of group −1 is no better explained by any word.
    """
    rng = np.random.default_rng(seed)
    errors = 10 + rng.normal(size=(len(truth), words, 5, 2))
    errors -= signal * (truth[:, None] == np.arange(words))[:, :, None, None]
    return errors, 10 + rng.normal(size=(len(truth), 5, 2))


def test_two_groups_are_recovered_from_their_errors():
    truth = (np.arange(300) % 7 == 0).astype(int)
    verdict = classify(*synthetic(truth, signal=2.0))
    assert (verdict.posterior.argmax(1) == truth).mean() > 0.97
    assert verdict.posterior.mean(0) == pytest.approx([6 / 7, 1 / 7], abs=0.03)
    assert verdict.posterior.sum(1) == pytest.approx(np.ones(300))
    assert verdict.reliability > 0.8 and verdict.gain.shape == (2,) and (verdict.gain > 8).all()


@pytest.mark.parametrize("signal", [0.4, 0.8, 1.6])
def test_the_posterior_is_as_sure_as_it_is_right(signal):
    truth = (np.arange(2000) % 7 == 0).astype(int)
    verdict = classify(*synthetic(truth, signal=signal))
    right = (verdict.posterior.argmax(1) == truth).mean()
    assert verdict.posterior.max(1).mean() == pytest.approx(right, abs=0.03)


def test_three_groups_are_recovered():
    truth = np.arange(300) % 3
    verdict = classify(*synthetic(truth, 3, signal=3.0))
    assert (verdict.posterior.argmax(1) == truth).mean() > 0.97 and (verdict.gain > 8).all()


def test_a_timestep_of_large_errors_does_not_drown_the_others():
    truth = np.arange(300) % 2
    errors, plain = synthetic(truth, signal=2.0)
    size = np.array([1e3, 1, 1, 1, 1])[:, None]
    assert classify(errors * size, plain * size).posterior == pytest.approx(classify(errors, plain).posterior, abs=1e-9)


@pytest.mark.parametrize("words", [2, 3])
def test_pure_noise_leaves_the_words_about_equally_likely_and_gains_nothing(words):
    verdict = classify(*synthetic(np.full(300, -1), words))
    assert verdict.posterior.mean(0) == pytest.approx(np.full(words, 1 / words), abs=0.05)
    assert abs(verdict.reliability) < 0.3 and np.abs(verdict.gain).max() < 3


def test_a_word_that_explains_some_images_has_a_high_gain_and_one_that_explains_none_has_not():
    truth = np.where(np.arange(300) % 8 == 0, 1, -1)
    unknown, known = classify(*synthetic(truth, signal=3.0)).gain
    assert known > 8 and unknown < 3


def test_a_word_that_explains_an_image_worse_than_the_plain_caption_has_no_gain():
    errors, plain = synthetic(np.arange(300) % 2, signal=2.0)
    assert classify(errors, plain - 5).gain.max() < 0


def test_images_that_are_all_alike_are_no_crash():
    verdict = classify(np.ones((20, 2, 5, 2)), np.ones((20, 5, 2)))
    assert verdict.reliability == 0 and verdict.gain.tolist() == [0, 0]
    assert verdict.posterior == pytest.approx(np.full((20, 2), 0.5))


def test_the_word_that_denoises_better_has_the_lower_error():
    torch.manual_seed(0)
    latents = torch.randn(6, 4, 2, 2)
    tables = [torch.zeros(1, 1, 1), torch.ones(1, 1, 1)]
    alphas = torch.linspace(0.99, 0.01, 1000)

    def denoise(noisy, t, text):
        """Knows the noise exactly under word 0, and nothing under word 1."""
        signal = alphas[t].sqrt().view(-1, 1, 1, 1)
        exact = (noisy - signal * latents) / (1 - signal.square()).sqrt()
        return exact * (1 - text[:, :, :1, None])

    steps = []
    errors = denoising_errors(
        denoise,
        ddpm_rates(alphas),
        latents,
        tables,
        torch.zeros(6, dtype=torch.long),
        timesteps=(100, 500),
        noises=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert errors.shape == (6, 2, 2, 3)
    assert (errors[:, 0] < 1e-6).all() and (errors[:, 1] > 0.1).all()
    assert len(steps) == 12 and steps[-1] == (6, 6)
