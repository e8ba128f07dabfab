"""Nodes that read a folder below input/: audits and probes of one's own."""

import numpy as np
import pytest
from comfyui_ddm.debias.probe import Probe
from PIL import Image

from . import graphs
from .server import Failed, Refused

EXAMPLE = "people_emoji (comes with ComfyUI-DDM)"


@pytest.fixture(scope="module")
def shades(server):
    """input/Ordner 灰/: 12 dark and 4 light pictures in subfolders."""
    root = server.base / "input" / "Ordner 灰"
    rng = np.random.default_rng(0)
    for name, level, count in (("dark", 40, 12), ("light", 210, 4)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.clip(rng.normal(level, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_an_audit_counts_the_groups_of_a_folder(server, shades):
    outputs = server.run(graphs.audit(shades.name))
    (made,) = outputs["audit"]["ddm_panel"]
    shares = {group["name"]: group["share"] for group in made["attributes"][0]["groups"]}
    assert (made["kind"], made["n"], shares) == ("audit", 16, {"dark": 0.75, "light": 0.25})
    assert made["verdict"]["tone"] == "unfair"
    assert made["points"][0]["alpha"] == 0
    assert b"<!doctype html>" in server.view(made["files"]["html"])


def test_an_audit_finds_what_is_rare_without_a_label(server, shades):
    (made,) = server.run(graphs.audit(shades.name, "discovered", caption="a shade"), 300)["audit"]["ddm_panel"]
    assert made["attributes"][0]["name"] == "discovered"
    assert "count as" in made["summary"]


def test_an_audit_is_made_again_when_a_picture_is_added(server, shades):
    graph = graphs.audit(shades.name)
    before = server.run(graph)["audit"]["ddm_panel"][0]["n"]
    Image.new("RGB", (64, 64), "white").save(shades / "light" / "late.png")
    assert server.run(graph)["audit"]["ddm_panel"][0]["n"] == before + 1
    (shades / "light" / "late.png").unlink()


@pytest.mark.parametrize("name", ["../output", "..", "nowhere", "/etc"])
def test_a_folder_that_is_not_below_input_is_refused(server, name):
    for graph, node in ((graphs.audit(name), "audit"), (graphs.fit(name), "fit")):
        with pytest.raises(Refused) as refused:
            server.queue(graph)
        assert "There is no folder" in str(refused.value.node_errors[node])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"groups": "gender"}, "is not known"),
        ({"groups": "discovered", "target": "dark=.5,light=.5"}, "needs named groups"),
        ({"weights": "../../etc"}, "There is no"),
    ],
)
def test_settings_of_an_audit_are_checked_before_anything_runs(server, shades, inputs, said):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.audit(shades.name, **inputs))
    assert said in str(refused.value.node_errors["audit"])


def test_an_empty_folder_and_an_unknown_column_are_sentences(server, shades):
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    with pytest.raises(Failed, match="no pictures in it"):
        server.run(graphs.audit("empty"))
    with pytest.raises(Failed, match="no label column"):
        server.run(graphs.fit(shades.name, labels="age"))


def test_a_probe_is_fitted_saved_and_offered(server, shades):
    outputs = server.run(graphs.fit(shades.name, "hell und dunkel ☀", steps=40))
    assert "right on" in outputs["fit"]["text"][0]
    file = server.base / "models" / "ddm" / "hell und dunkel ☀.safetensors"
    assert Probe.load(file).names == ("dark", "light")
    assert file.name in server.options("DDMLoadProbe", "probe")
    graph = graphs.probe(file.name) | graphs.report()
    graph["decoder"] = {"class_type": "EmptyImage", "inputs": dict(width=64, height=64, batch_size=1, color=0x282828)}
    (made,) = server.run(graph)["report"]["ddm_panel"]
    assert made["attributes"][0]["name"] == "folder"


@pytest.mark.parametrize("name", ["", "../gender", "a/b", "..", ".hidden", "a\\b", "x" * 200, "nul\0"])
def test_a_name_that_is_none_for_a_file_is_refused(server, shades, name):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.fit(shades.name, name))
    assert "is no name for a probe" in str(refused.value.node_errors["fit"])


def test_the_example_set_is_offered_first(server):
    for node in ("DDMAuditImages", "DDMFitProbe"):
        assert server.options(node, "folder")[0] == EXAMPLE
