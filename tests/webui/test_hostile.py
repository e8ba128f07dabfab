"""Adapters and requests that are made to do harm, in a real Forge: what is good beside them goes on working."""

import urllib.error
import urllib.request

import pytest

from ..hostile import HOSTILE, write_hostile
from .page import ForgePage


@pytest.fixture(scope="module")
def loras(forge):
    """The server's LoRAs, with hostile ones among them."""
    written = write_hostile(forge.loras / "fair.safetensors", forge.loras)
    yield forge.loras
    for name in written:
        (forge.loras / f"{name}.safetensors").unlink()


def test_the_lists_show_the_good_ones(forge, loras, browser):
    context = browser.new_context(viewport={"width": 1500, "height": 1400})
    page = ForgePage(context.new_page(), forge).open()
    page.page.evaluate("() => { window.alert = () => { window.harmed = true; }; }")
    accordion = "script_txt2img_ddm_"
    page.unfold(f"{accordion}accordion")
    page.page.locator(f"#{accordion}refresh").click()
    page.page.wait_for_timeout(3000)
    for name in ("a page", "control characters", "fairer"):
        page.choose(f"{accordion}adapter", name)
        page.wait_for(f"#{accordion}card", "At α = 1 it aims at")
    page.tab("DDM")
    page.page.locator("#ddm_cards_refresh").click()
    page.page.wait_for_timeout(3000)
    page.choose("ddm_cards_adapter", "fair")
    page.wait_for("#ddm_card", "a doctor, a pilot")
    assert page.page.evaluate("() => window.harmed") is None
    context.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_adapter_is_used_or_not_claimed_and_then_a_good_one_works(forge, loras, name):
    before = forge.log().count("Traceback")
    made = forge.make(ddm=[name, 1.0])
    assert (made.setting("DDM adapter") == name) == (name in ("a page", "control characters"))
    assert forge.make(ddm=["fair", 1.0]).setting("DDM adapter") == "fair"
    assert forge.log().count("Traceback") == before


@pytest.mark.parametrize("values", [[None] * 18, [{}] * 18, [[]] * 18, [1e999] * 18, ["x"] * 40])
def test_values_of_other_types_make_the_image_all_the_same(forge, values):
    before = forge.log().count("Traceback")
    assert len(forge.make(ddm=values).images) == 1
    assert forge.log().count("Traceback") == before


@pytest.mark.parametrize("token", ["0" * 32, "..%2f..%2fconfig.json", "%00", "a/b"])
def test_a_report_is_served_to_nobody_who_does_not_know_its_address(forge, token):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{forge.url}/ddm/page/{token}", timeout=60)
