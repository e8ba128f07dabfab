"""The panels in the nodes, in both renderers: what they show, and that it stays."""

import json
import re
from itertools import pairwise

import pytest

from ..comfy import graphs

NASTY = '<img src=x onerror="window.hacked=1"> a doctor'


def report_panel(**more):
    groups = [
        {"name": "man", "share": 0.75, "low": 0.7, "high": 0.8, "target": 0.5},
        {"name": "woman", "share": 0.25, "low": 0.2, "high": 0.3, "target": 0.5},
    ]
    fd = {"value": 0.35, "low": 0.3, "high": 0.4}
    return {
        "kind": "report",
        "title": "Fairness report",
        "verdict": {"tone": "unfair", "text": "not fair"},
        "summary": "Men have most of the images.",
        "n": 120,
        "attributes": [{"name": "gender", "groups": groups, "fd": fd, "floor": 0.1, "undetermined": 3}],
        "prompts": [],
        "files": {},
        **more,
    }


def show(comfy, panel, kind="DDMFairnessReport"):
    """Add a node, and let it receive a result."""
    return comfy.js(
        """([kind, panel]) => {
            const node = LiteGraph.createNode(kind);
            node.pos = [100, 100];
            app.graph.add(node);
            node.onExecuted({ ddm_panel: [panel] });
            return node.id;
        }""",
        [kind, panel],
    )


def test_a_panel_shows_shares_verdict_and_counts(comfy, vue):
    comfy.open(vue=vue)
    shown = comfy.text(show(comfy, report_panel()))
    for part in (
        "not fair",
        "Men have most of the images.",
        "75% 70–80",
        "25% 20–30",
        "120 images",
        "3 undetermined",
    ):
        assert part in shown


def test_a_panel_has_room_for_all_of_it(comfy, vue):
    comfy.open(vue=vue)
    node = show(comfy, report_panel())
    comfy.page.wait_for_timeout(800)
    panel = comfy.panel(node)
    assert panel.evaluate("(root) => root.clientHeight >= root.firstChild.offsetHeight - 2")
    assert panel.evaluate("(root) => root.clientHeight") > 200
    before = comfy.js("(id) => app.graph.getNodeById(id).size[1]", node)
    panel.query_selector("summary").click()
    comfy.page.wait_for_timeout(800)
    assert comfy.js("(id) => app.graph.getNodeById(id).size[1]", node) > before
    assert panel.evaluate("(root) => root.clientHeight >= root.firstChild.offsetHeight - 2")


def test_texts_of_files_and_prompts_are_never_markup(comfy):
    comfy.open()
    group = {"name": NASTY, "share": 0.5, "low": 0.4, "high": 0.6}
    panel = report_panel(
        summary=NASTY,
        verdict={"tone": NASTY, "text": NASTY},
        remarks=[NASTY],
        prompts=[{"prompt": NASTY, "n": 2, "groups": [group]}, {"prompt": "b", "n": 2, "groups": [group]}],
    )
    panel["attributes"][0]["name"] = NASTY
    node = show(comfy, panel)
    comfy.page.wait_for_timeout(500)
    assert NASTY in comfy.text(node)
    assert comfy.panel(node).query_selector("img") is None
    assert comfy.js("() => window.hacked") is None


def test_everything_in_a_panel_can_be_reached_by_keyboard_and_read_as_a_table(comfy):
    comfy.open()
    files = {name: {"filename": f"x.{name}", "subfolder": "ddm", "type": "output"} for name in ("html", "json")}
    panel = comfy.panel(show(comfy, report_panel(files=files)))
    comfy.page.wait_for_timeout(500)
    panel.focus()
    reached = []
    for _ in range(4):
        reached.append(comfy.js("() => document.activeElement.textContent || document.activeElement.ariaLabel"))
        comfy.page.keyboard.press("Tab")
    assert reached[1:] == ["As a table", "Open full report", "Save JSON"]
    cells = [cell.text_content() for cell in panel.query_selector_all("table td, table th")]
    for part in ("man", "75%", "70% to 80%", "50%"):
        assert part in cells
    assert all(drawing.get_attribute("aria-label") for drawing in panel.query_selector_all("[role=img]"))


def test_a_saved_graph_shows_its_last_result_again(comfy, vue):
    comfy.open(vue=vue)
    show(comfy, report_panel())
    comfy.page.wait_for_timeout(800)
    saved = comfy.saved()
    assert "ddm_panel" not in json.dumps(saved["nodes"][0].get("widgets_values"))
    height = saved["nodes"][0]["size"][1]
    comfy.open(vue=vue)
    comfy.load(saved)
    comfy.page.wait_for_timeout(800)
    again = comfy.saved()["nodes"][0]
    assert "Men have most of the images." in comfy.text(again["id"])
    assert abs(again["size"][1] - height) < 4
    assert again.get("widgets_values") == saved["nodes"][0].get("widgets_values")


def test_a_cloned_node_has_a_panel_of_its_own(comfy):
    comfy.open()
    node = show(comfy, report_panel())
    texts = comfy.js(
        """(id) => {
            const node = app.graph.getNodeById(id);
            const other = node.clone();
            app.graph.add(other);
            other.onExecuted({ ddm_panel: [{ ...node.properties.ddm_panel, summary: "Another one." }] });
            return [node, other].map((one) => one.widgets.find((w) => w.name === "ddm_panel").element.textContent);
        }""",
        node,
    )
    assert "Men have most" in texts[0]
    assert "Another one." in texts[1]


def texts(comfy):
    """The text in the panel of every node."""
    return comfy.js(
        """() => app.graph._nodes.map((node) =>
            node.widgets.find((one) => one.name === "ddm_panel").element.textContent)"""
    )


def test_a_pasted_node_shows_the_result_that_was_copied(comfy, vue):
    comfy.open(vue=vue)
    node = show(comfy, report_panel())
    comfy.page.wait_for_timeout(500)
    comfy.js("(id) => { app.canvas.selectNode(app.graph.getNodeById(id)); }", node)
    comfy.page.locator("#graph-canvas").focus()
    comfy.page.keyboard.press("Control+c")
    comfy.page.keyboard.press("Control+v")
    comfy.page.wait_for_function("() => app.graph._nodes.length === 2")
    comfy.page.wait_for_timeout(800)
    assert all("Men have most of the images." in text for text in texts(comfy))
    heights = comfy.js(
        """() => app.graph._nodes.map((node) =>
            node.widgets.find((one) => one.name === "ddm_panel").element.firstChild.offsetHeight)"""
    )
    assert min(heights) > 200  # both are drawn


def undo_after(comfy, panel, then):
    """Load a graph whose node has a result, change an input, do something, and undo the change; returns the node."""
    show(comfy, panel)
    comfy.load(comfy.saved())
    node = comfy.js("() => app.graph._nodes[0].id")
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    comfy.page.wait_for_function(f"() => Boolean(app.extensionManager.workflow.activeWorkflow && {tracker})")
    comfy.js(f"() => {tracker}.checkState()")
    comfy.widget(node, "collection", "another")
    comfy.js(f"() => {tracker}.checkState()")
    then(node)
    comfy.js(f"() => {tracker}.undo()")
    value = "() => app.graph._nodes[0].widgets.find((one) => one.name === 'collection').value === ''"
    comfy.page.wait_for_function(value)
    comfy.page.wait_for_timeout(500)


def test_undo_leaves_the_result_in_its_panel(comfy, vue):
    comfy.open(vue=vue)
    undo_after(comfy, report_panel(), lambda node: None)
    (text,) = texts(comfy)
    assert "Men have most of the images." in text


def test_a_result_survives_the_undo_of_what_was_done_before_it_came(comfy):
    comfy.open()
    give = "([id, panel]) => app.graph.getNodeById(id).onExecuted({ ddm_panel: [panel] })"
    second = report_panel(summary="The second one.")
    undo_after(comfy, report_panel(summary="The first one."), lambda node: comfy.js(give, [node, second]))
    (text,) = texts(comfy)
    assert "The second one." in text


def test_the_share_of_every_prompt_is_a_large_number_the_worst_first(comfy, vue):
    comfy.open(vue=vue)
    rows = []
    for prompt, man in (("a nurse", 0.04), ("a pilot", 0.8)):
        shares = {"man": man, "woman": 1 - man}
        groups = [
            {"name": name, "share": share, "low": share - 0.04, "high": min(share + 0.04, 1)}
            for name, share in shares.items()
        ]
        verdict = {"tone": "unfair", "text": "not fair"}
        rows.append({"prompt": prompt, "n": 60, "undetermined": 0, "fd": 0.5, "verdict": verdict, "groups": groups})
    headline = {"fd": {"value": 0.5, "low": 0.4, "high": 0.6}, "floor": 0.1, "worst": None}
    panel = comfy.panel(show(comfy, report_panel(prompts=rows, headline=headline)))
    shown = panel.evaluate("(root) => [...root.querySelectorAll('.ddm-numbers li')].map((one) => one.textContent)")
    assert shown == ["a nurse96% woman92–100 of 60", "a pilot80% man76–84 of 60"]


def test_labels_of_equal_values_stand_apart(comfy):
    comfy.open()
    point = {"shares": [0.5, 0.5], "lows": None, "fd": 0.2, "quality": 0.9, "quality_name": "subject recognised"}
    points = [{"alpha": alpha, **point} for alpha in (0, 0.5, 1)]
    panel = report_panel(kind="sweep", points=points, recommended_alpha=0.5)
    node = show(comfy, panel, "DDMAlphaSweep")
    comfy.page.wait_for_timeout(800)
    boxes = comfy.panel(node).evaluate(
        """(root) => [".ddm-spot-label", ".ddm-end"].map((kind) =>
            [...root.querySelectorAll(".ddm-plot")].map((plot) =>
                [...plot.querySelectorAll(kind)].map((one) => one.getBoundingClientRect().top)))"""
    )
    tops = [plot for kind in boxes for plot in kind if len(plot) > 1]
    assert tops
    for plot in tops:
        ordered = sorted(plot)
        assert all(after - before >= 9 for before, after in pairwise(ordered)), plot


def test_the_full_report_opens_in_a_tab_and_runs_no_script(comfy, server):
    folder = server.base / "output" / "ddm"
    folder.mkdir(exist_ok=True)
    page = (
        '<!doctype html><html><head><title>R</title></head><body><p id="a">Report</p><script>a.textContent=1</script>'
    )
    (folder / "nasty.html").write_text(page, encoding="utf-8")
    comfy.open()
    file = {"filename": "nasty.html", "subfolder": "ddm", "type": "output"}
    panel = comfy.panel(show(comfy, report_panel(files={"html": file})))
    with comfy.page.expect_popup() as opened:
        panel.query_selector("button").click()
    tab = opened.value
    tab.wait_for_selector("#a")
    assert tab.text_content("#a") == "Report"
    assert tab.evaluate("document.compatMode") == "CSS1Compat"
    comfy.complaints.clear()  # the browser says that it ran no script


def test_a_report_that_is_gone_is_told_in_a_sentence(comfy):
    comfy.open()
    file = {"filename": "gone.json", "subfolder": "ddm", "type": "output"}
    panel = comfy.panel(show(comfy, report_panel(files={"json": file})))
    panel.query_selector("button").click()
    comfy.page.get_by_text("gone.json is not there any more").wait_for()
    comfy.complaints.clear()  # the browser logs the 404


def test_the_json_can_be_saved(comfy, server):
    folder = server.base / "output" / "ddm"
    folder.mkdir(exist_ok=True)
    (folder / "here.json").write_text('{"a": 1}', encoding="utf-8")
    comfy.open()
    file = {"filename": "here.json", "subfolder": "ddm", "type": "output"}
    panel = comfy.panel(show(comfy, report_panel(files={"json": file})))
    with comfy.page.expect_download() as download:
        panel.query_selector("button").click()
    assert download.value.suggested_filename == "here.json"


def test_a_panel_speaks_the_language_of_the_page(comfy, server):
    server.request("/settings", {"Comfy.Locale": "zh"})
    try:
        comfy.open()
        shown = comfy.text(show(comfy, report_panel(remarks=["A remark."])))
    finally:
        server.request("/settings", {"Comfy.Locale": "en"})
    for part in ("120 张图片", "3 张未定", "以表格显示", "其他说明（1）", "95% 区间"):
        assert part in shown
    assert "As a table" not in shown


def test_what_the_server_says_in_a_panel_is_in_the_language_of_the_page(comfy, server):
    graph = graphs.measured("a doctor\na pilot", count=20, steps=2)
    graph["check"] = {"class_type": "DDMCheckProbe", "inputs": {"report": ["measure", 2], "answers": ""}}
    outputs = server.run(graph)
    kinds = {"measure": "DDMMeasurePrompts", "check": "DDMCheckProbe"}
    server.request("/settings", {"Comfy.Locale": "zh"})
    try:
        comfy.open()
        shown = {name: comfy.text(show(comfy, outputs[name]["ddm_panel"][0], kinds[name])) for name in kinds}
    finally:
        server.request("/settings", {"Comfy.Locale": "en"})
    assert "逐提示词来看" in shown["measure"] and "探针适用于" in shown["measure"]
    assert "您看到的是谁" in shown["check"] and "其余都对" in shown["check"]
    for text in shown.values():
        told = text.replace("a doctor", "").replace("a pilot", "").replace("small emoji of people", "")
        assert re.findall(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", told) == []


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_text_can_be_read_on_its_ground(comfy, palette):
    comfy.open(palette=palette)
    panel = comfy.panel(show(comfy, report_panel()))
    comfy.page.wait_for_timeout(500)
    for selector in (".ddm-summary", ".ddm-verdict", ".ddm-muted", ".ddm-value small"):
        assert panel.evaluate(CONTRAST, selector) >= 4.5, selector


CONTRAST = """(root, selector) => {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const over = (...colours) => {
        for (const colour of colours) {
            paint.fillStyle = colour;
            paint.fillRect(0, 0, 1, 1);
        }
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = root.querySelector(selector);
    const own = getComputedStyle(found);
    const ground = [getComputedStyle(root).backgroundColor, own.backgroundColor];
    const [a, b] = [light(over("#fff", ...ground, own.color)), light(over("#fff", ...ground))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
