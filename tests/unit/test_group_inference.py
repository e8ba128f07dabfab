"""Groups that nobody named, the objective over them, and the module's size."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.methods.group_inference import infer_groups, invariant_loss
from comfyui_ddm.debias.methods.invariant_module import InvariantModule, new_module


def test_images_that_the_model_does_badly_find_together():
    losses = np.concatenate([np.full(30, 1.0), np.full(10, 3.0)]) + np.random.default_rng(0).normal(0, 0.1, 40)
    weights = infer_groups(losses, groups=4)
    assert np.allclose(weights.sum(1), 1)
    means = (weights * losses[:, None]).sum(0) / weights.sum(0)
    assert means.max() - means.min() > 1
    assert weights.sum(0).min() > 1


def test_the_same_seed_finds_the_same_groups():
    losses = np.random.default_rng(0).random(20)
    assert np.array_equal(infer_groups(losses, 3, seed=4), infer_groups(losses, 3, seed=4))


def test_the_loss_is_the_groups_mean_and_their_variance():
    losses = torch.tensor([1.0, 2.0, 6.0])
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert invariant_loss(losses, weights, 0.0) == pytest.approx((1.5 + 6) / 2)
    assert invariant_loss(losses, weights, 2.0) == pytest.approx(3.75 + 2 * 2.25**2)


@pytest.mark.parametrize("base", [250_000, 6_000_000, 860_000_000])
def test_the_module_is_as_large_as_a_twentieth_allows_and_adds_nothing_yet(base):
    module = new_module(4, 32, base)
    assert module.parameter_count <= base / 20
    for size in (8, 12):
        x = torch.randn(2, 4, size, size)
        assert not module(x, torch.tensor([5, 900]), torch.randn(2, 7, 32)).any()


def test_a_module_that_is_not_finite_is_not_saved(tmp_path):
    module = new_module(4, 32, 250_000)
    torch.nn.init.constant_(module.leave.bias, float("nan"))
    with pytest.raises(DDMError, match="not finite"):
        module.save(tmp_path / "module.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_base_without_room_for_a_module_is_a_sentence():
    with pytest.raises(DDMError, match="a twentieth of that holds no module"):
        new_module(4, 32, 1000)


def test_a_loaded_module_gives_the_same_correction(tmp_path):
    module = new_module(4, 32, 250_000, "base", "v_prediction", {"steps": 3})
    torch.nn.init.normal_(module.leave.weight)
    module.save(tmp_path / "module.safetensors")
    loaded = InvariantModule.load(tmp_path / "module.safetensors")
    given = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 7, 32)
    assert torch.equal(loaded(*given), module(*given))
    assert (loaded.card, loaded.digest) == (module.card, module.digest)
