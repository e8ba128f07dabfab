"""The side bar, with eleven adapters that are made to do harm beside a good one."""

import shutil

import pytest

from ..comfy.server import ADAPTER, PACK
from ..hostile import write_hostile

SHIPPED = PACK / "examples" / "adapters" / ADAPTER


@pytest.fixture
def loras(server):
    """The server's folder of LoRAs, emptied after the test."""
    folder = server.base / "models" / "loras"
    write_hostile(SHIPPED, folder)
    shutil.copy(SHIPPED, folder / "a good one.safetensors")
    yield
    for path in folder.iterdir():
        path.unlink()


def test_the_sidebar_shows_the_good_ones_and_runs_nothing(comfy, loras):
    comfy.open()
    comfy.js("() => { window.alert = () => { window.harmed = true; }; }")
    comfy.js("() => void app.extensionManager.command.execute('Workspace.ToggleSidebarTab.ddm')")
    entry = comfy.page.locator(".ddm-sidebar .ddm-entry", has_text="a good one")
    entry.get_by_role("button", name="Add to graph").click()
    assert comfy.saved()["nodes"][0]["widgets_values"][0] == "a good one.safetensors"
    shown = comfy.page.locator(".ddm-sidebar .ddm-list").text_content()
    assert ADAPTER.removesuffix(".safetensors") in shown and "<img src=x" in shown
    assert comfy.js("() => window.harmed") is None
    comfy.complaints[:] = [one for one in comfy.complaints if "/view_metadata/" not in one]  # of files that are none
