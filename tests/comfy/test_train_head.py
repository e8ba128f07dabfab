"""DDM Train Guidance Head: guidance for a model of one's own, without a folder and without labels."""

import pytest
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier

from . import graphs
from .server import Failed, Refused
from .test_train import watch


def test_a_head_by_a_probe_from_the_models_own_images_guides_the_model(server):
    graph = graphs.load() | graphs.head("own", probe="gender.safetensors", model=["base", 0])
    graph |= graphs.guidance(head=["head", 0]) | graphs.sample("guidance", batch=1, steps=2)
    prompt, panels = watch(server, graph, node="head")
    outputs = server.wait(prompt, timeout=300)
    assert {"starting", "own", "groups", "done"} <= {panel["phase"] for panel in panels}
    head = HSpaceClassifier.load(server.base / "models" / "ddm" / "own.safetensors")
    assert head.names == ("man", "woman") and max(head.accuracy) > 0.75
    (made,) = outputs["head"]["ddm_panel"]
    assert made["phase"] == "done" and "It tells man, woman apart" in made["summary"]
    assert [time for time, _ in made["accuracy"]] == list(head.timesteps)
    # It was made for the very model that the graph loads.
    assert "made for another model" not in str(outputs["guidance"])
    assert "own.safetensors" in server.options("DDMDistributionGuidance", "head")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"count": 0}, "nothing to learn from"),
        ({"prompts": " ", "prompt_list": "as written"}, "There is no prompt"),
        ({"groups": "gender"}, "is not known"),
        ({"probe": "../x.safetensors"}, "There is no DDM file"),
        ({"name": "../x"}, "is no name for a folder"),
        ({"folder": "../output"}, "There is no folder"),
    ],
)
def test_inputs_are_checked_before_anything_runs(server, inputs, said):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.head("wrong", **inputs))
    assert said in str(refused.value.node_errors["head"])


def test_a_folder_with_labels_serves_too_and_too_few_images_are_a_sentence(server, folder):
    given = {"folder": folder, "groups": "labels:folder", "count": 0, "caption": "a shade"}
    with pytest.raises(Failed, match=r"too few images to learn from: 4 of light.*\(count\)"):
        server.run(graphs.head("few", **given), timeout=300)
