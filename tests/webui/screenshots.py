"""Makes images of the web UI, for docs/ and to look at: the accordion, and pages of the tab, in both themes.

    python -m tests.webui.screenshots [FOLDER]

It takes some minutes, and needs what the tests of the pages need.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ..chromium import chromium
from ..conftest import ROOT  # and with it the project, which the tests load by its place
from .checkpoint import save_checkpoint
from .page import ForgePage
from .server import CHECKPOINT, Forge, find_forge

SIZE = {"width": 1400, "height": 1000}
PLACE = ROOT / "examples" / "images"
ADAPTER, HEAD = "tiny_people_fair", "gender_head"
DDM = "script_txt2img_ddm_"
SMALL = {"count": 12, "steps": 2, "width": 64, "height": 64, "batch": 12}


def accordion(page: ForgePage) -> Image.Image:
    """The accordion with an adapter, the dial over a batch, guidance, and a report."""
    page.unfold(f"{DDM}accordion")
    page.choose(f"{DDM}adapter", ADAPTER)
    page.wait_for(f"#{DDM}card", "Recommended α")
    page.set_text(f"{DDM}each", "0, .5, 1")
    page.unfold(f"{DDM}guidance")
    page.choose(f"{DDM}heads", HEAD)
    page.page.mouse.click(5, 5)
    page.unfold(f"{DDM}report")
    page.choose(f"{DDM}probe", "gender")
    page.page.mouse.click(5, 5)
    page.page.wait_for_timeout(2000)
    return taken(page, f"#{DDM}accordion")


def measure(page: ForgePage) -> Image.Image:
    """The tab's page Measure, with what was measured; the model's weights are random, so it draws nobody."""
    page.tab("DDM")
    page.tab("Measure")
    page.choose("ddm_measure_probe", "gender")
    page.unfold("ddm_measure_sampling")
    for name, value in SMALL.items():
        page.set_number(f"ddm_measure_{name}", value)
    page.page.locator("#ddm_measure_start").click()
    page.wait_for("#ddm_measure", "Open the whole page")
    page.page.wait_for_timeout(1000)
    return taken(page, "#ddm_tabs")


def head(page: ForgePage) -> Image.Image:
    """The tab's page Guidance head, while nothing is made."""
    page.tab("DDM")
    page.tab("Guidance head")
    page.unfold("ddm_head_own")
    return taken(page, "#ddm_tabs")


def train(page: ForgePage) -> Image.Image:
    """The tab's page Train an adapter, with the time and memory that it takes."""
    page.tab("DDM")
    page.tab("Train an adapter")
    page.pick("ddm_train_model", "tiny_people")
    page.set_text("ddm_train_folder", str(ROOT / "examples" / "people_emoji"))
    page.until(lambda: "labels:gender" in page.offered("ddm_train_groups"))
    page.write_choice("ddm_train_groups", "labels:gender")
    page.page.locator("#ddm_train_estimate").click()
    page.wait_for("#ddm_train", "It takes about")
    return taken(page, "#ddm_tabs")


def taken(page: ForgePage, place: str) -> Image.Image:
    """The image of an element."""
    return Image.open(io.BytesIO(page.page.locator(place).screenshot())).convert("RGB")


def main(place: Path = PLACE) -> None:
    """Start a host with the adapter, and take the images."""
    with tempfile.TemporaryDirectory() as folder:
        forge = Forge(find_forge(), Path(folder))
        save_checkpoint(forge.data / "models" / "Stable-diffusion" / CHECKPOINT)
        shutil.copy(ROOT / "examples" / "adapters" / f"{ADAPTER}.safetensors", forge.loras)
        shutil.copy(ROOT / "examples" / "guidance" / f"{HEAD}.safetensors", forge.data / "models" / "ddm")
        with forge, chromium() as browser:
            for theme in ("light", "dark"):
                for shot in (accordion, measure, head, train):
                    context = browser.new_context(viewport=SIZE, device_scale_factor=1.5)
                    image = shot(ForgePage(context.new_page(), forge).open(theme))
                    image.quantize(255).save(place / f"webui_{shot.__name__}_{theme}.png", optimize=True)
                    context.close()
    print(f"The images are in {place}.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
