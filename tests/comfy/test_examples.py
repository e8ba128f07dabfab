"""Every example workflow runs over the API, without a browser and without a download."""

import json
import re

import pytest

from .server import PACK, Refused
from .workflow import FEWER, NEEDS_DOWNLOAD, on_the_small_model, to_graph, widgets, write_few

EXAMPLES = PACK / "example_workflows"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
ROOM = 600  # pixels that a node with a panel takes at least


def read(name):
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def few(server):
    write_few(server.base / "input" / FEWER["folder"])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEEDS_DOWNLOAD])
def test_an_example_runs_to_a_saved_image(server, few, name):
    graph = to_graph(read(name), server.get("/object_info"))
    for node in graph.values():
        node["inputs"] |= {given: few for given, few in FEWER.items() if given in node["inputs"]}
    outputs = server.run(graph, timeout=300)
    saved = [file for one in outputs.values() for file in one.get("images", []) if file["type"] == "output"]
    assert saved
    assert all(server.view(file).startswith(b"\x89PNG") for file in saved)


def test_a_workflow_saved_before_the_advanced_inputs_still_loads(server):
    (node,) = (node for node in read("Train an adapter")["nodes"] if node["type"] == "DDMTrain")
    order = [name for name, _ in widgets(server.get("/object_info")["DDMTrain"])]
    assert order[: len(node["widgets_values"])] == [one["name"] for one in node["inputs"]] and len(order) > 19


@pytest.mark.parametrize("name", sorted(NEEDS_DOWNLOAD))
def test_an_example_for_a_larger_model_loads_it_with_the_hosts_own_nodes(server, name):
    graph = to_graph(read(name), server.get("/object_info"))
    kinds = {node["class_type"] for node in graph.values()}
    stock, ours = NEEDS_DOWNLOAD[name]
    assert kinds >= stock
    assert {kind for kind in kinds if kind.startswith("DDM")} == ours
    with pytest.raises(Refused) as refused:  # for want of the files alone
        server.queue(graph)
    said = [sentence for errors in refused.value.node_errors.values() for sentence in errors]
    assert said and all("not in" in sentence for sentence in said)


@pytest.mark.parametrize("name", sorted(NEEDS_DOWNLOAD.keys() - {"SD 1.5 with Load LoRA"}))
def test_an_example_for_a_larger_model_runs_to_its_end_on_the_small_one(server, name):
    outputs = server.run(on_the_small_model(to_graph(read(name), server.get("/object_info"))), timeout=300)
    saved = [file for one in outputs.values() for file in one.get("images", []) if file["type"] == "output"]
    assert saved and all(server.view(file).startswith(b"\x89PNG") for file in saved)
    assert all(one["ddm_panel"][0] for one in outputs.values() if "ddm_panel" in one)


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_where_a_panel_grows(name):
    panels = set(re.findall(r"^  (DDM\w+): ", (PACK / "web" / "ddm.js").read_text(encoding="utf-8"), re.MULTILINE))
    nodes = [(node["type"], *node["pos"], node["size"][0]) for node in read(name)["nodes"]]
    assert "DDMMeasurePrompts" in panels
    for kind, left, top, width in nodes:
        beside = [(other, y) for other, x, y, own in nodes if x < left + width and left < x + own and y > top]
        if kind in panels:
            assert [other for other, y in beside if y < top + ROOM] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_no_result_and_no_place_of_its_maker(name):
    text = (EXAMPLES / f"{name}.json").read_text(encoding="utf-8")
    assert "ddm_panel" not in text
    assert "/root" not in text and "/home" not in text
