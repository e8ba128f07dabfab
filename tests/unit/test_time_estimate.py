"""How long a training takes, said before it begins."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.time_estimate import EFFICIENCY, Duration, duration, speed_of
from comfyui_ddm.training.models.memory_estimate import META, Estimate, LiveMemory
from typer.testing import CliRunner

# A row of a step takes 30 operations, an image of ten guided steps 200.
FOUND = Estimate(0, 0, 0, 0, False, forward=10, backward=20)
CONFIG = TrainConfig(folder=Path("images"), out=Path("fair.safetensors"), steps=100, batch_size=4, calibrate=0)


def seconds(images=8, prompts=2, own=0, rows=1, **changes):
    taken = duration(replace(CONFIG, **changes), FOUND, rows, images, prompts, own, 1 / EFFICIENCY)
    return round(taken.steps), round(taken.images)


def test_steps_take_as_long_as_their_rows_and_images_as_long_as_their_sampling():
    assert seconds() == (100 * 4 * 30, 0)
    assert seconds(rows=2) == (100 * 4 * 15, 0)  # the operations were of two rows
    assert seconds(epochs=3) == (3 * 2 * 4 * 30, 0)
    assert seconds(calibrate=1)[1] == 5 * 200
    assert seconds(calibrate=1, calibrate_cfg=1.0)[1] == 5 * 100
    assert seconds(by_prompt=2, prompts=3)[1] == 3 * 2 * 3 * 200
    assert seconds(own=1)[1] == 2 * 20 * 10


def test_operations_are_counted_over_shapes():
    with LiveMemory([]) as memory:
        torch.empty(3, 4, device=META) @ torch.empty(4, 5, device=META)
    assert memory.flops == 2 * 3 * 4 * 5


def test_a_duration_is_said_no_finer_than_it_is_known():
    assert str(Duration(3.0, 0.0)) == "about 3 s"
    assert str(Duration(600.0, 31.0)) == "about 11 min: the steps 10 min, images 30 s"
    assert str(Duration(7200.0, 0.0)) == "about 2.0 h"


def test_a_device_multiplies_at_some_speed():
    assert speed_of(torch.device("cpu"), half=True) > 1e8


@pytest.mark.parametrize("more", [(), ("--progress=json",)])
def test_the_command_says_time_and_memory_and_trains_nothing(tiny_base, folder, tmp_path, more):
    out = tmp_path / "fair.safetensors"
    asked = ["train", folder, "--base", tiny_base, "--out", out, "--device", "cpu", "--estimate", *more]
    done = CliRunner().invoke(app, [*map(str, asked)])
    assert done.exit_code == 0, done.output
    said = [json.loads(line)["note"] for line in done.stdout.splitlines()] if more else done.stderr.splitlines()
    assert [line.split(" about")[0] for line in said][-2:] == ["The training needs", "It takes"]
    assert not [path for path in tmp_path.iterdir() if path.suffix]
