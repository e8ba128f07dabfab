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


def test_from_the_template_to_a_verdict_on_eight_prompts_nothing_is_filled_in(comfy, server):
    comfy.open()
    comfy.choose_template("Measure my model")
    comfy.page.wait_for_function("() => app.graph._nodes.some((node) => node.type === 'DDMMeasurePrompts')")
    outputs = comfy.run()
    (panel,) = outputs[str(MEASURE)]["ddm_panel"]
    assert (panel["n"], len(panel["prompts"])) == (480, len(PROMPTS))
    assert panel["verdict"]["tone"] in ("fair", "unfair")
    shown = numbers(comfy, MEASURE)
    assert [prompt for prompt, _ in shown] == [one["prompt"] for one in panel["prompts"]]
    worst = max(panel["prompts"][0]["groups"], key=lambda group: group["share"])
    assert shown[0][1] == f"{round(100 * worst['share'])}%"
    (file,) = outputs[str(GALLERY)]["images"]
    assert Image.open(io.BytesIO(server.view(file))).height > len(PROMPTS) * 128


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
