"""Compiled blocks learn the same, LoRAs and strengths included."""

import shutil

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.loop.compilation import _group_norm, compile_norms

from .runs import prepare, write_folder


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling on a CPU needs g++")
def test_compiled_blocks_learn_what_plain_ones_learn(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images")
    losses = []
    for compiled in (False, True):
        training = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"steps": 9, "keep": 0.5}).training
        if compiled:
            compile_norms(training.base.unet)
        for _ in range(3):
            training.advance()
        losses.append(training.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_the_group_norm_that_is_compiled_is_that_of_torch_and_keeps_the_order_of_its_input():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, 5, 7, generator=random).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64, generator=random)
    made = _group_norm(x, 8, weight, bias, 1e-5)
    torch.testing.assert_close(made, torch.nn.functional.group_norm(x, 8, weight, bias, 1e-5))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_without_a_compiler_a_sentence_says_what_to_install(monkeypatch):
    def refuse(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(DDMError, match=r"no C\+\+ compiler.*g\+\+.*--compile"):
        compile_norms(torch.nn.Linear(1, 1))
