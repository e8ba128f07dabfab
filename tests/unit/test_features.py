from functools import partial

import numpy as np
import torch
from comfyui_ddm.debias.groups.features import centre, denoiser_features, principal_components
from comfyui_ddm.training.models.load_base import load_base


def test_centred_features_have_mean_zero_in_every_concept():
    rng = np.random.default_rng(0)
    concept = rng.integers(3, size=60)
    values = centre({"mid@50": rng.normal(size=(60, 4)) + 10 * concept[:, None]}, concept)["mid@50"]
    assert np.allclose([values[concept == c].mean(0) for c in range(3)], 0)


def test_components_are_whitened_and_no_more_than_asked_for():
    values = np.random.default_rng(0).normal(size=(50, 6)) * [1, 2, 5, 10, 20, 0]
    found = principal_components(values, 3)
    assert found.shape == (50, 3)
    assert np.allclose(np.cov(found.T), np.eye(3), atol=1e-6)
    assert principal_components(values[:3], 8).shape == (3, 2)


def test_directions_without_variance_are_left_out():
    line = np.random.default_rng(0).normal(size=(30, 1)) * [1, 2, 3, 4]
    assert principal_components(line, 4).shape == (30, 1)
    assert (principal_components(np.full((30, 4), 2.5), 4) == 0).all()


def test_features_are_read_at_every_place_and_noise_level_without_leaving_hooks(tiny_base):
    base = load_base(tiny_base)
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text, index = base.encode_text(["a doctor", "a judge"]), torch.tensor([0, 1, 0, 1, 0])

    def read(batch):
        return denoiser_features(
            base.denoise,
            base.family.features(base.denoiser),
            partial(base.family.hidden, latents=latents.shape),
            base.rates,
            latents,
            text,
            index,
            timesteps=(50, 500),
            batch_size=batch,
        )

    features = read(5)
    assert set(features) == {f"{place}@{t}" for place in ("up0", "last") for t in (50, 500)}
    assert all(values.shape == (5, 64) for values in features.values())
    assert all(not module._forward_hooks for module in base.denoiser.modules())
    alone = read(2)
    assert all(np.allclose(features[name], alone[name], atol=1e-4) for name in features)
    # Out of memory, fewer images are read at a time.
    base.denoiser.register_forward_hook(full)
    halved = read(5)
    assert all(np.array_equal(halved[name], alone[name]) for name in features)


def full(_module, _inputs, output):
    """As if there was memory for two images."""
    if len(output[0]) > 2:
        raise torch.OutOfMemoryError("no room")
