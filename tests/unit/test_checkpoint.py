"""Killed during training, a run goes on as if nothing had happened."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors, read_metadata, save_tensors
from comfyui_ddm.training.loop.checkpoint import checkpoint_path, load_checkpoint, remove_strays, save_checkpoint

from .runs import prepare

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
DEPENDS = {"base": "that one", "settings": {"steps": 6}}


def command(base, folder, out, *more):
    options = {"--base": base, "--out": out, "--groups": "labels:gender", "--steps": STEPS, "--batch-size": 4}
    options |= {"--rank": 2, "--calibrate": 0, "--checkpoint-every": 1, "--device": "cpu"}
    given = ["train", folder, *(part for pair in options.items() for part in pair), *more]
    return [sys.executable, "-m", "training", *map(str, given)]


def test_a_run_that_was_killed_goes_on_bit_for_bit(tiny_base, folder, tmp_path):
    out = tmp_path / "killed" / "fair.safetensors"
    checkpoint = checkpoint_path(out)
    process = subprocess.Popen(command(tiny_base, folder, out), cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
        errors = process.communicate()[1].decode("utf-8", "replace")
    assert checkpoint.exists() and not out.exists(), errors
    assert 0 < int(read_metadata(checkpoint)["ddm.step"]) < STEPS
    # Killed in the middle of a write, it would leave this.
    stray = checkpoint.with_name(f".{checkpoint.name}.abc.tmp")
    stray.write_bytes(b"half")
    subprocess.run(command(tiny_base, folder, out, "--resume"), cwd=ROOT, check=True, capture_output=True)
    assert {path.name for path in out.parent.iterdir()} == {out.name, "fair.md"}
    whole = prepare(tiny_base, folder, tmp_path / "whole" / "fair.safetensors", changes={"steps": STEPS})
    assert whole.train()
    assert out.read_bytes() == whole.out.read_bytes()


def test_the_checkpoint_lies_beside_the_adapter():
    assert checkpoint_path(Path("a", "fair.v2.safetensors")) == Path("a", "fair.v2.checkpoint.safetensors")


def test_what_was_half_written_is_removed_and_nothing_else(tmp_path):
    ours = tmp_path / "fair [1].safetensors"
    stray = tmp_path / ".fair [1].safetensors.x7.tmp"
    others = [ours, tmp_path / ".fair 1.safetensors.x7.tmp", tmp_path / "fair [1].tmp"]
    for path in (stray, *others):
        path.write_bytes(b"x")
    remove_strays(ours, tmp_path / "nowhere" / "style.safetensors")
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.fixture
def run(tiny_base, folder, tmp_path):
    return prepare(tiny_base, folder, tmp_path / "fair.safetensors")


def test_weights_moments_loss_and_step_come_back(run, tiny_base, folder, tmp_path):
    for _ in range(2):
        run.training.advance()
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, run.training, DEPENDS)
    other = prepare(tiny_base, folder, tmp_path / "other.safetensors").training
    load_checkpoint(path, other, DEPENDS)
    assert other.step == 2 and torch.equal(other.loss, run.training.loss)
    for mine, theirs in zip(run.training.parameters, other.parameters, strict=True):
        assert torch.equal(mine, theirs)
        before, after = run.training.optimizer.state[mine], other.optimizer.state[theirs]
        assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_a_truncated_checkpoint_is_refused(run, tmp_path):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, run.training, DEPENDS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DDMError, match=r"not a complete safetensors file.* remove it to train anew"):
        load_checkpoint(path, run.training, DEPENDS)


def test_a_file_that_is_no_checkpoint_is_refused(run, tmp_path):
    save_tensors(tmp_path / "state.safetensors", {"a": torch.zeros(1)}, {"ddm.depends": "{}"})
    with pytest.raises(DDMError, match="is no checkpoint of a training"):
        load_checkpoint(tmp_path / "state.safetensors", run.training, DEPENDS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, state: tensors.pop("00000.weight"),
        lambda tensors, state: tensors.update({"00000.weight": torch.zeros(1)}),  # would be broadcast
        lambda tensors, state: tensors["00001.weight"].fill_(torch.nan),
        lambda tensors, state: tensors.update({"99999.exp_avg": torch.zeros(1)}),
        lambda tensors, state: tensors.update({"stray": torch.zeros(1)}),
        lambda tensors, state: state.pop("groups"),
        lambda tensors, state: state.update(groups=[{"params": [0]}]),
        lambda tensors, state: state.update(step="x"),
        lambda tensors, state: state.update(step=float("inf")),
        lambda tensors, state: state.update(numbers=[]),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_run_is_refused_in_a_sentence(run, tmp_path, spoil):
    run.training.advance()
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, run.training, DEPENDS)
    tensors, metadata = load_tensors(path)
    state = json.loads(metadata["ddm.state"])
    spoil(tensors, state)
    save_tensors(path, tensors, metadata | {"ddm.state": json.dumps(state)})
    with pytest.raises(DDMError, match=r"is broken|is not finite"):
        load_checkpoint(path, run.training, DEPENDS)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(run, tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, run.training, {"base": "old"})
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DDMError, match="No space left on device"):
        save_checkpoint(path, run.training, {"base": "new"})
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == [path.name]
