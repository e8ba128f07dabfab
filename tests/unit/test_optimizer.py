"""Optimizers by name, those that are not installed, and states that come back exactly."""

import sys
from types import ModuleType

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.loop.optimizer import build_optimizer

from .runs import prepare, write_folder


def test_adamw_is_fused_where_the_device_can():
    optimizer = build_optimizer("adamw", [torch.nn.Parameter(torch.zeros(2))], 1e-3)
    assert optimizer.defaults["fused"] and optimizer.defaults["weight_decay"] == 0


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimizer_that_is_not_installed_is_said_with_its_package(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DDMError, match=f"pip install {package}"):
        build_optimizer(name, [torch.nn.Parameter(torch.zeros(2))], 1e-3)


def test_adamw8bit_is_taken_from_bitsandbytes(monkeypatch):
    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    module.AdamW8bit = torch.optim.AdamW
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    assert build_optimizer("adamw8bit", [torch.nn.Parameter(torch.zeros(2))], 3e-4).defaults["lr"] == 3e-4


def test_prodigy_goes_on_exactly_where_it_was(tiny_base, tmp_path):
    pytest.importorskip("prodigyopt")
    folder = write_folder(tmp_path / "images")
    changes = {"optimizer": "prodigy", "learning_rate": 1.0, "steps": 6}

    def run():
        return prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes=changes)

    whole = run()
    assert whole.train()
    expected, asked = whole.out.read_bytes(), iter([False] * 3 + [True])
    assert not run().train(stop=lambda: next(asked))
    again = run()
    assert again.resume() and again.training.step == 3 and again.train()
    assert again.out.read_bytes() == expected
