"""What a user does with the nodes: turn α, draw a schedule, cancel a sweep, add an adapter, ask for help."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from ..comfy.server import ADAPTER


def images(server, outputs, node):
    return [
        np.asarray(Image.open(io.BytesIO(server.view(file))).convert("RGB"), dtype=int)
        for file in outputs[str(node)]["images"]
    ]


def test_turning_alpha_changes_the_image_and_turning_it_back_restores_it(comfy, example, server):
    comfy.open()
    comfy.load(example("Fair images"))
    comfy.widget(5, "batch_size", 2)
    first = images(server, comfy.run(), 8)
    comfy.widget(2, "alpha", 0.0)
    without = images(server, comfy.run(), 8)
    assert any((a != b).any() for a, b in zip(first, without, strict=True))
    comfy.widget(2, "alpha", 1.0)
    comfy.widget(8, "filename_prefix", "again")
    for a, b in zip(first, images(server, comfy.run(), 8), strict=True):
        assert (a == b).all()


def test_a_graph_that_was_saved_and_loaded_again_queues_the_same(comfy, example, vue):
    comfy.open(vue=vue)
    comfy.load(example("Before and after"))
    comfy.widget(2, "alpha", 0.35)
    prompt = "() => app.graphToPrompt().then((made) => made.output)"
    before = comfy.js(prompt)
    saved = comfy.saved()
    comfy.open(vue=vue)
    comfy.load(saved)
    assert comfy.js(prompt) == before
    assert before["2"]["inputs"]["alpha"] == 0.35
    assert "ddm_panel" not in before["2"]["inputs"]


def test_the_card_follows_the_chosen_adapter(comfy, vue):
    comfy.open(vue=vue)
    node = comfy.js(
        "() => { const node = LiteGraph.createNode('DDMLoadAdapter'); app.graph.add(node); return node.id; }"
    )
    comfy.widget(node, "adapter", ADAPTER)
    comfy.page.wait_for_function(
        "(id) => app.graph.getNodeById(id).widgets.find((one) => one.name === 'ddm_panel')"
        ".element.textContent.includes('recommended α')",
        arg=node,
    )
    comfy.widget(node, "alpha", 0.2)
    use = comfy.panel(node).query_selector("button")
    assert use.text_content().startswith("Use ")
    use.click()
    recommended = float(use.text_content().removeprefix("Use "))
    alpha = "(id) => app.graph.getNodeById(id).widgets.find((one) => one.name === 'alpha').value"
    assert comfy.js(alpha, node) == recommended


@pytest.mark.parametrize(
    ("shape", "points", "corners"),
    [
        ("constant", "", [[0, 0.8], [1, 0.8]]),
        ("ramp", "", [[0, 0.8], [1, 0.1]]),
        ("early", "", [[0, 0.8], [0.25, 0.8], [0.25, 0.1], [1, 0.1]]),
        ("custom", "0.5:.5, 0:1; 1:-1", [[0, 1], [0.5, 0.5], [1, -1]]),
    ],
)
def test_the_drawn_schedule_is_the_one_that_is_applied(comfy, example, shape, points, corners):
    comfy.open()
    comfy.load(example("Alpha schedule"))
    comfy.widget(5, "batch_size", 1)
    for name, value in {"shape": shape, "alpha": 0.8, "alpha_end": 0.1, "switch": 0.25, "points": points}.items():
        comfy.widget(2, name, value)
    label = comfy.panel(2).query_selector(".ddm-plot").get_attribute("aria-label")
    drawn = [[float(part) for part in reversed(one.split(" at "))] for one in label.partition(": ")[2].split(", ")]
    assert distinct(drawn) == corners
    applied = comfy.run()["2"]["ddm_panel"][0]["schedule"]
    assert distinct([[one["position"], one["alpha"]] for one in applied]) == corners


def distinct(corners):
    return [one for i, one in enumerate(corners) if i == 0 or one != corners[i - 1]]


def test_points_that_cannot_be_read_are_told_while_they_are_written(comfy):
    comfy.open()
    node = comfy.js(
        "() => { const node = LiteGraph.createNode('DDMAlphaSchedule'); app.graph.add(node); return node.id; }"
    )
    comfy.widget(node, "shape", "custom")
    for points, sentence in {
        "nonsense": "position:α pairs",
        "2:1": "from 0, pure noise",
        "0:9": "between -1 and 2",
    }.items():
        comfy.widget(node, "points", points)
        assert sentence in comfy.text(node)


def test_a_sweep_is_cancelled_at_once(comfy, example, server):
    comfy.open()
    comfy.load(example("Alpha sweep"))
    comfy.widget(2, "count", 400)
    prompt = comfy.queue()
    for _ in range(400):
        if server.get("/queue")["queue_running"]:
            break
        time.sleep(0.05)
    time.sleep(3)
    began = time.monotonic()
    comfy.js("() => void app.api.interrupt()")
    with pytest.raises(InterruptedError):
        server.wait(prompt, timeout=30)
    # Loose, since the machines of tests are busy.
    assert time.monotonic() - began < 10


def test_the_sidebar_lists_the_adapters_and_adds_one_to_the_graph(comfy, vue):
    comfy.open(vue=vue)
    comfy.js("() => void app.extensionManager.command.execute('Workspace.ToggleSidebarTab.ddm')")
    entry = comfy.page.locator(".ddm-sidebar .ddm-entry", has_text=ADAPTER.removesuffix(".safetensors"))
    entry.get_by_role("button", name="Add to graph").click()
    added = comfy.saved()["nodes"]
    assert [node["type"] for node in added] == ["DDMLoadAdapter"]
    assert added[0]["widgets_values"][0] == ADAPTER


def test_every_node_has_a_help_page(comfy, server):
    comfy.open()
    ours = [name for name in server.get("/object_info") if name.startswith("DDM")]
    assert len(ours) >= 9
    for name in ours:
        page = server.request(f"/extensions/ComfyUI-DDM/docs/{name}.md").decode()
        assert page.startswith("# DDM ")
        assert len(page) > 400
        page = server.request(f"/extensions/ComfyUI-DDM/docs/{name}/zh.md").decode()
        assert page.startswith("# DDM ")
        assert len(page) > 100
