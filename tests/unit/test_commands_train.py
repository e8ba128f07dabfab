"""`ddm train` as a user meets it."""

import json

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.io import save_tensors
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.loop.checkpoint import checkpoint_path
from diffusers import AutoencoderKL
from typer.testing import CliRunner

from .runs import prepare, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("images"))
    (root / "broken.png").write_bytes(b"no")
    with open(root / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write('\n{"file_name": "broken.png"}')
    return root


@pytest.fixture
def ddm(tiny_base, tmp_path):
    def run(*arguments, code=0, base=tiny_base, out="fair.safetensors"):
        given = ["train", "--base", base, "--out", tmp_path / out, "--steps", 3, "--batch-size", 4, "--rank", 2]
        given += ["--calibrate", 0, "--device", "cpu", *arguments]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        result.said = " ".join(result.stderr.split())
        return result

    return run


def test_an_adapter_is_written_and_told_as_json(ddm, folder, tmp_path):
    result = ddm(folder, "--groups", "labels:gender", "--style", tmp_path / "style.safetensors", "--json")
    data = json.loads(result.stdout)
    assert data["adapter"] == str(tmp_path / "fair.safetensors") and data["steps"] == 3 and data["images"] == 8
    assert data["found"] == [{"source": "labels:gender", "shares": {"man": 0.75, "woman": 0.25}}]
    card = load_adapter(tmp_path / "fair.safetensors").card
    assert card.recommended_alpha == data["recommended_alpha"]
    assert load_adapter(data["style"]).card.objective == "style"
    assert "Skipped broken.png" in result.said and "man 75%, woman 25%" in result.said and "Wrote" in result.said


def test_images_of_the_base_itself_will_do(ddm, tmp_path):
    result = ddm("--prior-prompts", "a doctor;a judge", "--prior-count", "3", "--groups", "words:man|woman")
    assert result.stdout == ""
    assert load_adapter(tmp_path / "fair.safetensors").card.training["images"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--style", "style.ckpt"], "Results are .safetensors files, and style.ckpt is none"),
        (["--groups", "gender"], "labels:COLUMN"),
        (["--target", "man=.5,woman=.5"], "needs named groups"),
        (["--groups", "labels:size"], "columns: gender"),
        (["--groups", "labels:gender", "--target", "man=.5,women=.5"], "the classes are 'man', 'woman'"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--device", "abacus"], "no device called"),
    ],
)
def test_mistakes_are_said_in_a_sentence(ddm, folder, tmp_path, arguments, words):
    assert words in ddm(folder, *arguments, code=2).said
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_is_no_safetensors_file_is_refused(ddm, folder):
    assert "Name it fair.safetensors." in ddm(folder, code=2, out="fair.pt").said


def test_adapter_and_style_cannot_be_one_file(ddm, folder, tmp_path):
    style = tmp_path / "sub" / ".." / "fair.safetensors"
    assert "are the same file" in ddm(folder, "--style", style, code=2).said


def test_nothing_to_train_on_is_refused(ddm):
    assert "There is nothing to train on." in ddm(code=2).said


def test_a_base_that_is_none_and_an_empty_folder_are_refused(ddm, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is not a base model" in ddm(folder, code=2, base=empty).said
    assert "no images" in ddm(empty, code=2).said


def test_a_stopped_run_is_gone_on_with_or_thrown_away_but_never_forgotten(ddm, folder, tiny_base, tmp_path):
    out = tmp_path / "fair.safetensors"
    run = prepare(tiny_base, folder, out, changes={"steps": 3})
    asked = iter([False, True])
    assert not run.train(stop=lambda: next(asked))
    refused = ddm(folder, "--groups", "labels:gender", code=2)
    assert "--resume" in refused.said and "--restart" in refused.said and run.checkpoint.exists()
    assert "groups (labels:gender, now discovered)" in ddm(folder, "--resume", code=2).said
    ddm(folder, "--groups", "labels:gender", "--resume")
    resumed = out.read_bytes()
    checkpoint_path(out).write_bytes(b"old")
    ddm(folder, "--groups", "labels:gender", "--restart")
    assert out.read_bytes() == resumed and not run.checkpoint.exists()


@pytest.fixture
def left(folder, tiny_base, tmp_path):
    """The checkpoint of a run that was stopped after a step."""
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"steps": 3})
    asked = iter([False, True])
    assert not run.train(stop=lambda: next(asked))
    return run.checkpoint


@pytest.mark.parametrize(
    "mistake", [("--groups", "gender"), ("--groups", "labels:size"), ("--caption-dropout-rate", 2)]
)
def test_a_command_with_a_mistake_throws_no_checkpoint_away(ddm, folder, left, mistake):
    before = left.read_bytes()
    ddm(folder, *mistake, "--restart", code=2)
    assert left.read_bytes() == before


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_one_of_another_run(ddm, folder, left):
    left.write_bytes(left.read_bytes()[:-100])
    said = ddm(folder, "--groups", "labels:gender", "--resume", "--restart", code=2).said
    assert "is not a complete safetensors file" in said and left.exists()


def test_a_finished_run_is_not_trained_again_when_it_is_to_be_gone_on_with(ddm, folder, left, tmp_path):
    out = tmp_path / "fair.safetensors"
    given = (folder, "--groups", "labels:gender")
    ddm(*given, "--resume")
    before = out.stat().st_mtime_ns
    assert "nothing is trained" in ddm(*given, "--resume").said and out.stat().st_mtime_ns == before
    assert "begins at step 0" in ddm(*given, "--resume", "--seed", 1).said
    assert load_adapter(out).card.training["seed"] == 1


@pytest.mark.parametrize("option", ["--out", "--style"])
def test_a_file_that_is_no_adapter_of_ours_is_replaced_only_if_that_is_said(ddm, folder, tmp_path, option):
    foreign, given = tmp_path / "taken.safetensors", (folder, "--groups", "labels:gender")
    save_tensors(foreign, {"lora_unet_x.lora_up.weight": torch.zeros(1)}, {"ss_network_dim": "8"})
    before = foreign.read_bytes()
    said = ddm(*given, option, foreign, code=2).said
    assert "it is no adapter that ddm wrote" in said and "(--overwrite)" in said and foreign.read_bytes() == before
    ddm(*given, option, foreign, "--overwrite")
    ddm(*given, option, foreign, "--learning-rate", 1e-4)  # one that it wrote itself
    assert load_adapter(foreign).card.training["learning_rate"] == 1e-4


def test_without_memory_the_command_ends_with_a_sentence(ddm, folder, monkeypatch):
    monkeypatch.setattr(AutoencoderKL, "encode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    assert "ddm: The memory of the GPU ran out." in ddm(folder, "--no-cache", code=2).said


def test_resuming_without_a_checkpoint_begins_at_0(ddm, folder):
    assert "training begins at step 0" in ddm(folder, "--groups", "labels:gender", "--resume").said


def test_encoded_images_are_kept_in_the_folder_or_where_one_says_or_nowhere(ddm, tmp_path):
    folder = write_folder(tmp_path / "set")
    given = (folder, "--groups", "labels:gender")
    ddm(*given, "--no-cache")
    assert not (folder / ".ddm_cache").exists()
    ddm(*given, "--cache", tmp_path / "kept")
    assert not (folder / ".ddm_cache").exists() and list((tmp_path / "kept").glob("latents-*.safetensors"))
    plain = (tmp_path / "fair.safetensors").read_bytes()
    for _ in range(2):
        ddm(*given)
        assert list((folder / ".ddm_cache").glob("latents-*.safetensors"))
        assert (tmp_path / "fair.safetensors").read_bytes() == plain
    assert "exclude each other" in ddm(*given, "--cache", tmp_path / "kept", "--no-cache", code=2).said


def test_a_regularisation_set_is_as_large_as_the_images_and_has_neither_labels_nor_trigger(ddm, tmp_path):
    folder, plain = write_folder(tmp_path / "set"), write_folder(tmp_path / "plain", 3)
    found = ddm(folder, "--reg-data", plain, "--trigger", "sks", "--groups", "labels:gender", "--json")
    data = json.loads(found.stdout)
    assert data["images"] == 16 and data["found"][0]["shares"] == {"man": 0.75, "woman": 0.25}
    card = load_adapter(tmp_path / "fair.safetensors").card
    assert sorted(card.concepts) == ["a doctor", "a judge", "sks, a doctor", "sks, a judge"]
    assert "Give a folder of these too" in ddm("--prior-prompts", "a judge", "--reg-data", plain, code=2).said


def test_the_share_without_caption_is_a_setting(ddm, tmp_path):
    folder = write_folder(tmp_path / "set")
    given = (folder, "--groups", "labels:gender")
    ddm(*given, "--caption-dropout-rate", 0.5)
    assert load_adapter(tmp_path / "fair.safetensors").card.training["caption_dropout_rate"] == 0.5


def test_images_can_be_learnt_at_another_size(ddm, folder, tmp_path):
    made = []
    for given in ([], ["--resolution", 48]):
        ddm(folder, "--groups", "labels:gender", "--calibrate", 4, *given)
        made.append(load_adapter(tmp_path / "fair.safetensors"))
    assert [one.card.training["resolution"] for one in made] == [64, 48]
    assert made[0].card.training["fingerprint"] != made[1].card.training["fingerprint"]
    assert "Give 32 or 48 (--resolution)." in ddm(folder, "--resolution", 40, code=2).said


def test_a_step_is_taken_in_as_many_parts_as_one_says(ddm, folder, monkeypatch):
    seen, fetch = [], Latents.fetch
    monkeypatch.setattr(Latents, "fetch", lambda self, rows, flip: seen.append(len(rows)) or fetch(self, rows, flip))
    ddm(folder, "--groups", "labels:gender", "--gradient-accumulation-steps", 2)
    assert seen == [2, 2] * 3
    assert (
        "Take it in fewer parts (--batch-size, --gradient-accumulation-steps)."
        in ddm(folder, "--gradient-accumulation-steps", 5, code=2).said
    )
