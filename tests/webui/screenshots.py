"""Makes README's image of the web UI: the accordion with the adapter that comes along.

    python -m tests.webui.screenshots

It takes some minutes, and needs what the tests of the pages need.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from ..chromium import chromium
from ..conftest import ROOT  # and with it the project, which the tests load by its place
from .checkpoint import save_checkpoint
from .page import ForgePage
from .server import CHECKPOINT, Forge, find_forge

SIZE = {"width": 1400, "height": 900}
PLACE = ROOT / "examples" / "images" / "webui_accordion_light.png"
ADAPTER, HEAD = "tiny_people_fair", "gender_head"
DDM = "script_txt2img_ddm_"


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
    page.page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.page.locator(f"#{DDM}accordion").screenshot())).convert("RGB")


def main() -> None:
    """Start a host with the adapter, and take the image."""
    with tempfile.TemporaryDirectory() as folder:
        forge = Forge(find_forge(), Path(folder))
        save_checkpoint(forge.data / "models" / "Stable-diffusion" / CHECKPOINT)
        shutil.copy(ROOT / "examples" / "adapters" / f"{ADAPTER}.safetensors", forge.loras)
        shutil.copy(ROOT / "examples" / "guidance" / f"{HEAD}.safetensors", forge.data / "models" / "ddm")
        with forge, chromium() as browser:
            context = browser.new_context(viewport=SIZE, device_scale_factor=1.5)
            shot = accordion(ForgePage(context.new_page(), forge).open())
            shot.quantize(255).save(PLACE, optimize=True)
    print(f"The image is in {PLACE}.")


if __name__ == "__main__":
    main()
