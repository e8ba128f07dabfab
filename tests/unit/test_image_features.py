"""What the base sees in an image is read once for all runs."""

import numpy as np
import pytest
import torch
from comfyui_ddm.training.data import cache as cache_module
from comfyui_ddm.training.data import image_features
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base

NAMES, CONCEPT = ["a doctor", "a judge"], np.array([0, 1, 0, 1])


@pytest.fixture
def seen(monkeypatch):
    """How many images the base looked at, at all noises."""
    counts, real = [], Base.denoise
    monkeypatch.setattr(
        Base, "denoise", lambda self, noisy, *rest: counts.append(len(noisy)) or real(self, noisy, *rest)
    )
    return counts


@pytest.fixture
def look(tiny_base, tmp_path, seen):
    base = load_base(tiny_base)
    latents = Latents.of(torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)))

    def features(concept=CONCEPT, seed=0, cache=tmp_path / "cache", rows=(0, 1, 2, 3)):
        del seen[:]
        return image_features.image_features(base, latents.take(rows), NAMES, concept[list(rows)], seed, cache=cache)

    return features


def test_what_was_read_is_not_read_again_and_is_the_same(look, seen):
    plain, first = look(cache=None), look()
    assert sum(seen) == 4 * 8  # four timesteps, two noises
    again = look()
    assert seen == [] and list(plain) == list(first) == list(again)
    assert all(np.array_equal(plain[name], again[name]) and np.array_equal(first[name], again[name]) for name in plain)


def test_only_new_images_are_looked_at(look, seen):
    few = look(rows=(3, 1))
    every = look()
    assert sum(seen) == 2 * 8
    assert all(np.allclose(every[name][[3, 1]], few[name], atol=1e-5) for name in every)


def test_what_was_looked_at_before_a_stop_is_kept(look, seen, monkeypatch):
    monkeypatch.setattr(image_features, "MOST", 1)
    monkeypatch.setattr(cache_module, "SECONDS", -1.0)
    denoise = Base.denoise

    def stopped(self, *given):
        if len(seen) == 2 * 8:
            raise KeyboardInterrupt
        return denoise(self, *given)

    monkeypatch.setattr(Base, "denoise", stopped)
    with pytest.raises(KeyboardInterrupt):
        look()
    monkeypatch.setattr(Base, "denoise", denoise)
    look()
    assert sum(seen) == 2 * 8


def test_an_image_that_comes_several_times_is_looked_at_once(look, seen):
    found = look(rows=(2, 0, 2))
    assert sum(seen) == 2 * 8 and all(np.array_equal(one[0], one[2]) for one in found.values())


@pytest.mark.parametrize("change", [{"concept": 1 - CONCEPT}, {"seed": 1}])
def test_under_another_caption_or_noise_an_image_is_another(look, seen, change):
    look()
    look(**change)
    assert sum(seen) == 4 * 8
