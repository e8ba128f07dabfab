"""The tab DDM in a real page: cards, audits, heads, and a training that is stopped and goes on."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.core.io import read_metadata
from comfyui_ddm.debias.core.option import settings_of
from comfyui_ddm.training.commands.config import TrainConfig
from PIL import Image

from .page import ForgePage

EMBEDDED = "tiny_people"


@pytest.fixture(scope="module")
def page(browser, forge):
    """One page for all, as nothing here depends on what it held before."""
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
    page.tab("Adapters")
    page.choose("ddm_cards_adapter", "fair")
    assert "a doctor, a pilot" in page.wait_for("#ddm_card", "Trained for")


def test_pages_that_share_a_label_have_defaults_of_their_own(page):
    steps = settings_of(TrainConfig)["steps"].default
    assert (page.number("ddm_measure_steps"), page.number("ddm_train_steps")) == (20, steps)
    assert (page.text("ddm_measure_list"), page.text("ddm_head_list")) == ("as written", "occupations")
    assert (page.text("ddm_head_name"), page.text("ddm_train_name")) == ("my_head", "my_fair_adapter")


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
    page.write_choice("ddm_train_groups", "labels:folder")
    page.until(lambda: "dark=0.75,light=0.25" in page.offered("ddm_train_target"))


def test_a_head_is_made_with_a_probe_and_the_accordion_says_what_it_is(page, forge):
    page.tab("Guidance head")
    page.pick("ddm_head_model", EMBEDDED)
    page.set_text("ddm_head_name", "tiny")
    page.choose("ddm_head_list", "as written")
    page.set_text("ddm_head_prompts", "a doctor\na nurse\na pilot\na judge")
    page.set_number("ddm_head_count", 12)
    page.choose("ddm_head_probe", "gender")
    page.page.locator("#ddm_head_start").click()
    page.wait_for("#ddm_head", "tiny is in models/ddm.")
    assert "It tells man, woman apart" in page.page.locator("#ddm_head").inner_text()
    assert "tiny.safetensors" in [path.name for path in (forge.data / "models" / "ddm").iterdir()]
    page.tab("txt2img")
    page.unfold("script_txt2img_ddm_accordion")
    page.page.locator("#script_txt2img_ddm_refresh").click()
    page.unfold("script_txt2img_ddm_guidance")
    page.until(lambda: "tiny" in page.offered("script_txt2img_ddm_heads"))
    page.choose("script_txt2img_ddm_heads", "tiny")
    page.wait_for("#script_txt2img_ddm_about_heads", "tiny: It was made for a checkpoint that is not known here")
    page.tab("DDM")


def test_a_head_for_a_checkpoint_that_cannot_be_opened_is_a_sentence(page):
    page.tab("Guidance head")
    page.pick("ddm_head_model", "the selected checkpoint")
    page.page.locator("#ddm_head_start").click()
    page.wait_for("#ddm_head", "U-Net in small.safetensors is not that of Stable Diffusion 1.x,")


def test_a_training_is_seen_stopped_and_goes_on_for_more_steps_and_lands_among_the_loras(page, folder, forge):
    train(page, folder, "shades", 120)
    page.wait_for("#ddm_train", "Loss")
    with ThreadPoolExecutor(1) as pool:
        image = pool.submit(forge.make, steps=1)
        page.until(lambda: "DDM is training shades (training," in (forge.get("/sdapi/v1/progress")["textinfo"] or ""))
        page.page.locator("#ddm_train_stop").click()
        page.wait_for("#ddm_train", "Stopped. What was trained is kept")
        assert image.result().images
    kept = forge.data / "outputs" / "ddm" / "shades.checkpoint.safetensors"
    assert kept.is_file() and not (forge.loras / "shades.safetensors").exists()
    page.set_number("ddm_train_rank", 3)
    page.page.locator("#ddm_train_start").click()
    page.wait_for("#ddm_train", "A stopped run of this name began with rank 2.")
    page.set_number("ddm_train_rank", 2)
    page.set_number("ddm_train_steps", 124)
    page.page.locator("#ddm_train_start").click()
    page.wait_for("#ddm_train", "shades.safetensors is among your LoRAs")
    assert not kept.exists()
    card = AdapterCard.from_metadata(read_metadata(forge.loras / "shades.safetensors"))
    assert (card.target, card.training["steps"]) == ({"dark": 0.5, "light": 0.5}, 124)
    page.tab("Adapters")
    page.page.locator("#ddm_cards_refresh").click()
    page.page.wait_for_timeout(3000)
    page.choose("ddm_cards_adapter", "shades")
    page.wait_for("#ddm_card", "dark 50%, light 50%")
    assert forge.make(steps=1).images  # the host makes images again


def test_time_and_memory_are_said_before_the_training(page, folder):
    page.tab("Train an adapter")
    fill(page, "train", folder)
    page.set_text("ddm_train_name", "estimated")
    page.page.locator("#ddm_train_estimate").click()
    said = page.wait_for("#ddm_train", "It takes about")
    assert "The training needs about" in said


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
