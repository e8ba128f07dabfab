"""`ddm align` as a user meets it."""

import json

import pytest
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, load_adapter
from comfyui_ddm.debias.core.io import read_metadata
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.loop.checkpoint import checkpoint_path
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from typer.testing import CliRunner

from .test_alignment import probe


@pytest.fixture
def ddm(tiny_base, tmp_path):
    probe().save(tmp_path / "gender.safetensors")
    probe(("dark", "light"), "tone", seed=1).save(tmp_path / "tone.safetensors")

    def run(*arguments, command="align", code=0):
        given = [command, "--base", tiny_base, "--device", "cpu", *arguments]
        if command == "align":
            given += ["--probe", tmp_path / "gender.safetensors", "--prompts", "a cook;a pilot"]
            given += ["--batch-size", 2, "--rank", 2, "--sampling", 1, "--through", 1]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        result.said = " ".join(result.stderr.split())
        return result

    return run


def test_an_adapter_for_two_attributes_is_written_sampled_and_told_as_json(ddm, tmp_path):
    out = tmp_path / "fair.safetensors"
    options = ["--probe", tmp_path / "tone.safetensors", "--target", "light=.25,dark=.75", "--keep"]
    options += [tmp_path / "tone.safetensors", "--steps", 1, "--train", "both", "--sample-dir", tmp_path / "previews"]
    result = ddm("--out", out, *options, "--json")
    assert [path.name for path in (tmp_path / "previews").iterdir()] == ["step_000001.png"]
    assert json.loads(result.stdout)["targets"] == {"tone": "dark=0.75,light=0.25", "gender": "man=0.5,woman=0.5"}
    adapter = load_adapter(out)
    assert adapter.card.concepts == ["a cook", "a pilot"]
    assert {name.split("_")[1] for name in adapter.modules} == {"unet", "te"}
    ddm("--adapter", out, "--prompts", "a", "--steps", 1, "--out", tmp_path / "images", command="sample")
    assert len(list((tmp_path / "images").rglob("*.png"))) == 12


def test_each_step_is_a_line_of_json(ddm, tmp_path):
    said = ddm("--out", tmp_path / "fair.safetensors", "--steps", 2, "--progress", "json").stdout.splitlines()
    steps = [line for line in map(json.loads, said) if line.get("phase") == "training"]
    assert (steps[-1]["done"], steps[-1]["total"]) == (2, 2) and steps[-1]["loss"] > 0
    assert json.loads(said[-1])["result"]["steps"] == 2


def test_an_embedding_is_written_and_sampled(ddm, tmp_path):
    out = tmp_path / "fair.safetensors"
    result = ddm("--out", out, "--train", "tokens", "--tokens", 2, "--steps", 1)
    assert "embedding:fair" in result.said
    assert len(SoftTokens.load(out)[0]) == 2
    sample = ["--adapter", out, "--prompts", "a", "--steps", 1, "--out", tmp_path / "images"]
    ddm(*sample, "--alpha", "0,1", command="sample")
    assert "0 or 1" in ddm(*sample, "--alpha", "0.5", command="sample", code=2).said


@pytest.mark.parametrize(
    ("options", "weight"),
    [([], 1.0), (["--keep", "tone.safetensors"], 8.0), (["--train", "tokens"], 8.0), (["--keep-weight", 3], 3.0)],
)
def test_a_lora_holds_latents_less_than_what_it_was_told_to_keep(ddm, tmp_path, options, weight):
    out = tmp_path / "fair.safetensors"
    ddm("--out", out, "--steps", 1, *(tmp_path / one if one == "tone.safetensors" else one for one in options))
    card = AdapterCard.from_metadata(read_metadata(out))
    assert card.training["keep"] == weight


def test_a_stopped_run_must_be_resumed_or_thrown_away(ddm, tmp_path):
    out = tmp_path / "fair.safetensors"
    checkpoint_path(out).write_bytes(b"a state")
    assert "--resume" in ddm("--out", out, "--steps", 1, code=2).said
    ddm("--out", out, "--steps", 1, "--restart")
    assert out.exists() and not checkpoint_path(out).exists()


def test_mistakes_are_said_before_anything_is_made(ddm, tmp_path):
    out = tmp_path / "fair.safetensors"
    assert "Choose among" in ddm("--out", out, "--train", "vae", code=2).said
    assert ".safetensors" in ddm("--out", tmp_path / "fair.bin", code=2).said
    assert "classes are" in ddm("--out", out, "--target", "cat=1,dog=0", code=2).said
    assert not out.exists()
