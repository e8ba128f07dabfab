"""The accordion of A1111 1.8, 1.10 and Forge Neo: the fairness report."""

import json
import re
from types import SimpleNamespace

import pytest
from comfyui_ddm.debias.adapter.lora_file import save_adapter

from . import host
from .host import CARD, GUIDED, LORA, PROBE


def test_a_report_tells_guided_images_from_others(run, heads, door):
    run(prompts=["a pilot"], **PROBE)
    run(prompts=["a pilot"], **GUIDED, **PROBE)
    run("people/fair", 0.5, prompts=["a pilot"], **GUIDED, **PROBE)
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    first, *guided = [one["label"] for one in json.loads(made.read_text("utf-8"))["conditions"]]
    assert first == "α = 0"
    assert [re.sub(" [0-9a-f]{12}", " #", one) for one in guided] == [
        *("α = 0, guidance gender, #, 2, queue, uniform", "α = 0.5, guidance gender, #, 2, queue, uniform"),
    ]


def conditions(door):
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    report = json.loads(made.read_text("utf-8"))
    return {one["label"]: one["images"] for one in report["conditions"]}, report


@pytest.mark.parametrize(
    ("other", "label"),
    [
        ({"p": {"settings": {"Sampler": "Euler", "Steps": 2, "Model hash": "ffff"}}}, "Model hash ffff"),
        ({"p": {"settings": {"Sampler": "Euler", "Steps": 9, "Model hash": "abcd"}}}, "Steps 9"),
        ({"p": {"all_negative_prompts": ["ugly,  bad"]}}, "negative prompt ugly, bad"),
        ({"prompts": ["a pilot <lora:foreign:0.3>"]}, "with <lora:foreign:0.3>"),
    ],
)
def test_images_made_otherwise_are_not_pooled(run, door, other, label):
    run(prompts=["a pilot"], **PROBE)
    run(**{"prompts": ["a pilot"]} | other, **PROBE)
    run(prompts=["a pilot"], p={"all_seeds": [6]}, **PROBE)
    counted, report = conditions(door)
    assert any(label in name and images == 1 for name, images in counted.items()), counted
    assert sorted(counted.values()) == [1, 2]  # another seed is the same condition
    assert any("All images were made with: " in note and "Sampler Euler" in note for note in report["notes"])


def test_images_of_two_adapters_and_of_a_schedule_are_told_apart(run, door):
    save_adapter(door.folder / "models" / "Lora" / "fairer.safetensors", LORA, CARD)
    for adapter, alpha, shape in (
        *(("None", 1.0, "constant"), ("people/fair", 0.0, "constant"), ("people/fair", 1.0, "constant")),
        *(("fairer", 1.0, "constant"), ("people/fair", 1.0, "ramp")),
    ):
        run(adapter, alpha, shape=shape, prompts=["a pilot"], **PROBE)
    counted, _ = conditions(door)
    # At α = 0 all adapters are alike, and the same image counts once.
    assert {re.sub(r" \([0-9a-f]{8}\)", "", name): images for name, images in counted.items()} == {
        "α = 0": 1,
        "α = 1, adapter people/fair": 1,
        "α = 1, adapter fairer": 1,
        "adapter people/fair, schedule alpha 1, ramp, alpha end 0": 1,
    }
    page = next((door.folder / "images" / "ddm").glob("*.html")).read_text("utf-8")
    assert "fairer" in page and "over α" not in page


def test_the_report_grows_beside_the_gallery_and_lies_beside_the_images(run, script, door):
    run(prompts=["a doctor <lora:x:1>", "a pilot <lora:x:1>"], **PROBE)
    run("people/fair", 0.5, prompts=["a doctor <lora:x:1>"], **PROBE)
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    report = json.loads(made.read_text("utf-8"))
    assert [(one["label"], one["images"]) for one in report["conditions"]] == [("α = 0", 2), ("α = 0.5", 1)]
    assert {row["prompt"] for row in report["attributes"][0]["prompts"]} == {"a doctor", "a pilot"}
    box = host.Component()
    script.after["generation_info_txt2img"](SimpleNamespace(component=box))
    shown = box.events["change"][0]()
    assert "Open the whole page" in shown and "too few" in shown


def test_a_report_begins_anew_with_a_job_and_not_with_a_cell_of_its_plot(run, door):
    from modules import shared

    def counted():
        return [
            sum(one["images"] for one in json.loads(made.read_text("utf-8"))["conditions"])
            for made in sorted((door.folder / "images" / "ddm").glob("*.json"))
        ]

    run(prompts=["a pilot"] * 2, **PROBE)
    shared.state.job_timestamp = "2"
    for alpha in (0.0, 1.0):
        run("people/fair", alpha, prompts=["a pilot"], collect=False, **PROBE)
    assert counted() == [2, 2]


def test_a_report_that_cannot_be_made_is_said_in_both_places(run, script):
    _, _, p = run(probe="gone")
    assert p.comments == [
        "DDM: no report. There is no probe called 'gone' in models/ddm. Refresh the list, and choose another."
    ]
    _, _, p = run(probe="gender", target="cat=1,dog=0")
    assert "DDM: no report." in p.comments[0] and "cat" in p.comments[0]
