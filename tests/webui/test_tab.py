"""The tab DDM in a real page: cards, audits, and a training that is stopped and goes on."""

import urllib.request

import numpy as np
import pytest
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.core.io import read_metadata
from PIL import Image

from .page import ForgePage

EMBEDDED = "tiny_people"


@pytest.fixture
def page(browser, forge):
    context = browser.new_context(viewport={"width": 1500, "height": 1400})
    opened = ForgePage(context.new_page(), forge).open()
    opened.tab("DDM")
    yield opened
    context.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """6 dark images and 2 light ones, in subfolders."""
    root = tmp_path_factory.mktemp("shades")
    for name, level, count in (("dark", 40, 6), ("light", 210, 2)):
        (root / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((64, 64, 3), level + i, np.uint8)).save(root / name / f"{i}.png")
    return root


def fill(page, what, folder, model=EMBEDDED):
    page.set_text(f"ddm_{what}_folder", str(folder))
    page.pick(f"ddm_{what}_model", model)
    page.write_choice(f"ddm_{what}_groups", "labels:folder")
    page.set_text(f"ddm_{what}_caption", "a shade")


def train(page, folder, name, steps, model=EMBEDDED, more=()):
    page.tab("Train an adapter")
    fill(page, "train", folder, model)
    page.set_text("ddm_train_name", name)
    for field, value in (("steps", steps), ("rank", 2), ("calibrate", 0)):
        page.set_number(f"ddm_train_{field}", value)
    if more:
        page.unfold("ddm_train_more")
    for field, value in dict(more).items():
        (page.set_text if isinstance(value, str) else page.set_number)(f"ddm_train_{field}", value)
    page.page.locator("#ddm_train_start").click()


def test_it_reads_the_cards_of_adapters(page):
    page.choose("ddm_cards_adapter", "fair")
    assert "a doctor, a pilot" in page.wait_for("#ddm_card", "Trained for")


def test_it_audits_a_folder(page, folder, forge):
    page.tab("Audit a folder")
    fill(page, "audit", folder)
    page.page.locator("#ddm_audit_start").click()
    shown = page.wait_for("#ddm_audit", "Open the whole page")
    assert "dark" in shown and "75%" in shown
    assert (forge.data / "outputs" / "ddm" / f"audit_{folder.name}.html").is_file()
    address = page.page.locator("#ddm_audit a", has_text="Open the whole page").get_attribute("href")
    with urllib.request.urlopen(f"{forge.url}/{address.removeprefix('./')}", timeout=60) as answer:
        assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_the_sources_of_groups_are_offered_with_the_columns_of_the_folder(page, folder):
    page.tab("Train an adapter")
    page.set_text("ddm_train_folder", str(folder))
    page.until(lambda: "labels:folder" in page.offered("ddm_train_groups"))


def test_a_training_is_seen_stopped_and_goes_on_and_lands_among_the_loras(page, folder, forge):
    train(page, folder, "shades", 60)
    page.wait_for("#ddm_train", "Loss")
    page.page.locator("#ddm_train_stop").click()
    page.wait_for("#ddm_train", "Stopped. What was trained is kept")
    kept = forge.data / "outputs" / "ddm" / "shades.checkpoint.safetensors"
    assert kept.is_file() and not (forge.loras / "shades.safetensors").exists()
    page.set_number("ddm_train_steps", 61)
    page.page.locator("#ddm_train_start").click()
    page.wait_for("#ddm_train", "A stopped run of this name began with steps 60.")
    page.set_number("ddm_train_steps", 60)
    page.page.locator("#ddm_train_start").click()
    page.wait_for("#ddm_train", "shades.safetensors is among your LoRAs")
    assert not kept.exists()
    card = AdapterCard.from_metadata(read_metadata(forge.loras / "shades.safetensors"))
    assert (card.target, card.training["steps"]) == ({"dark": 0.5, "light": 0.5}, 60)
    page.tab("Adapters")
    page.page.locator("#ddm_cards_refresh").click()
    page.page.wait_for_timeout(3000)
    page.choose("ddm_cards_adapter", "shades")
    page.wait_for("#ddm_card", "dark 50%, light 50%")
    assert forge.make(steps=1).images  # the host makes images again


def test_what_is_asked_for_besides_reaches_the_trainer(page, folder, forge):
    page.tab("Train an adapter")
    page.unfold("ddm_train_more")
    page.choose("ddm_train_probe", "gender")
    page.unfold("ddm_train_more")
    more = {"batch_size": 4, "learning_rate": 0.0002, "measure": 1, "trigger": "grey", "reg_data": str(folder)}
    train(page, folder, "besides", 2, more=more)
    page.wait_for("#ddm_train", "besides.safetensors is among your LoRAs")
    card = AdapterCard.from_metadata(read_metadata(forge.loras / "besides.safetensors"))
    assert (card.training["batch_size"], card.training["learning_rate"]) == (4, 0.0002)
    assert "grey, a shade" in card.concepts and "gender" in str(card.measured)


def test_the_selected_checkpoint_is_the_base(page, folder):
    train(page, folder, "other", 5, "the selected checkpoint")
    said = page.wait_for("#ddm_train", "other: Stopped")
    assert "U-Net in small.safetensors is not that of Stable Diffusion 1.x," in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folder": "/nowhere"}, "There is no folder '/nowhere' on this machine"),
        ({"name": "../out"}, "is no name for an adapter"),
        ({"name": "fair"}, "There is an adapter called fair.safetensors already"),
        ({"more": {"reg_data": "/neither"}}, "There is no folder '/neither' on this machine"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(page, folder, given, said):
    train(page, given.get("folder", folder), given.get("name", "wrong"), 5, more=given.get("more", ()))
    page.wait_for("#ddm_train", said)


def test_no_traceback_was_printed(forge):
    assert "Traceback" not in forge.log()
