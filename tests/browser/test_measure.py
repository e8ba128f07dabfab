"""Measuring a model in the page: from the template to a verdict, what is seen meanwhile, what a cancel leaves."""

import io

import pytest
from PIL import Image

MEASURE, GALLERY = 2, 3
PROMPTS = ("firefighter", "doctor", "pilot", "police officer", "teacher", "farmer", "singer", "judge")


def numbers(comfy, node):
    """The large numbers of a panel: prompt, percent, group."""
    return comfy.panel(node).evaluate(
        """(root) => [...root.querySelectorAll(".ddm-numbers li")].map((one) =>
            [one.querySelector(".ddm-label").textContent, one.querySelector("b").textContent])"""
    )


def wait_for(comfy, node, text):
    comfy.page.wait_for_function(
        """([id, text]) => app.graph.getNodeById(id).widgets.find((one) => one.name === "ddm_panel").element
            .textContent.includes(text)""",
        arg=[node, text],
        timeout=120_000,
    )


def test_from_the_template_to_a_verdict_on_eight_prompts_in_twelve_clicks_and_fields(comfy, server):
    """With the mouse and the keyboard alone, as a new user; what they do is counted by the page."""
    comfy.page.add_init_script(COUNTED)
    comfy.open()
    comfy.page.locator(".templates-tab-button").first.click()
    comfy.choose("Measure my model")
    comfy.page.wait_for_function("() => app.graph._nodes.some((node) => node.type === 'DDMMeasurePrompts')")
    comfy.page.wait_for_timeout(1000)
    written = comfy.page.locator("textarea:visible").first
    assert written.input_value().splitlines() == [f"a {name}" for name in PROMPTS]
    own = [f"a {name}" for name in ("cook", *PROMPTS[1:])]
    written.click()
    written.fill("\n".join(own))
    outputs = server.wait(comfy.queue(comfy.page.get_by_test_id("queue-button").first.click), timeout=900)
    wait_for(comfy, MEASURE, "480 images")
    (panel,) = outputs[str(MEASURE)]["ddm_panel"]
    assert panel["n"] == 480 and {one["prompt"] for one in panel["prompts"]} == set(own)
    assert panel["verdict"]["tone"] in ("fair", "unfair") and panel["verdict"]["text"] in comfy.text(MEASURE)
    shown = numbers(comfy, MEASURE)
    assert [prompt for prompt, _ in shown] == [one["prompt"] for one in panel["prompts"]]
    worst = max(panel["prompts"][0]["groups"], key=lambda group: group["share"])
    assert shown[0][1] == f"{round(100 * worst['share'])}%"
    (file,) = outputs[str(GALLERY)]["images"]
    assert Image.open(io.BytesIO(server.view(file))).height > len(PROMPTS) * 128
    clicks, fields = comfy.js("() => [window.counted.clicks, window.counted.fields.size]")
    assert clicks >= 4 and fields >= 1 and clicks + fields <= 12


# Of what a user does: presses of a button of the mouse, and fields that were written into.
COUNTED = """
    window.counted = { clicks: 0, fields: new Set() };
    addEventListener("pointerdown", () => (window.counted.clicks += 1), true);
    addEventListener("input", ({ target }) => window.counted.fields.add(target), true);
"""


def test_progress_is_seen_and_a_cancel_leaves_what_was_measured(comfy, example, server, vue):
    comfy.open(vue=vue)
    comfy.load(example("Measure my model"))
    comfy.widget(MEASURE, "seed", 1000 + vue)
    comfy.widget(MEASURE, "steps", 30)
    comfy.widget(MEASURE, "count", 200)
    assert "appears here" in comfy.text(MEASURE)
    prompt = comfy.queue()
    wait_for(comfy, MEASURE, "Generating")
    wait_for(comfy, MEASURE, "left")
    comfy.page.wait_for_function(
        """(id) => app.graph.getNodeById(id).widgets.find((one) => one.name === "ddm_panel").element
            .querySelector("progress")?.value > 0.02""",
        arg=MEASURE,
        timeout=120_000,
    )
    comfy.js("() => void app.api.interrupt()")
    with pytest.raises(InterruptedError):
        server.wait(prompt, timeout=60)
    wait_for(comfy, MEASURE, "Cancelled: these are the images until then")
    assert comfy.panel(MEASURE).query_selector("progress") is None
    assert numbers(comfy, MEASURE)
    assert "ddm_panel" in comfy.saved()["nodes"][2]["properties"]
