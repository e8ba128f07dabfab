"""Checking a probe in the page: clicks are kept as answers, and the report is corrected by them."""

import json

from PIL import Image

from .test_panels import report_panel

MEASURE = 2


def check_panel(server, count=6):
    """A panel that asks about so many images, half of them called man, and their files."""
    images = []
    for i in range(count):
        file = {"filename": f"{i:016x}.jpg", "subfolder": "ddm/check", "type": "output"}
        path = server.base / "output" / "ddm" / "check" / file["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 96), (40 * i, 90, 160)).save(path)
        said = "man" if i < count / 2 else "woman"
        images.append({"key": f"{i:016x}", "said": said, "sure": 0.9, "prompt": "a <b>doctor</b>", "file": file})
    asked = {"attribute": "gender", "classes": ["man", "woman"], "unclear": "unclear", "fewest": 5, "images": images}
    return report_panel(kind="check", check=asked)


def show(comfy, panel):
    return comfy.js(
        """(panel) => {
            const node = LiteGraph.createNode("DDMCheckProbe");
            node.pos = [100, 100];
            app.graph.add(node);
            node.setSize([640, node.size[1]]);
            node.onExecuted({ ddm_panel: [panel] });
            return node.id;
        }""",
        panel,
    )


def answers(comfy, node):
    code = "(id) => app.graph.getNodeById(id).widgets.find((one) => one.name === 'answers').value"
    return json.loads(comfy.js(code, node) or "{}")


def click(comfy, node, image, name):
    comfy.panel(node).query_selector(f".ddm-check figure:nth-child({image + 1})").evaluate(
        "(figure, name) => [...figure.querySelectorAll('button')].find((one) => one.textContent === name).click()", name
    )


def test_clicks_are_kept_as_answers_and_the_rest_is_confirmed_at_once(comfy, server, vue):
    comfy.open(vue=vue)
    node = show(comfy, check_panel(server))
    assert "Whom do you see?" in comfy.text(node)
    click(comfy, node, 0, "woman")
    click(comfy, node, 1, "unclear")
    click(comfy, node, 2, "man")
    click(comfy, node, 2, "man")  # a second click takes it back
    first, second = f"{0:016x}", f"{1:016x}"
    assert answers(comfy, node) == {first: ["man", "woman"], second: ["man", "unclear"]}
    assert "man: 0 of 1 right" in comfy.text(node)
    comfy.panel(node).query_selector(".ddm-actions button").evaluate("(button) => button.click()")
    given = answers(comfy, node)
    assert len(given) == 6 and given[first] == ["man", "woman"] and given[f"{5:016x}"] == ["woman", "woman"]
    assert "woman: 3 of 3 right" in comfy.text(node)
    pressed = comfy.panel(node).evaluate("(root) => root.querySelectorAll('[aria-pressed=true]').length")
    assert pressed == 6


def test_answers_and_images_are_there_again_when_the_graph_is_loaded(comfy, server, vue):
    comfy.open(vue=vue)
    node = show(comfy, check_panel(server))
    click(comfy, node, 3, "man")
    kept = comfy.saved()
    comfy.js("() => app.graph.clear()")
    comfy.load(kept)
    assert answers(comfy, node) == {f"{3:016x}": ["woman", "man"]}
    comfy.page.wait_for_timeout(500)
    shown = comfy.panel(node).evaluate("(root) => [...root.querySelectorAll('img')].map((one) => one.naturalWidth)")
    assert shown == [96] * 6
    assert "woman: 0 of 1 right" in comfy.text(node)


def test_a_report_is_corrected_in_the_page(comfy, example, server):
    comfy.open()
    comfy.load(example("Measure my model"))
    comfy.widget(MEASURE, "count", 8)
    comfy.widget(MEASURE, "steps", 8)
    node = comfy.js(
        """(measure) => {
            const node = LiteGraph.createNode("DDMCheckProbe");
            node.pos = [1400, 100];
            app.graph.add(node);
            const from = app.graph.getNodeById(measure);
            from.connect(from.findOutputSlot("report"), node, node.findInputSlot("report"));
            return node.id;
        }""",
        MEASURE,
    )
    comfy.run()
    assert comfy.panel(node).evaluate("(root) => root.querySelectorAll('.ddm-check figure').length") == 30
    comfy.panel(node).query_selector(".ddm-check + .ddm-actions button").evaluate("(button) => button.click()")
    assert "Queue again" in comfy.text(node)
    outputs = comfy.run()
    (panel,) = outputs[str(node)]["ddm_panel"]
    assert any("was checked by eye on 30 images" in line for line in panel["remarks"])
