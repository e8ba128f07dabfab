import numpy as np
import pytest
import torch
from comfyui_ddm.debias.diffusion_classifier import classify, denoising_errors, parse_words, say
from comfyui_ddm.debias.error import DDMError


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


def synthetic(truth, words=2, signal=1.0, offset=0.0, seed=0):
    """Errors [N, words, 3, 2]: lower under the true word by `signal` (noise has deviation 1); word 0 has an offset."""
    rng = np.random.default_rng(seed)
    errors = 10 + rng.normal(size=(len(truth), words, 3, 2))
    errors -= signal * np.eye(words)[truth][:, :, None, None]
    errors[:, 0] -= offset
    return errors


def test_two_groups_are_recovered_from_their_errors():
    truth = (np.arange(300) % 7 == 0).astype(int)
    verdict = classify(synthetic(truth, signal=3.0))
    assert (verdict.posterior.argmax(1) == truth).mean() > 0.97
    assert verdict.posterior.sum(1) == pytest.approx(np.ones(300))
    assert verdict.reliability > 0.8 and verdict.separation > 3


@pytest.mark.parametrize("offset", [-6.0, 6.0])
def test_a_word_that_suits_every_picture_better_does_not_swap_the_groups(offset):
    truth = (np.arange(300) % 5 == 0).astype(int)
    verdict = classify(synthetic(truth, signal=3.0, offset=offset))
    assert (verdict.posterior.argmax(1) == truth).mean() > 0.97


def test_three_groups_are_recovered():
    truth = np.arange(300) % 3
    assert (classify(synthetic(truth, 3, signal=4.0)).posterior.argmax(1) == truth).mean() > 0.95


def test_pure_noise_is_not_reliable():
    verdict = classify(synthetic(np.zeros(300, int), signal=0.0))
    assert abs(verdict.reliability) < 0.3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pictures_that_are_all_alike_are_no_crash():
    verdict = classify(np.ones((20, 2, 3, 2)))
    assert verdict.reliability == 0 and np.isfinite(verdict.posterior).all()


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
        alphas,
        latents,
        tables,
        torch.zeros(6, dtype=torch.long),
        timesteps=(100, 500),
        noises=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert errors.shape == (6, 2, 2, 3)
    assert (errors[:, 0] < 1e-6).all() and (errors[:, 1] > 0.1).all()
    assert steps[-1] == (12, 12)
