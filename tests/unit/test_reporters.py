"""What the trainer says to the program that started it, and how that program stops it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comfyui_ddm import install
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.reporters import JSONReporter
from comfyui_ddm.training.loop.checkpoint import checkpoint_path
from comfyui_ddm.training.sampling.previews import Previews
from PIL import Image
from typer.testing import CliRunner

from .runs import prepare, write_folder, write_tones

ROOT = Path(install.__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


@pytest.fixture
def arguments(tiny_base, folder, tmp_path):
    def given(*more, images=folder, steps=3, calibrate=0):
        fixed = [images, "--base", tiny_base, "--out", tmp_path / "fair.safetensors", "--groups", "labels:gender"]
        fixed += ["--steps", steps, "--batch-size", 4, "--rank", 2, "--calibrate", calibrate, "--device", "cpu"]
        return ["train", *map(str, fixed), "--progress", "json", *map(str, more)]

    return given


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_every_phase_is_a_line_of_json(arguments, tmp_path):
    done = CliRunner().invoke(app, arguments("--sample-dir", tmp_path / "shown", "--sample-every", 2, calibrate=4))
    assert done.exit_code == 0, done.output
    said = lines(done.stdout)
    phases = list(dict.fromkeys(line["phase"] for line in said if "phase" in line))
    assert phases == ["cache", "training", "calibration"]
    (last,) = [line for line in said if line.get("phase") == "training" and line["done"] == 3]
    assert last["total"] == 3 and last["loss"] > 0 and 0 < last["ess"] <= 1
    (found,) = [line["groups"] for line in said if "groups" in line]
    assert found[0]["name"] == "labels:gender"
    assert found[0]["groups"][0] == {"name": "man", "share": 0.75, "target": 0.5}
    shown = [line for line in said if "preview" in line]
    assert [line["step"] for line in shown] == [2, 3]
    assert all(Path(line["preview"]).read_bytes().startswith(b"\x89PNG") for line in shown)
    assert said[-1]["result"]["steps"] == 3 and any("Wrote" in line.get("note", "") for line in said)


def test_of_more_than_two_groups_the_bases_own_images_are_a_phase(arguments, tmp_path):
    images = write_folder(tmp_path / "images")
    write_tones(images)
    done = CliRunner().invoke(app, arguments("--groups", "labels:tone", images=images, calibrate=4))
    assert done.exit_code == 0, done.output
    phases = list(dict.fromkeys(line["phase"] for line in lines(done.stdout) if "phase" in line))
    assert phases == ["cache", "base", "training", "calibration"]


def test_a_line_says_the_time_that_is_left_in_this_process(capsys):
    with JSONReporter().images("cache") as report:
        report(100, 200)
        time.sleep(0.3)
        report(150, 200)
        report(151, 200)
        report(200, 200)
    said = lines(capsys.readouterr().out)
    assert [line["done"] for line in said] == [100, 150, 200]
    assert said[0]["seconds_left"] is None and said[1]["seconds_left"] > 0 and said[2]["seconds_left"] == 0


def test_previews_change_nothing_of_the_training(tiny_base, folder, tmp_path):
    plain = prepare(tiny_base, folder, tmp_path / "plain.safetensors")
    assert plain.train()
    run = prepare(tiny_base, folder, tmp_path / "shown" / "plain.safetensors")
    files = []
    previews = Previews(run.base, run.images.captions, tmp_path / "previews", 2, lambda file, step: files.append(file))
    assert run.train(previews=previews)
    assert run.out.read_bytes() == plain.out.read_bytes()
    assert [file.name for file in files] == ["step_000002.png", "step_000004.png"]
    assert previews.prompts == ["a doctor"] * 3 + ["a judge"] * 3
    with Image.open(files[0]) as first, Image.open(files[1]) as last:
        assert first.size == last.size and first.tobytes() != last.tobytes()


def test_a_preview_is_given_up_when_the_run_is_stopped(tiny_base, folder, tmp_path):
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors")
    previews = Previews(run.base, run.images.captions, tmp_path / "previews", 1, lambda *_: None)
    previews.make(1, lambda: True)
    assert not previews.folder.exists()


def test_an_adapter_is_not_replaced_without_a_word(arguments, tmp_path):
    run = CliRunner()
    out = tmp_path / "fair.safetensors"
    assert run.invoke(app, arguments("--no-overwrite")).exit_code == 0
    before = out.stat().st_mtime_ns
    again = run.invoke(app, arguments("--no-overwrite", "--sample-dir", tmp_path / "shown"))
    assert again.exit_code == 0 and "nothing is trained" in again.stdout
    assert (tmp_path / "shown" / "step_000003.png").exists()
    other = run.invoke(app, arguments("--no-overwrite", "--seed", 1))
    assert other.exit_code == 2 and "Choose another name, or allow to overwrite it." in " ".join(other.stderr.split())
    assert out.stat().st_mtime_ns == before
    assert run.invoke(app, arguments("--seed", 1)).exit_code == 0
    assert load_adapter(out).card.training["seed"] == 1


def test_a_checkpoint_of_another_run_is_thrown_away_only_when_that_is_asked_for(arguments, tiny_base, folder, tmp_path):
    kept = tmp_path / "elsewhere" / "state.safetensors"
    asked = iter([False, True])
    stopped = prepare(tiny_base, folder, tmp_path / "fair.safetensors", checkpoint=kept, changes={"steps": 3})
    assert not stopped.train(stop=lambda: next(asked)) and kept.exists()
    assert not checkpoint_path(stopped.out).exists()
    run = CliRunner()
    refused = run.invoke(app, arguments("--checkpoint", kept, "--resume", "--seed", 1))
    assert refused.exit_code == 2 and kept.exists()
    done = run.invoke(app, arguments("--checkpoint", kept, "--resume", "--restart", "--seed", 1))
    assert done.exit_code == 0 and "was thrown away" in done.stdout and not kept.exists()


def started(arguments, **environment):
    """A trainer in a process of its own, by the path of its file, with its standard input open."""
    command = [sys.executable, str(ROOT / "training" / "__main__.py"), *arguments, "--stdin-stops"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, env=ENVIRONMENT | environment, text=True, encoding="utf-8")


def test_a_trainer_ends_well_while_its_standard_input_stays_open(arguments, tmp_path):
    with started(arguments(), DDM_WARM="") as process:  # a Python of its own, which imports all itself
        assert "result" in lines(process.stdout.read())[-1]
        assert (process.wait(120), "Fatal" in process.stderr.read()) == (0, False)


@pytest.fixture
def child(arguments):
    """A trainer of many steps, once it is training."""
    with started(arguments(steps=100_000)) as process:
        try:
            for line in process.stdout:
                if json.loads(line).get("phase") == "training":
                    break
            yield process
        finally:
            process.kill()


def test_a_trainer_stops_and_keeps_its_state_when_its_standard_input_is_closed(child, tmp_path):
    child.stdin.close()
    assert child.wait(120) == 130
    assert (tmp_path / "fair.checkpoint.safetensors").exists()
    assert "the state is kept" in child.stdout.read()


def test_a_trainer_whose_parent_is_gone_keeps_its_state_though_nobody_listens(child, tmp_path):
    child.stdout.close()
    child.stderr.close()
    child.stdin.close()
    assert child.wait(120) != 0
    assert (tmp_path / "fair.checkpoint.safetensors").exists()
