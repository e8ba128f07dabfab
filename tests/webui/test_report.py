"""The fairness report of a real Forge, over its API."""

import json
import subprocess
import sys

import pytest

from .server import PACK

SAVED = {"save_images": True}


def asked(adapter="None", alpha=1.0, probe="gender", watch="skin_tone", target="uniform", collect=True):
    return [adapter, alpha, "", True, "constant", 0.0, 0.5, "", probe, watch, target, collect]


def reports(forge):
    """The reports that are there, the one written last at the end."""
    found = (forge.data / "outputs" / "txt2img-images" / "ddm").glob("report_*.json")
    return sorted(found, key=lambda file: file.stat().st_mtime_ns)


def test_it_grows_from_run_to_run_and_lies_beside_the_images(forge):
    before = reports(forge)
    forge.make("a firefighter", ddm=asked(collect=False), batch_size=2, **SAVED)
    forge.make("a pilot <lora:foreign:0.3>", ddm=asked(), batch_size=3, **SAVED)
    forge.make("a pilot <lora:foreign:0.3>", ddm=asked(), batch_size=3, **SAVED)
    (file,) = [one for one in reports(forge) if one not in before]
    made = json.loads(file.read_text("utf-8"))
    first, second = made["attributes"]
    assert (first["name"], second["name"]) == ("gender", "skin_tone")
    rows = {row["prompt"]: row["images"] for row in first["prompts"]}
    assert rows == {"a firefighter": 2, "a pilot": 3}  # the same three images again count once
    assert "too few to say" in first["overall"][0]["verdict"]
    page = file.with_suffix(".html").read_text("utf-8")
    assert page.count("data:image/jpeg") >= 5 and "<script" not in page


def test_its_numbers_are_those_of_the_command_line_on_the_same_images(forge, tmp_path):
    forge.make("a nurse", ddm=asked("fair", collect=False), batch_size=4, seed=50)
    ours = json.loads(reports(forge)[-1].read_text("utf-8"))
    made = forge.make("a nurse", ddm=["fair", 1.0], batch_size=4, seed=50)
    folder = tmp_path / "images" / "a nurse"
    folder.mkdir(parents=True)
    for i, image in enumerate(made.images):
        image.save(folder / f"{i}.png")
    probes = PACK / "examples" / "probes"
    command = ["report", str(folder.parent), f"--probe={probes / 'gender.safetensors'}"]
    command += [f"--probe={probes / 'skin_tone.safetensors'}", f"--out={tmp_path / 'report.html'}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "training", *command], cwd=PACK, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    for mine, other in zip(ours["attributes"], theirs["attributes"], strict=True):
        mine, other = mine["overall"][0], other["overall"][0]
        for name in ("shares", "undetermined", "images", "fd"):
            assert mine[name] == other[name], name


def test_images_of_several_strengths_are_compared(forge):
    each = asked("fair", collect=False)  # what was collected before is another report
    each[2] = "0, 1"
    forge.make("a clown", ddm=each, batch_size=4)
    made = json.loads(reports(forge)[-1].read_text("utf-8"))
    assert [(one["label"], one["images"]) for one in made["conditions"]] == [("α = 0", 2), ("α = 1", 2)]
    assert made["quality"][0]["paired_images"] == 2 or made["quality"][-1]["paired_images"] == 2


def test_unlike_images_are_not_pooled(forge):
    """Another adapter, another LoRA, another negative prompt, guidance and a schedule are each a row of their own."""
    ramp = asked("fair", collect=True)
    ramp[4] = "ramp"
    forge.make("a baker", ddm=asked(collect=False))
    for prompt, values, more in (
        ("a baker", asked("fair"), {}),
        ("a baker", asked("fairer"), {}),
        ("a baker <lora:foreign:0.3>", asked(), {}),
        ("a baker", asked(), {"negative_prompt": "ugly"}),
        ("a baker", asked(), {"steps": 3}),
        ("a baker", ramp, {}),
        ("a baker", [*asked(), ["guide"]], {}),
        ("a baker", asked(), {"seed": 2}),
    ):
        forge.make(prompt, ddm=values, **more)
    made = json.loads(reports(forge)[-1].read_text("utf-8"))
    counted = {one["label"]: one["images"] for one in made["conditions"]}
    assert sorted(counted.values()) == [1] * 7 + [2], counted
    for part in ("adapter fair (", "adapter fairer (", "<lora:foreign:0.3>", "negative prompt ugly", "guidance guide"):
        assert sum(part in label for label in counted) >= 1, (part, counted)
    assert any("All images were made with" in note and "Model" in note for note in made["notes"])


@pytest.mark.parametrize(
    "wrong", [asked(probe="gone"), asked(target="cat=.5,dog=.5"), asked(watch="gone"), asked(watch="gender")]
)
def test_what_cannot_be_measured_stops_no_image(forge, wrong):
    before, errors = reports(forge), forge.log().count("Traceback")
    assert len(forge.make(ddm=wrong).images) == 1
    assert reports(forge) == before and forge.log().count("Traceback") == errors
