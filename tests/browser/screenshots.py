"""Makes the images of the pack: the thumbnails of the example workflows, and what README shows.

    python -m tests.browser.screenshots [NAME ...]

Names are those of examples; without any, everything is made. It takes some minutes, and needs what the browser tests
need.
"""

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..chromium import chromium
from ..comfy.server import PACK, Server, find_host
from ..comfy.workflow import HEAD, IN_PLACE_OF, NEEDS_DOWNLOAD, SMALL
from .page import ComfyPage

EXAMPLES = PACK / "example_workflows"
SHOWN = PACK / "examples" / "images"
THUMBNAIL, JPEG_QUALITY = (640, 400), 86
# Screenshots for README: the example, the size of the window, what to do before.
SCREENSHOTS = {
    "before_and_after": ("Before and after", (1720, 1110)),
    "alpha_sweep": ("Alpha sweep", (1560, 1400)),
    "measure_my_model": ("Measure my model", (1560, 1400)),
    "fair_images": ("Fair images", (1500, 830)),
}
# All but the canvas and what lies on it.
BARE = """.comfyui-body-top, .comfyui-body-left, .comfyui-body-right, .comfyui-body-bottom, .side-tool-bar-container,
    .graph-canvas-menu, .minimap-main-container, .litegraph-minimap, .p-toast, .actionbar-container,
    .workflow-tabs-container, .p-buttongroup, [data-testid="minimap-container"], .top-menubar,
    .comfy-menu-button-wrapper { display: none !important; }"""


# What images of the small model look well with.
SHARP = {"steps": 12, "cfg": 3, "batch_size": 8, "value": "a doctor", "sampler_name": "euler", "scheduler": "simple"}
SHARP |= {"prompts": "a firefighter\na doctor\na pilot\na nurse", "count": 16}
# Gives every input of a graph that has one of these names a value.
SET = """([values, head]) => {
    for (const node of app.graph._nodes) {
        const own = node.type === "DDMTrainHead" ? { ...values, ...head } : values;
        for (const widget of node.widgets ?? []) if (widget.name in own) widget.value = own[widget.name];
    }
}"""

# What a thumbnail shows of an example; without an entry, all of it.
FOCUS = {
    "Fair images": (2, 8),
    "Before and after": (13,),
    "Alpha sweep": (8,),
    "Measure my model": (3,),
    "Audit a folder": (1, 2),
    "Train an adapter": (2,),
    "Alpha schedule": (2, 8),
    "Guided images": (2, 8),
}
# Examples whose panel is the result, and taller than a thumbnail: its upper part is shown, by the node's id.
CARDS = {
    "Measure my SDXL model": 3,
    "Measure my SD 1.5 model": 3,
    "Prove it (SDXL)": 6,
    "Prove it (SD 1.5)": 6,
}
for kind in ("SDXL", "SD 1.5"):
    FOCUS |= {f"Balance my {kind} model (guidance)": (6, 10), f"Train a fair adapter for my {kind} model": (3, 9)}


def on_the_small_model(workflow: dict[str, Any]) -> dict[str, Any]:
    """An example for a model that is not here, for the small one instead."""
    for node in workflow["nodes"]:
        if other := IN_PLACE_OF.get(node["type"]):
            node |= {"type": other["class_type"], "widgets_values": list(other["inputs"].values()), "inputs": []}
    return workflow


def run_example(comfy: ComfyPage, name: str, palette: str, focus: Sequence[int] = ()) -> None:
    """Load an example, run it, and show the whole of it, or some nodes, with nothing of the page around."""
    comfy.open(palette=palette)
    workflow = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    shown = name in FOCUS or name in CARDS
    if "CheckpointLoaderSimple" in {node["type"] for node in workflow["nodes"]} and shown:
        comfy.load(on_the_small_model(workflow))
        comfy.js(SET, [SMALL | SHARP, HEAD | {name: SMALL[name] for name in ("prompts", "count")}])
    else:
        comfy.load(workflow)
    if name not in NEEDS_DOWNLOAD or shown:
        comfy.run()
    comfy.page.add_style_tag(content=BARE)
    comfy.js("() => { app.canvas.show_info = false; app.canvas.deselectAll?.(); }")
    comfy.page.wait_for_timeout(1500)
    comfy.frame(focus)


def image(comfy: ComfyPage) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(comfy.page.screenshot())).convert("RGB")


def card(comfy: ComfyPage, node: int) -> Image.Image:
    """The upper part of a node's panel, in the shape of a thumbnail."""
    comfy.frame([node])
    made = Image.open(io.BytesIO(comfy.panel(node).screenshot())).convert("RGB")
    return made.crop((0, 0, made.width, made.width * THUMBNAIL[1] // THUMBNAIL[0]))


def open_page(browser: Any, server: Server, size: tuple[int, int], scale: float = 1) -> ComfyPage:
    """A page in a window of a size in pixels."""
    window = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=window, device_scale_factor=scale)
    return ComfyPage(context.new_page(), server)


def main(names: list[str]) -> None:
    """Make the images of the named examples."""
    wanted = names or [path.stem for path in EXAMPLES.glob("*.json")]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(find_host(), Path(folder)) as server,
        chromium() as browser,
    ):
        for name in wanted:
            comfy = open_page(browser, server, (THUMBNAIL[0] * 5 // 2, THUMBNAIL[1] * 5 // 2))
            run_example(comfy, name, "dark", FOCUS.get(name, ()))
            made = (card(comfy, CARDS[name]) if name in CARDS else image(comfy)).resize(
                THUMBNAIL, Image.Resampling.LANCZOS
            )
            made.save(EXAMPLES / f"{name}.jpg", quality=JPEG_QUALITY, optimize=True)
            comfy.page.context.close()
        for stem, (name, size) in SCREENSHOTS.items():
            if name not in wanted:
                continue
            for palette in ("light", "dark"):
                comfy = open_page(browser, server, size)
                run_example(comfy, name, palette)
                image(comfy).quantize(255).save(SHOWN / f"{stem}_{palette}.png", optimize=True)
                comfy.page.context.close()
        print(f"The images are in {EXAMPLES} and {SHOWN}.")


if __name__ == "__main__":
    main(sys.argv[1:])
