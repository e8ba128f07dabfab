"""`ddm demo` from end to end, with a random base and a few of the example images."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.rendering.image_grid import GAP, MARGIN, TILE, Block, draw_comparison
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.embedded import demo as module
from comfyui_ddm.training.embedded.demo import Demo
from comfyui_ddm.training.embedded.imbalance import draw_imbalanced, draw_unlabelled
from comfyui_ddm.training.loop import settings
from PIL import Image
from typer.testing import CliRunner

PEOPLE = module.EXAMPLES / "people_emoji"
ROLES = ("doctor", "pilot")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example set with two roles, and the probes."""
    root = tmp_path_factory.mktemp("examples")
    lines = (PEOPLE / "metadata.jsonl").read_text("utf-8").splitlines()
    lines = [line for line in lines if json.loads(line)["role"] in ROLES]
    (root / "people_emoji" / "images").mkdir(parents=True)
    for line in lines:
        name = json.loads(line)["file_name"]
        shutil.copyfile(PEOPLE / name, root / "people_emoji" / name)
    (root / "people_emoji" / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    shutil.copytree(module.EXAMPLES / "probes", root / "probes")
    return root


@pytest.fixture
def small(examples, tiny_base, monkeypatch):
    """Make the demo a matter of seconds."""
    monkeypatch.setattr(module, "EXAMPLES", examples)
    monkeypatch.setattr(module, "OCCUPATIONS", ROLES)
    monkeypatch.setattr(module, "SHOWN", ROLES)
    monkeypatch.setattr(module, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(settings, "TrainSettings", partial(settings.TrainSettings, calibrate=0))

    def make(out, per_prompt=2, seed=0):
        return Demo(out, per_prompt, 2, seed, "cpu", base=tiny_base, groups="words:man|woman", say=str)

    return make


def rows(out):
    return [json.loads(line) for line in (out / "images/metadata.jsonl").read_text("utf-8").splitlines()]


def test_the_demo_writes_what_it_names_and_a_second_run_makes_nothing_twice(small, tmp_path):
    out = tmp_path / "out"
    first = small(out).run()
    for path in first["files"].values():
        assert Path(path).stat().st_size > 1000
    assert {path.name for path in out.glob("report.*")} == {"report.html", "report.json", "report.png"}
    assert set(first["men"]) == {"0", "0.5", "1"} and first["found"]
    assert first["summary"] == json.loads((out / "report.json").read_text("utf-8"))["summary"]
    made = rows(out)
    assert len(made) == 3 * 2 * 2
    assert {row["seed"] for row in made if row["alpha"] == 0} == {row["seed"] for row in made if row["alpha"] == 1}

    files = [out / "fair.safetensors", *(out / "images").rglob("*.png")]
    written = {path: path.stat().st_mtime_ns for path in files}
    second = small(out).run()
    assert {path: path.stat().st_mtime_ns for path in files} == written
    assert second["men"] == pytest.approx(first["men"], nan_ok=True)  # two steps make nobody that is told
    assert second["found"] == first["found"]


def test_more_images_need_no_other_adapter_but_another_seed_does(small, tmp_path):
    small(tmp_path, per_prompt=1).run()
    adapter = tmp_path / "fair.safetensors"
    written = adapter.stat().st_mtime_ns
    small(tmp_path, per_prompt=2).run()
    assert adapter.stat().st_mtime_ns == written and len(rows(tmp_path)) == 3 * 2 * 2
    (tmp_path / "fair.checkpoint.safetensors").write_bytes(b"of the first seed")
    small(tmp_path, per_prompt=1, seed=7).run()
    assert adapter.stat().st_mtime_ns != written
    assert sorted({row["seed"] for row in rows(tmp_path)}) == [7, 8] and len(rows(tmp_path)) == 3 * 2


def test_a_folder_of_somebody_else_is_left_alone(small, tmp_path):
    (tmp_path / "my work.txt").write_text("mine")
    with pytest.raises(DDMError, match="Name another folder"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my work.txt"]


def test_the_command_prints_where_to_look_and_json_is_one_object(small, tmp_path, monkeypatch):
    result = {"seconds": {"training": 1.0}, "seconds_in_all": 2.0, "peak_memory_gb": 0.5, "summary": "Men are half."}
    result["files"] = {"before_after.png": "a.png", "report.html": "b.html", "fair.safetensors": "c.safetensors"}
    monkeypatch.setattr(Demo, "run", lambda self: result)
    shown = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "x")])
    assert shown.exit_code == 0 and "Men are half." in shown.stdout and "b.html" in shown.stdout
    assert "2 s in all, 0.5 GB" in shown.stderr
    assert json.loads(CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "x"), "--json"]).stdout) == result


def test_the_unlabelled_folder_has_the_same_images_and_says_nothing_of_who_is_in_them(examples, tmp_path):
    source = examples / "people_emoji"
    labelled = read_folder(draw_imbalanced(source, "men", tmp_path / "a", seed=3))
    plain = read_folder(draw_unlabelled(source, "men", tmp_path / "b", seed=3))
    assert sorted(item.path.read_bytes() for item in plain.items) == sorted(
        item.path.read_bytes() for item in labelled.items
    )
    assert len(plain) == 28 and labelled.column("gender").count("woman") == 4
    assert plain.columns == {} and set(plain.captions) == {"a doctor", "a pilot"}
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert not any("man" in name or "light" in name for name in names)


def test_a_comparison_shows_every_image_below_its_title():
    tiles = [[Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]]
    sheet = draw_comparison(["doctor", "construction worker"], [Block("α = 0", "", tiles), Block("α = 1", "", tiles)])
    pixels = np.asarray(sheet)
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(-1).sum() == 2 * TILE * TILE
    assert sheet.width == 2 * MARGIN + 2 * TILE + GAP
