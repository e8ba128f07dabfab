"""`ddm sample` and the command line around it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, content_hash, save_adapter
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import add_lora, export_lora, lora_parameters
from comfyui_ddm.training.sampling.prompts import read_prompts, slugs
from PIL import Image
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory) -> Path:
    base = load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    with torch.no_grad():
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.add_(0.2)
    path = tmp_path_factory.mktemp("adapter") / "fair.safetensors"
    save_adapter(path, export_lora(base.denoiser, "debias"), AdapterCard(base_hash=base.hash))
    return path


@pytest.fixture
def ddm(tiny_base, tmp_path):
    def run(*arguments: object, out: str = "out", code: int = 0):
        given = ["sample", "--base", tiny_base, "--out", tmp_path / out, "--steps", 2, "--device", "cpu", *arguments]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        return result

    return run


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_images_lie_by_alpha_prompt_and_seed(ddm, adapter, tiny_base, tmp_path):
    result = ddm(
        "--adapter",
        adapter,
        "--alpha",
        "0,.5",
        "--prompts",
        "a firefighter;a doctor",
        "--per-prompt",
        2,
        "--seed",
        7,
        "--json",
    )
    facts = json.loads(result.stdout)
    assert (facts["made"], facts["kept"], facts["alphas"]) == (8, 0, [0.0, 0.5])
    names = ["a-firefighter/7.png", "a-firefighter/8.png", "a-doctor/9.png", "a-doctor/10.png"]
    expected = [f"alpha_{alpha}/{name}" for alpha in ("0", "0.5") for name in names]
    assert [row["file_name"] for row in rows(tmp_path / "out")] == expected
    assert files(tmp_path / "out") == sorted([*expected, "metadata.jsonl"])
    row = rows(tmp_path / "out")[-1]
    assert row["prompt"] == "a doctor"
    assert (row["seed"], row["alpha"], row["cfg"], row["steps"]) == (10, 0.5, 3.0, 2)
    assert row["base"] == load_base(tiny_base).hash
    assert row["adapter"] == content_hash(adapter)
    assert rows(tmp_path / "out")[0]["adapter"] is None
    assert Image.open(tmp_path / "out" / expected[0]).size == (64, 64)


def test_alpha_0_is_the_base_bit_for_bit(ddm, adapter, tmp_path):
    ddm("--prompts", "a doctor", "--per-prompt", 2, out="plain")
    ddm("--prompts", "a doctor", "--per-prompt", 2, "--adapter", adapter, "--alpha", "0,1", out="fair")
    for seed in (0, 1):
        plain, same, other = (
            np.asarray(Image.open(tmp_path / name / "a-doctor" / f"{seed}.png"))
            for name in ("plain/alpha_0", "fair/alpha_0", "fair/alpha_1")
        )
        assert np.array_equal(plain, same)
        assert not np.array_equal(plain, other)


def test_images_that_are_there_are_kept_and_missing_ones_made(ddm, adapter, tmp_path):
    arguments = ("--adapter", adapter, "--alpha", "0,1", "--prompts", "a doctor", "--per-prompt", 2, "--json")
    ddm(*arguments)
    out = tmp_path / "out"
    before = (out / "metadata.jsonl").read_bytes()
    lost = out / "alpha_1" / "a-doctor" / "1.png"
    image = lost.read_bytes()
    lost.unlink()
    with open(out / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write('{"file_name": "alpha_')
    assert json.loads(ddm(*arguments).stdout)["made"] == 1
    assert lost.read_bytes() == image
    assert (out / "metadata.jsonl").read_bytes() == before
    assert json.loads(ddm(*arguments, "--alpha", "0,.5,1").stdout)["kept"] == 4
    assert len(rows(out)) == 6


def test_a_stopped_run_can_be_taken_up(ddm, tmp_path, monkeypatch):
    from comfyui_ddm.training.sampling import image_writer

    written = []
    write = image_writer.write_bytes

    def stop(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    monkeypatch.setattr(image_writer, "write_bytes", stop)
    arguments = ("--prompts", "a doctor", "--per-prompt", 4, "--batch-size", 2, "--json")
    assert "Stopped." in ddm(*arguments, code=130).stderr
    monkeypatch.undo()
    assert len(rows(tmp_path / "out")) == 2
    assert json.loads(ddm(*arguments).stdout)["made"] == 2


def test_images_of_other_settings_are_not_mixed_in(ddm, adapter, tmp_path):
    ddm("--prompts", "a doctor", "--per-prompt", 1)
    result = ddm("--prompts", "a doctor", "--per-prompt", 1, "--steps", 3, code=2)
    assert "other settings" in result.stderr
    assert "alpha_0/a-doctor/0.png" in result.stderr
    ddm("--prompts", "a pilot", "--per-prompt", 1, "--steps", 3, "--overwrite")
    assert files(tmp_path / "out") == ["alpha_0/a-pilot/0.png", "metadata.jsonl"]


def test_overwriting_never_leaves_the_folder(ddm, tmp_path):
    (tmp_path / "precious.png").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metadata.jsonl").write_text('{"file_name": "../precious.png"}\n', encoding="utf-8")
    ddm("--prompts", "a doctor", "--per-prompt", 1, "--overwrite")
    assert (tmp_path / "precious.png").read_bytes() == b"precious"


def test_a_style_acts_beside_the_adapter(ddm, adapter, tmp_path):
    ddm("--prompts", "a doctor", "--per-prompt", 1, "--style", adapter, out="styled")
    ddm("--prompts", "a doctor", "--per-prompt", 1, "--adapter", adapter, "--alpha", "1", out="adapted")
    ddm("--prompts", "a doctor", "--per-prompt", 1, out="plain")
    styled, adapted, plain = (
        np.asarray(Image.open(tmp_path / name / "a-doctor" / "0.png"))
        for name in ("styled/alpha_0", "adapted/alpha_1", "plain/alpha_0")
    )
    assert np.array_equal(styled, adapted)
    assert not np.array_equal(styled, plain)
    assert rows(tmp_path / "styled")[0]["style"] == content_hash(adapter)


def test_an_adapter_of_another_base_warns_or_is_refused(ddm, adapter, tmp_path):
    from comfyui_ddm.debias.core.io import load_tensors, save_tensors

    tensors, metadata = load_tensors(adapter)
    save_tensors(tmp_path / "other.safetensors", tensors, metadata | {"ddm.base_hash": '"00"'})
    result = ddm("--prompts", "a doctor", "--per-prompt", 1, "--adapter", tmp_path / "other.safetensors", "--alpha", 1)
    assert "Warning: The adapter was trained on another base" in result.stderr
    name = "lora_unet_mid_block_resnets_0_time_emb_proj"
    wide = {f"{name}.lora_down.weight": torch.ones(2, 99), f"{name}.lora_up.weight": torch.ones(32, 2)}
    save_tensors(tmp_path / "wide.safetensors", tensors | wide)
    result = ddm("--prompts", "a doctor", "--adapter", tmp_path / "wide.safetensors", code=2)
    assert "made for another base model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", " ; "], "There is no prompt"),
        (["--prompts", "nowhere.txt"], "no file nowhere.txt"),
        (["--prompts", "a doctor", "--alpha", "one"], "--alpha is 'one'"),
        (["--prompts", "a doctor", "--alpha", "0,nan"], "--alpha is '0,nan'"),
        (["--prompts", "a doctor", "--alpha", "1"], "needs an adapter"),
        (["--prompts", "a doctor", "--adapter", "fair.pt", "--alpha", "1"], "pickle"),
        (["--prompts", "a doctor", "--adapter", "nowhere.safetensors"], "no file"),
        (["--prompts", "a doctor", "--resolution", "60"], "multiple of 8"),
        (["--prompts", "a doctor", "--base", "/"], "not a base model"),
    ],
)
def test_mistakes_are_sentences(ddm, arguments, message):
    result = ddm(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_that_is_a_file_is_refused(ddm, tmp_path):
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert "is a file" in ddm("--prompts", "a doctor", code=2).stderr


def test_prompts_come_from_a_list_or_a_file(tmp_path):
    assert read_prompts("a doctor; a pilot ;;a doctor") == ["a doctor", "a pilot"]
    path = tmp_path / "roles.txt"
    path.write_bytes("\ufeff# roles\na doctor; smiling\r\n\r\n  a pilot\n".encode())
    assert read_prompts(str(path)) == ["a doctor; smiling", "a pilot"]
    assert len(read_prompts(";".join(f"prompt number {number}" for number in range(999)))) == 999


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_file_of_prompts_in_another_encoding_is_read_as_it_was_meant(tmp_path, encoding):
    path = tmp_path / "roles.txt"
    path.write_bytes("ein Förster".encode(encoding))
    assert read_prompts(str(path)) == ["ein Förster"]


def test_folder_names_are_safe_and_different():
    prompts = ["A doctor!", "a doctor", "../..", "医生", "a" * 200, "a" * 201, "a_b"]
    names = list(slugs(prompts).values())
    assert names[:4] == ["a-doctor", "a-doctor-2", "prompt", "医生"]
    assert len({name.lower() for name in names}) == len(prompts)
    assert all("/" not in name and "." not in name and len(name) <= 64 for name in names)


def test_help_answers_quickly_without_torch():
    code = (
        "import sys, runpy; sys.argv = ['ddm', '--help']\n"
        "try: runpy.run_module('training', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "sample" in result.stdout
    # A second on an idle machine; tests may share theirs with others.
    assert time.monotonic() - start < 20


def test_the_module_runs_from_the_repositorys_root():
    environment = os.environ | {"COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-m", "training", "sample", "--prompts", ";", "--out", "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("ddm: There is no prompt")
