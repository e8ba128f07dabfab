"""A probe by the diffusion model itself: with a model that paints colours by their names, and with a real small one."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.evaluation.accumulator import Accumulator, ImageMeta
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.denoising_probe import LEVELS, NOISES, Saying, probe_from_denoising, worded
from comfyui_ddm.debias.probes.predict import read_images, side_for
from comfyui_ddm.training.evaluation.base_denoiser import BaseDenoiser
from comfyui_ddm.training.models.load_base import load_base
from PIL import Image

COLOURS = {"man": (20, 40, 220), "woman": (220, 20, 20)}
CLASSES = {"man": ["a man"], "woman": ["a woman", "one woman"]}


class Painter:
    """Denoises an image the better, the nearer its colour is to the one that is named; it paints nothing bright."""

    identity, size = "a painter", 16

    def __init__(self):
        self.said = []

    def errors(self, images, sayings):
        self.said += [one.text for one in sayings]
        mean = images.mean((1, 2))
        columns = []
        for one in sayings:
            words = one.text.replace(",", " ").split()
            colour = next((rgb for name, rgb in COLOURS.items() if name in words), (120, 120, 120))
            away = np.abs(mean - colour).mean(1) / 255
            strange = 30 * (mean.min(1) > 240)
            columns.append(0.4 + one.level * (0.2 + 0.01 * one.noise) * away + strange)
        latents = np.repeat(mean[:, :, None, None], 2, 2).repeat(2, 3)
        return np.stack(columns, 1), latents

    def make(self, texts):
        rng = np.random.default_rng(len(texts))
        names = [next((name for name in COLOURS if name in text.split()), "man") for text in texts]
        return np.stack([square(COLOURS[name], rng) for name in names])


def square(colour, rng, size=16):
    return np.clip(rng.normal(colour, 12, (size, size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def painter():
    return Painter()


def made(painter, classes=CLASSES):
    return probe_from_denoising(classes, "gender", painter, painter.make)


def test_the_class_is_the_one_whose_words_help(painter):
    probe = made(painter)
    rng = np.random.default_rng(5)
    images = [square(COLOURS[name], rng) for name in ("woman", "man", "woman")]
    (seen,) = read_images(images, [probe]).probabilities
    assert [probe.names[k] for k in seen.argmax(1)] == ["woman", "man", "woman"]
    assert np.allclose(seen.sum(1), 1) and seen.max(1).min() > 0.6
    assert np.isnan(probe.accuracy)


def test_an_image_between_the_classes_is_undetermined(painter):
    (seen,) = read_images([square((120, 30, 120), np.random.default_rng(0))], [made(painter)]).probabilities
    assert seen.max() < 0.6


def test_an_image_that_the_model_would_not_make_is_unlike_its_own(painter):
    white = np.full((16, 16, 3), 250, np.uint8)
    white[::2] = 235
    (seen,) = read_images([white], [made(painter)]).probabilities
    assert np.isnan(seen).all()


def test_words_are_said_after_the_prompt_of_an_image_and_in_templates_without_one(painter):
    probe = made(painter)
    assert "a photo of a man" in painter.said
    painter.said.clear()
    kept = Accumulator([probe], [Target.uniform(probe.names)])
    image = Image.fromarray(square(COLOURS["woman"], np.random.default_rng(2)))
    kept.add([probe], [image, image], [ImageMeta("a doctor", seed=1), ImageMeta("a nurse", seed=1)])
    assert set(painter.said) == {
        f"{prompt}, {phrase}" for prompt in ("a doctor", "a nurse") for own in CLASSES.values() for phrase in own
    }
    assert len(painter.said) == 2 * len(CLASSES) * len(LEVELS) * NOISES


def test_prompts_in_any_order_keep_to_their_images(painter):
    probe = made(painter)
    rng = np.random.default_rng(9)
    images = np.stack([square(COLOURS[name], rng) for name in ("man", "woman", "man", "woman")])
    together, _ = probe.look(images, ["b", "a", "a", "b"])
    alone = np.concatenate([probe.look(images[i : i + 1], [name])[0] for i, name in enumerate("baab")])
    assert np.allclose(together, alone)


def test_words_that_the_model_does_not_know_are_refused(painter):
    with pytest.raises(DDMError, match="does not tell these words apart"):
        made(painter, {"cat": ["a cat"], "dog": ["a dog"]})


def test_phrases_take_turns():
    assert worded(["a man", "one man"], 3) == ["a man", "one man", "a photo of a man"]
    assert worded(["a man"], 2, "a doctor") == ["a doctor, a man"] * 2


def test_images_are_read_at_the_size_that_the_model_makes(painter):
    assert side_for([made(painter)]) == painter.size


def test_the_errors_of_a_base_are_those_of_common_noise(tiny_base):
    denoiser = BaseDenoiser(load_base(tiny_base, "cpu", torch.float32))
    images = denoiser.make(["a", "b", "a"])
    assert images.shape == (3, denoiser.size, denoiser.size, 3)
    sayings = [Saying(0.5, 0, "a"), Saying(0.5, 0, "a"), Saying(0.5, 1, "a"), Saying(0.8, 0, "b")]
    errors, latents = denoiser.errors(images, sayings)
    assert errors.shape == (3, 4) and len(latents) == 3
    assert np.array_equal(errors[:, 0], errors[:, 1]) and (errors[:, 0] != errors[:, 2]).all()
    alone, _ = denoiser.errors(images[1:2], sayings)
    assert np.allclose(alone, errors[1:2], rtol=1e-4)
