"""The memory of a training is counted from shapes, before anything is loaded."""

import pytest
import torch
from comfyui_ddm.training.models.diffusers_folder import check_folder, family_of, read_config
from comfyui_ddm.training.models.memory_estimate import META, LiveMemory, estimate

from .transformers import MAKERS, make_flow


@pytest.fixture(scope="module", params=list(MAKERS))
def model(request, tmp_path_factory):
    folder = make_flow(tmp_path_factory.mktemp("memory") / request.param, request.param)
    config = {part: read_config(folder, part) for part in check_folder(folder)}
    return family_of(config), config


def test_what_lives_at_a_time_is_counted_and_what_is_gone_is_not():
    with LiveMemory([]) as memory:
        one = torch.empty(250, device=META)
        one = one + one
        del one
        torch.empty(100, device=META)
    assert memory.peak == 2000 and memory.now == 0


def test_saving_saves(model):
    family, config = model
    plain = estimate(family, config, dtype=torch.float32)
    assert min(plain.base, plain.lora, plain.activations, plain.encoders) > 0
    assert plain.training == plain.base + plain.lora + plain.activations + plain.encoders
    assert estimate(family, config, images=2, dtype=torch.float32).activations > 1.5 * plain.activations
    assert estimate(family, config, rank=16, dtype=torch.float32).lora == 2 * plain.lora
    assert estimate(family, config, checkpointing=True, dtype=torch.float32).activations < plain.activations
    quantized = estimate(family, config, quantize="int8", dtype=torch.float32)
    offloaded = estimate(family, config, quantize="int8", offload=True, resting=True, dtype=torch.float32)
    assert offloaded.base < quantized.base < plain.base
    assert offloaded.training == offloaded.base + offloaded.lora + offloaded.activations
    assert str(plain).startswith("about 0.0 GB of the GPU's memory (base 0.0")
