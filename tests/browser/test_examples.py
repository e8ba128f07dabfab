"""The example workflows, as a new user meets them: from the template browser to an image."""

import json

import pytest

from ..comfy.workflow import NEEDS_DOWNLOAD
from .conftest import EXAMPLES

PROMPTS = "a man doctor\na woman doctor\na man pilot\na woman pilot"
CLASSES = "man: a man\nwoman: a woman"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_loads_from_the_template_browser_and_runs_as_it_is(comfy, example, name):
    comfy.open()
    comfy.choose_template(name)
    types = sorted(node["type"] for node in example(name)["nodes"])
    comfy.page.wait_for_function(
        "(types) => JSON.stringify(app.graph._nodes.map((node) => node.type).sort()) === JSON.stringify(types)",
        arg=types,
    )
    if name in NEEDS_DOWNLOAD:
        return
    outputs = comfy.run()
    images = [file for one in outputs.values() for file in one.get("images", []) if file["type"] == "output"]
    assert images
    panels = {int(node): one["ddm_panel"][0] for node, one in outputs.items() if "ddm_panel" in one}
    for node, panel in panels.items():
        shown = comfy.text(node)
        for attribute in panel["attributes"]:
            for group in attribute["groups"]:
                assert group["name"] in shown
                assert f"{round(100 * group['share'])}%" in shown
        if panel["kind"] in ("report", "compare", "sweep", "audit"):
            assert panel["summary"] in shown
            assert panel["verdict"]["text"] in shown
        if panel["kind"] == "compare":
            report = json.loads(comfy.server.view(panel["files"]["json"]))
            assert [said for said in measured(report) if said not in shown] == []


def measured(report):
    """What a panel says of the figures in the JSON file of a comparison."""
    first = report["attributes"][0]
    after = first["overall"][report["after"]]
    yield report["summary"]
    yield f"FD by prompt{after['fd']['value']:.2f}"
    for name, share in zip(first["classes"], after["shares"], strict=True):
        low, high = (round(100 * share[end]) for end in ("low", "high"))
        yield f"{name}{round(100 * share['value'])}% {low}–{high}"


def test_before_and_after_says_the_alpha_of_the_adapter(comfy, example):
    comfy.open()
    comfy.load(example("Before and after"))
    comfy.widget(2, "alpha", 0.25)
    comfy.widget(5, "batch_size", 4)
    # The collections of the example hold images of another strength where it has run already.
    comfy.widget(11, "collection", "at none")
    comfy.widget(12, "collection", "at a quarter")
    outputs = comfy.run()
    (compared,) = outputs["13"]["ddm_panel"]
    assert "at α = 0.25" in compared["summary"] and "α = 1" not in compared["summary"]
    assert compared["summary"] in comfy.text(13)
    assert "α = 0.25, seed 0, prompt “a pilot”" in comfy.text(12)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_has_a_thumbnail_and_a_note(name, example):
    assert (EXAMPLES / f"{name}.jpg").stat().st_size < 200_000
    assert any(node["type"] == "MarkdownNote" for node in example(name)["nodes"])


@pytest.mark.parametrize("path", sorted((EXAMPLES.parent / "subgraphs").glob("*.json")), ids=lambda path: path.stem)
def test_a_blueprint_is_one_node_that_runs_and_shows_its_panels(comfy, path):
    """Hosts that know blueprints of packs list them by themselves; others load the file."""
    blueprint = json.loads(path.read_text(encoding="utf-8"))
    comfy.open()
    comfy.load(blueprint)
    comfy.js(WIRE, {"count": 4, "width": 64, "height": 64, "prompts": PROMPTS, "classes": CLASSES})
    outputs = comfy.run()
    panels = [one["ddm_panel"][0] for one in outputs.values() if "ddm_panel" in one]
    assert panels
    shown = comfy.js(
        """() => [...app.graph.subgraphs.values()].flatMap((one) => one.nodes)
            .flatMap((node) => node.widgets.filter((one) => one.name === "ddm_panel").map((one) => one.element))
            .map((one) => one.textContent)"""
    )
    summary = next(panel["summary"] for panel in panels)
    assert any(summary in text for text in shown)


# Connects what a blueprint needs, and makes it small: the inputs of one node, and what is in it.
WIRE = """(values) => {
    const [node] = app.graph._nodes;
    const add = (kind, more = {}) => {
        const made = LiteGraph.createNode(kind);
        app.graph.add(made);
        for (const [name, value] of Object.entries(more)) made.widgets.find((one) => one.name === name).value = value;
        return made;
    };
    const loader = add("DDMLoadWeights");
    const from = { MODEL: [loader, 0], CLIP: [loader, 1], VAE: [loader, 2], DDM_PROBE: [add("DDMLoadProbe"), 0] };
    node.inputs.forEach(({ type }, place) => from[type] && from[type][0].connect(from[type][1], node, place));
    for (const inner of [...app.graph.subgraphs.values()].flatMap((one) => one.nodes))
        for (const widget of inner.widgets ?? []) {
            if (widget.name in values) widget.value = values[widget.name];
            if (inner.type === "DDMTrainHead" && widget.name === "probe") widget.value = "gender.safetensors";
            if (widget.name === "prompt_list") widget.value = "as written";
        }
    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
    node.outputs.forEach((output, place) => {
        if (output.type === "MODEL") {
            const text = add("CLIPTextEncode", { text: "a doctor" });
            const latent = add("EmptyLatentImage", { width: 64, height: 64 });
            const sampler = add("KSampler", { steps: 2, cfg: 3 });
            const image = add("PreviewImage");
            const decode = add("VAEDecode");
            loader.connect(1, text, 0);
            node.connect(place, sampler, sampler.findInputSlot("model"));
            for (const side of ["positive", "negative"]) text.connect(0, sampler, sampler.findInputSlot(side));
            latent.connect(0, sampler, sampler.findInputSlot("latent_image"));
            sampler.connect(0, decode, 0);
            loader.connect(2, decode, 1);
            decode.connect(0, image, 0);
        } else if (output.type === "IMAGE") node.connect(place, add("PreviewImage"), 0);
    });
}"""
