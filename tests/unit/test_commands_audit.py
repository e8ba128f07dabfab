"""`ddm audit` from end to end, with a random base."""

import json

import numpy as np
import pytest
from comfyui_ddm.training.commands.app import app
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen images of two subjects, mostly reddish, and a broken one."""
    root = tmp_path_factory.mktemp("my images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        colour = "blue" if i % 8 == 0 else "red"
        pixels = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        pixels[..., 2 if colour == "blue" else 0] += 180
        Image.fromarray(pixels).save(root / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"a {('cup', 'plate')[i % 2]}", "colour": colour})
    rows[1].pop("text")
    (root / "broken.png").write_bytes(b"no")
    rows.append({"file_name": "broken.png"})
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return root


@pytest.fixture
def ddm(folder, tiny_base, tmp_path):
    def run(*arguments, code=0, base=tiny_base):
        given = ["audit", folder, "--base", base, "--out", tmp_path / "audit.html", "--device", "cpu", *arguments]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        return result

    return run


def test_labels_are_audited_without_opening_a_base(ddm, tmp_path):
    result = ddm("--groups", "labels:colour", "--caption", "a plate", base=tmp_path / "no base")
    assert "“red” is 88% (64–96%) of 16 images; the target is 50%." in result.stdout
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "What is in my images" in page and "broken.png" in page
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert data["source"] == "labels:colour" and data["images"] == 16 and data["captions"] == 2
    assert data["skipped"][0]["file"] == "broken.png"


def test_a_target_can_be_given(ddm):
    data = json.loads(ddm("--groups", "labels:colour", "--target", "red=.8,blue=.2", "--json").stdout)
    assert [group["target"] for group in data["attributes"][0]["groups"]] == [0.2, 0.8]


@pytest.mark.parametrize(("groups", "name"), [("words:red|blue", "red or blue"), ("discovered", "discovered")])
def test_json_on_stdout_is_the_audit_and_nothing_else(ddm, tmp_path, groups, name):
    data = json.loads(ddm("--groups", groups, "--json").stdout)
    assert [one["name"] for one in data["attributes"]] == [name]
    assert data["files"] == {"html": str(tmp_path / "audit.html"), "json": str(tmp_path / "audit.json")}
    assert np.isfinite(data["recommended"])


def test_auto_lists_what_it_tried(ddm, tmp_path):
    data = json.loads(ddm("--groups", "auto", "--json").stdout)
    assert data["source"] == "auto"
    assert [row["attribute"] for row in data["tried"]][:2] == ["gender", "skin tone"]
    assert "What the model was asked" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_one_seed_gives_one_audit(ddm):
    first, second = (ddm("--groups", "discovered", "--seed", "3", "--json").stdout for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--groups", "gender"], "labels:COLUMN"),
        (["--groups", "labels:size"], "columns: colour"),
        (["--groups", "auto", "--target", "red=.5,blue=.5"], "needs named groups"),
        (["--groups", "labels:colour", "--target", "red=.5,green=.5"], "the classes are 'blue', 'red'"),
        (["--groups", "labels:colour", "--out", "audit.json"], "cannot be called audit.json"),
    ],
)
def test_mistakes_are_said_in_a_sentence(ddm, arguments, words):
    result = ddm(*arguments, code=2)
    assert words in " ".join(result.stderr.split())


def test_a_base_that_is_none_is_refused(ddm, tmp_path):
    assert "is not a base model" in ddm(base=tmp_path, code=2).stderr


def test_an_empty_folder_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert result.exit_code == 2 and "no images" in " ".join(result.stderr.split())
