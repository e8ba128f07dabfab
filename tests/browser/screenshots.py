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
from .page import ComfyPage
from .test_examples import NEEDS_DOWNLOAD

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


def run_example(comfy: ComfyPage, name: str, palette: str, focus: Sequence[int] = ()) -> None:
    """Load an example, run it, and show the whole of it, or some nodes, with nothing of the page around."""
    comfy.open(palette=palette)
    comfy.load(json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")))
    if name not in NEEDS_DOWNLOAD:
        comfy.run()
    comfy.page.add_style_tag(content=BARE)
    comfy.js("() => { app.canvas.show_info = false; app.canvas.deselectAll?.(); }")
    comfy.page.wait_for_timeout(1500)
    comfy.frame(focus)


def image(comfy: ComfyPage) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(comfy.page.screenshot())).convert("RGB")


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
            made = image(comfy).resize(THUMBNAIL, Image.Resampling.LANCZOS)
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
