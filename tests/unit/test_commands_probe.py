"""`ddm probe` and the CLIP features it can read."""

import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.models.clip import ClipImages
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Sixteen red and blue images in four places, one of them without a colour, and a broken one."""
    root = tmp_path_factory.mktemp("set")
    rows = []
    for index in range(16):
        colour = [(200, 30, 30), (30, 30, 200)][index % 2]
        Image.new("RGB", (16, 16), colour).save(root / f"{index:02d}.png")
        row = {"file_name": f"{index:02d}.png", "colour": ["red", "blue"][index % 2], "place": "abcd"[index // 4]}
        rows.append(row)
    del rows[3]["colour"]
    (root / "broken.png").write_bytes(b"no")
    rows.append({"file_name": "broken.png", "colour": "red", "place": "a"})
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=8,
            image_size=32,
            patch_size=16,
        )
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["probe", *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def test_a_probe_is_trained_and_its_figures_are_one_json_object(labelled, tmp_path):
    out = tmp_path / "colour.safetensors"
    result = run(labelled, "--labels", "colour", "--out", out, "--steps", 10, "--device", "cpu", "--json")
    facts = json.loads(result.stdout)
    assert facts["names"] == ["blue", "red"] and facts["images"] == 15
    assert [one["path"].rsplit("/", 1)[-1] for one in facts["skipped"]] == ["broken.png"]
    assert "Without colour, so left out: 1 of 16" in result.stderr and "broken.png" in result.stderr
    assert Probe.load(out).accuracy == facts["accuracy"]


def test_a_person_reads_how_often_it_is_right(labelled, tmp_path):
    out = tmp_path / "colour.safetensors"
    options = ["--labels", "colour", "--out", out, "--steps", 10, "--hold-out", "place", "--device", "cpu"]
    result = run(labelled, *options)
    assert "held-out images, of values of place that it had not seen" in result.stdout
    assert "blue: " in result.stdout and str(out) in result.stdout.replace("\n", "")


def test_mistakes_are_said_in_a_sentence(labelled, tmp_path):
    out = tmp_path / "p.safetensors"
    assert "columns: colour, place" in run(labelled, "--labels", "age", "--out", out, code=2).stderr
    assert "Name it p.safetensors" in run(labelled, "--labels", "colour", "--out", tmp_path / "p.pt", code=2).stderr
    assert "no CLIP model" in run(labelled, "--labels", "colour", "--clip", tmp_path, "--out", out, code=2).stderr
    assert not out.exists()


def test_a_linear_probe_over_clip_features_needs_that_clip_again(labelled, clip, tmp_path):
    out = tmp_path / "colour.safetensors"
    facts = json.loads(
        run(labelled, "--labels", "colour", "--clip", clip, "--out", out, "--device", "cpu", "--json").stdout
    )
    assert facts["accuracy"] == 1.0
    images = np.zeros((3, 20, 24, 3), dtype=np.uint8)
    images[..., 0] = 200
    loaded = Probe.load(out, extractor=ClipImages(clip))
    assert loaded.predict(images).argmax(axis=1).tolist() == [1, 1, 1]
    with pytest.raises(DDMError, match="tiny-clip"):
        Probe.load(out).predict(images)


def test_gradients_flow_through_clip_to_the_images(clip):
    extractor = ClipImages(clip)
    images = np.random.default_rng(0).integers(0, 255, (2, extractor.size, extractor.size, 3), dtype=np.uint8)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    embedded = extractor.embed(tensors)
    assert np.allclose(embedded.detach().numpy(), extractor(images), atol=1e-5)
    embedded[:, 0].sum().backward()
    assert tensors.grad.abs().sum() > 0


def test_a_report_reads_a_clip_probe_with_that_clip_and_says_which_one_is_missing(labelled, clip, tmp_path):
    probe = tmp_path / "colour.safetensors"
    run(labelled, "--labels", "colour", "--clip", clip, "--out", probe, "--device", "cpu")
    asked = ["report", labelled, "--probe", probe, "--out", tmp_path / "report.html", "--json"]
    told = CliRunner().invoke(app, [*map(str, asked), "--clip", str(clip)])
    assert told.exit_code == 0, told.output
    assert {"red", "blue"} <= set(json.dumps(json.loads(told.stdout)).replace('"', " ").split())
    missing = CliRunner().invoke(app, [*map(str, asked)])
    assert missing.exit_code == 2 and "tiny-clip" in missing.stderr and "--clip" in missing.stderr


def test_clip_features_have_length_1_and_do_not_depend_on_the_batch(clip):
    images = np.random.default_rng(0).integers(0, 255, (35, 32, 32, 3), dtype=np.uint8)
    features = ClipImages(clip)(images)
    assert features.shape == (35, 8)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.allclose(ClipImages(clip)(images[30:]), features[30:], atol=1e-5)
    assert ClipImages(clip)(images[:0]).shape == (0, 8)


def test_a_clip_folder_that_is_broken_is_an_error_in_words(clip, tmp_path):
    (tmp_path / "config.json").write_text((clip / "config.json").read_text())
    with pytest.raises(DDMError, match="cannot be opened as a CLIP image encoder"):
        ClipImages(tmp_path)
    weights = (clip / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DDMError, match="cannot be opened as a CLIP image encoder"):
        ClipImages(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(DDMError, match="image_mean"):
        ClipImages(tmp_path)


def test_a_report_needs_a_probe_or_words(labelled, tmp_path):
    asked = ["report", str(labelled), "--out", str(tmp_path / "report.html")]
    for more, said in (([], "Give a probe, or words"), (["--words", "man"], "names no two different groups")):
        result = CliRunner().invoke(app, [*asked, *more])
        assert result.exit_code != 0
        assert said in " ".join(f"{result.output} {result.exception}".split())
