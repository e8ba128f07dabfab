"""The page Measure of the tab DDM: whom the selected checkpoint draws, and an adapter on it at several strengths."""

import numpy as np
import pytest
from PIL import Image

from .page import ForgePage

SMALL = {"steps": 2, "cfg": 3, "width": 64, "height": 64, "batch": 2}


@pytest.fixture(scope="module")
def page(browser, forge):
    """One page for all: each says what it asks for."""
    context = browser.new_context(viewport={"width": 1500, "height": 1400})
    opened = ForgePage(context.new_page(), forge).open()
    opened.tab("DDM")
    opened.tab("Measure")
    opened.choose("ddm_measure_probe", "gender")
    opened.unfold("ddm_measure_sampling")
    for name, value in SMALL.items():
        opened.set_number(f"ddm_measure_{name}", value)
    opened.choose("ddm_measure_sampler", "Euler a")
    yield opened
    context.close()


def start(page, prompts, count):
    page.set_text("ddm_measure_prompts", prompts)
    page.set_number("ddm_measure_count", count)
    page.page.locator("#ddm_measure_start").click()


def images(forge):
    return sorted((forge.data / "outputs" / "ddm" / "images").glob("*/*/*.png"))


def test_the_checkpoint_is_measured_in_one_click_and_goes_on_with_more_images(page, forge):
    start(page, "a sailor\na judge", 2)
    shown = page.wait_for("#ddm_measure", "too few to say")
    assert "2 prompts" in shown
    assert "unlike those that the probe for gender was made for" in shown  # this checkpoint has learnt nothing
    first = {path: path.stat().st_mtime_ns for path in images(forge)}
    assert len(first) == 4
    with page.page.expect_popup() as opened:
        page.page.locator("#ddm_measure a").click()
    assert "a sailor" in opened.value.locator("body").inner_text()
    start(page, "a sailor\na judge", 3)
    page.until(lambda: len(images(forge)) == 6, timeout=300)
    page.wait_for("#ddm_measure", "too few to say")
    assert {path: path.stat().st_mtime_ns for path in first} == first  # what is there is not made again


def test_an_adapter_is_swept_and_its_images_are_those_of_the_accordion(page, forge):
    before = set(images(forge))
    page.unfold("ddm_measure_sweep")
    page.choose("ddm_measure_adapter", "fair")
    page.set_text("ddm_measure_alphas", "0, 1")
    start(page, "a baker", 2)
    page.wait_for("#ddm_measure", "trained on another checkpoint")
    made = {}
    for path in sorted(set(images(forge)) - before):
        made.setdefault(int(path.stem), []).append(np.asarray(Image.open(path), int))
    assert [len(both) for both in made.values()] == [2, 2]
    for seed, both in made.items():
        for alpha in (0.0, 1.0):
            alone = np.asarray(
                forge.make("a baker", ddm=["fair", alpha], seed=seed, sampler_name="Euler a").images[0], int
            )
            assert min(abs(alone - one).max() for one in both) <= 1, (seed, alpha)
    page.choose("ddm_measure_adapter", "None")


def test_a_measurement_that_is_stopped_shows_what_is_there(page, forge):
    before = len(images(forge))
    start(page, "a welder", 400)
    page.until(lambda: len(images(forge)) > before, 120)
    page.page.locator("#ddm_measure_stop").click()
    page.wait_for("#ddm_measure", "Stopped: these are the images until then")


def test_what_cannot_be_measured_is_a_sentence(page):
    start(page, " ", 2)
    page.wait_for("#ddm_measure", "There is no prompt")
    page.set_number("ddm_measure_steps", 0)
    start(page, "a cook", 2)
    page.wait_for("#ddm_measure", "Steps is 0. It must be at least 1.")
    page.set_number("ddm_measure_steps", 2)


def test_no_traceback_was_printed(forge):
    assert "Traceback" not in forge.log()
