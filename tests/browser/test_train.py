"""DDM Train in the page: what is seen while it trains, and its button."""

import numpy as np
import pytest
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from PIL import Image

from .page import ComfyPage

VALUES = {"groups": "labels:folder", "caption": "a shade", "rank": 2, "batch_size": 4, "calibrate": 0}


@pytest.fixture
def folder(server):
    """input/shades/: 6 dark and 2 light images."""
    root = server.base / "input" / "shades"
    for name, level, count in (("dark", 40, 6), ("light", 210, 2)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(np.full((64, 64, 3), level + i, np.uint8)).save(root / name / f"{i}.png")
    return root.name


@pytest.fixture
def trainer(comfy, folder):
    """Adds a node with inputs to the open page."""

    def add(**values):
        node = comfy.js(
            """() => {
                const node = LiteGraph.createNode("DDMTrain");
                node.pos = [100, 100];
                app.graph.add(node);
                return node.id;
            }"""
        )
        for name, value in {**VALUES, "folder": folder, **values}.items():
            comfy.widget(node, name, value)
        return node

    return add


def wait_for(comfy, node, text):
    """Wait until a panel says something."""
    comfy.page.wait_for_function(
        """([id, text]) => app.graph.getNodeById(id).widgets.find((one) => one.name === "ddm_panel").element
            .textContent.includes(text)""",
        arg=[node, text],
        timeout=120_000,
    )


def test_loss_and_previews_are_seen_while_it_trains_and_the_button_stops_it(comfy, trainer, vue):
    comfy.open(vue=vue)
    node = trainer(name=f"watched {vue}", steps=500)
    assert "appear here while it trains" in comfy.text(node)
    prompt = comfy.queue()
    wait_for(comfy, node, "without the adapter and with it, at step 100")
    shown = comfy.text(node)
    assert "Training" in shown and "of 500" in shown and "Loss" in shown and "dark75%" in shown
    panel = comfy.panel(node)
    assert panel.query_selector("[role=img][aria-label^='Loss over the steps']")
    comfy.page.wait_for_function("(image) => image.naturalWidth > 100", arg=panel.query_selector("img"))
    comfy.page.wait_for_function("(root) => root.clientHeight >= root.firstChild.offsetHeight - 2", arg=panel)
    panel.query_selector("button").click()
    wait_for(comfy, node, "Stopped. What was trained is kept")
    with pytest.raises(InterruptedError):
        comfy.server.wait(prompt)
    assert (comfy.server.base / "output" / "ddm" / f"watched {vue}.checkpoint.safetensors").exists()
    assert "Stop and keep" not in comfy.text(node)


def test_what_was_trained_is_shown_again_in_a_saved_graph(comfy, trainer):
    comfy.open()
    node = trainer(name="kept", steps=20)
    comfy.run()
    shown = comfy.text(node)
    assert "kept.safetensors is among your LoRAs." in shown and "recommended α" in shown
    assert comfy.js("(id) => app.graph.getNodeById(id).outputs[0].type", node) == "COMBO,STRING"
    saved = comfy.saved()
    comfy.open()
    comfy.load(saved)
    assert comfy.text(saved["nodes"][0]["id"]) == shown
    image = comfy.panel(saved["nodes"][0]["id"]).query_selector("img")
    comfy.page.wait_for_function("(image) => image.naturalWidth > 100", arg=image)


def test_advanced_inputs_are_hidden_until_one_asks_for_them_and_count_all_the_same(comfy, trainer):
    comfy.open()
    node = trainer(name="hidden", steps=2)
    shown = """(id) => {
        const node = app.graph.getNodeById(id);
        const shown = node.widgets.filter((one) => node.isWidgetVisible(one)).map((one) => one.name);
        const place = (name) => node.widgets.find((one) => one.name === name).y;
        const room = place("ddm_panel") - place("objective");
        return [shown.includes("by_prompt"), shown.includes("learning_rate"), shown.includes("measure"), room];
    }"""
    comfy.page.wait_for_timeout(500)  # until it is drawn
    *before, room = comfy.js(shown, node)
    assert before == [True, False, False] and room < 80
    comfy.run()
    assert "hidden.safetensors is among your LoRAs." in comfy.text(node)
    assert load_adapter(comfy.server.base / "models" / "loras" / "hidden.safetensors").card.training["batch_size"] == 4
    comfy.js("(id) => app.graph.getNodeById(id).toggleAdvanced()", node)
    comfy.page.wait_for_timeout(500)
    *after, room = comfy.js(shown, node)
    assert after == [True, True, True] and room > 12 * 20


def test_the_name_can_be_wired_to_the_adapter_of_a_loader(comfy, trainer):
    comfy.open()
    node = trainer()
    linked = comfy.js(
        """(id) => {
            const loader = LiteGraph.createNode("DDMLoadAdapter");
            app.graph.add(loader);
            return Boolean(app.graph.getNodeById(id).connect(0, loader, loader.findInputSlot("adapter")));
        }""",
        node,
    )
    assert linked


def test_a_panel_of_a_training_keeps_its_button_from_one_drawing_to_the_next(comfy, trainer):
    comfy.open()
    node = trainer()
    same = comfy.js(
        """(id) => {
            const tell = (done) => app.api.dispatchEvent(new CustomEvent("ddm.train", { detail: { node: String(id),
                panel: { phase: "training", done, total: 20, seconds_left: 3, losses: [[10, 0.2], [20, 0.1]] } } }));
            const root = app.graph.getNodeById(id).widgets.find((one) => one.name === "ddm_panel").element;
            tell(10);
            const before = root.querySelector("button");
            tell(20);
            return before === root.querySelector("button") && root.textContent.includes("step 20 of 20");
        }""",
        node,
    )
    assert same


@pytest.mark.parametrize("other", ["0:{}", "{}1"])
def test_the_news_of_another_node_are_not_ours(comfy, trainer, other):
    comfy.open()
    node = trainer()
    comfy.js(
        """(id) => app.api.dispatchEvent(new CustomEvent("ddm.train", { detail: { node: id,
            panel: { phase: "groups", doing: "Finding groups", done: 1, total: 2, losses: [] } } }))""",
        other.format(node),
    )
    # An id with others before it is that of a node in a subgraph, by its last part.
    assert ("Finding groups" in comfy.text(node)) == (":" in other)


def test_a_training_is_seen_after_a_reload_and_in_another_browser_and_stopped_there(comfy, trainer, browser, server):
    comfy.open()
    node = trainer(name="seen again", steps=4000, background=True)
    comfy.run()
    wait_for(comfy, node, "Training")
    saved = comfy.saved()
    context = browser.new_context()
    other = ComfyPage(context.new_page(), server)
    for page in (comfy, other):
        page.open()
        page.load(saved)
        wait_for(page, node, "Training")
    other.js("() => void app.extensionManager.command.execute('Workspace.ToggleSidebarTab.ddm')")
    other.page.locator(".ddm-trainings .ddm-entry", has_text="seen again").get_by_role("button").click()
    for page in (comfy, other):
        wait_for(page, node, "Stopped. What was trained is kept")
    context.close()


def test_an_objective_shows_its_own_inputs_and_sets_what_is_usual_for_it(comfy, trainer):
    comfy.open()
    node = trainer()
    shown = """(id) => {
        const node = app.graph.getNodeById(id);
        const shown = node.widgets.filter((one) => node.isWidgetVisible(one)).map((one) => one.name);
        return [shown, node.widgets.find((one) => one.name === "steps").value];
    }"""
    assert comfy.js(shown, node)[1] == 300
    comfy.widget(node, "objective", "alignment")
    names, steps = comfy.js(shown, node)
    assert {"probe", "prior_prompts", "target"} <= set(names) and not {"folder", "groups", "flip"} & set(names)
    assert steps == 60
    comfy.widget(node, "steps", 77)
    comfy.widget(node, "objective", "invariant")
    names, steps = comfy.js(shown, node)
    assert "folder" in names and "target" not in names
    assert steps == 77  # what somebody has chosen stays
