"""Training of invariant guidance: what is not finite is left out, and never written."""

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.objectives.invariant import InvariantRun, InvariantSettings


@pytest.fixture
def make(tiny_base, folder, tmp_path):
    def run(steps=20):
        base, settings = load_base(tiny_base), InvariantSettings(steps=steps, batch_size=4, groups=2)
        return InvariantRun(base, folder_set(base, read_folder(folder)), tmp_path / "out.safetensors", settings, 3)

    return run


def spoil(run, steps):
    """Let the loss of some steps be NaN."""
    good = run.objective.loss
    run.objective.loss = lambda batch: good(batch) * (float("nan") if run.training.step in steps else 1.0)


def finite(parameters):
    return all(parameter.isfinite().all() for parameter in parameters)


def test_a_step_that_is_not_finite_is_left_out_and_the_module_is_finite(make):
    run = make(steps=6)
    spoil(run, {2})
    assert run.train() and run.training.skipped == 1
    assert finite(InvariantModule.load(run.out).parameters())


def test_steps_that_stay_not_finite_are_an_error_and_the_last_good_state_is_kept(make):
    run = make()
    spoil(run, range(7, 100))
    with pytest.raises(DDMError, match="learning rate lower"):
        run.train()
    assert not run.out.exists()
    again = make()
    assert again.resume() and again.training.step >= 7 and finite(again.training.parameters)
    assert torch.isfinite(again.training.loss)
