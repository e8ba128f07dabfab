"""The accordion and the report in a real page."""

import pytest

from .page import ForgePage

DDM = "script_txt2img_ddm_"


@pytest.fixture
def page(browser, forge):
    context = browser.new_context(viewport={"width": 1500, "height": 1400})
    opened = ForgePage(context.new_page(), forge)
    yield opened.open()
    context.close()


def test_an_infotext_restores_all_of_it_and_makes_the_same_image(page):
    page.set_text("txt2img_prompt", "a doctor")
    page.small(seed=7)
    page.unfold(f"{DDM}accordion")
    page.choose(f"{DDM}adapter", "fair")
    page.set_number(f"{DDM}alpha", 0.65)
    page.unfold(f"{DDM}schedule")
    page.pick(f"{DDM}shape", "early")
    page.set_number(f"{DDM}end", 0.2)
    page.set_number(f"{DDM}switch", 0.3)
    page.unfold(f"{DDM}guidance")
    for head in ("guide", "age"):
        page.choose(f"{DDM}heads", head)
    page.set_number(f"{DDM}scale", 4.5)
    page.pick(f"{DDM}mode", "batch")
    page.set_text(f"{DDM}targets", "uniform; man=.2,woman=.8")
    page.generate()
    said = page.page.locator("#html_info_txt2img").inner_text()
    expected = "DDM alpha: 0.65, DDM schedule: early, DDM alpha end: 0.2, DDM switch: 0.3"
    assert "DDM adapter: fair" in said and expected in said and 'DDM guidance: "guide, age"' in said
    page.open()
    assert page.text(f"{DDM}adapter") == "None"
    page.paste(said)
    page.until(lambda: page.text(f"{DDM}adapter") == "fair")
    # What is on is open, and the heading names it.
    page.wait_for(f"#{DDM}accordion", "DDM: fair adapters (on: fair, guidance)")
    page.page.locator(f"#{DDM}targets").wait_for(state="visible")
    assert page.text("txt2img_prompt") == "a doctor"
    assert page.picked(f"{DDM}shape") == "early"
    assert [page.number(f"{DDM}{name}") for name in ("alpha", "end", "switch")] == [0.65, 0.2, 0.3]
    assert page.chosen(f"{DDM}heads") == ["guide", "age"]
    assert (page.number(f"{DDM}scale"), page.picked(f"{DDM}mode")) == (4.5, "batch")
    assert page.text(f"{DDM}targets") == "uniform; man=.2,woman=.8"
    page.generate()
    assert page.page.locator("#html_info_txt2img").inner_text() == said
    page.paste("a doctor\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 7, Size: 64x64")
    page.until(lambda: page.text(f"{DDM}adapter") == "None" and page.picked(f"{DDM}shape") == "constant")
    assert page.chosen(f"{DDM}heads") == [] and page.number(f"{DDM}scale") == 8


def test_the_card_is_shown_with_the_choice_and_its_alpha_is_taken_in_one_click(page):
    page.unfold(f"{DDM}accordion")
    page.choose(f"{DDM}adapter", "fairer")
    shown = page.wait_for(f"#{DDM}card", "At α = 1 it aims at")
    assert "man 50%, woman 50%" in shown and "trained on a checkpoint that is not known here" in shown
    page.set_number(f"{DDM}alpha", 0.3)
    page.page.locator(f"#{DDM}best").click()
    page.until(lambda: page.number(f"{DDM}alpha") == 1)


def test_a_schedule_shows_only_what_it_is_made_of(page):
    page.unfold(f"{DDM}accordion")
    page.unfold(f"{DDM}schedule")
    for shape, own in (("constant", []), ("ramp", ["end"]), ("early", ["end", "switch"]), ("custom", ["points"])):
        page.pick(f"{DDM}shape", shape)
        page.until(
            lambda own=own: (
                [name for name in ("end", "switch", "points") if page.page.locator(f"#{DDM}{name}").is_visible()] == own
            )
        )


def test_counts_are_reset_and_a_chosen_head_says_what_it_tells_apart(page):
    page.unfold(f"{DDM}accordion")
    page.unfold(f"{DDM}guidance")
    page.choose(f"{DDM}heads", "guide")
    assert "It tells man, woman apart" in page.wait_for(f"#{DDM}about_heads", "guide: It was made for")
    page.page.locator(f"#{DDM}reset_counts").click()
    page.wait_for(f"#{DDM}reset_counts", "The counts are reset")


def test_the_report_is_drawn_beside_the_gallery_after_every_run(page):
    page.set_text("txt2img_prompt", "a chef")
    page.small(batch_size=2)
    page.unfold(f"{DDM}accordion")
    page.unfold(f"{DDM}report")
    page.choose(f"{DDM}probe", "gender")
    page.generate()
    page.wait_for("#ddm_report_txt2img", "2 images")
    page.generate()
    shown = page.wait_for("#ddm_report_txt2img", "4 images")
    assert "gender" in shown and "too few to say" in shown
    with page.page.expect_popup() as opened:
        page.page.locator("#ddm_report_txt2img a").click()
    assert "gender" in opened.value.locator("body").inner_text()
    page.page.locator(f"#{DDM}clear_report").click()
    page.wait_for(f"#{DDM}clear_report", "cleared")
    page.generate()
    page.wait_for("#ddm_report_txt2img", "2 images")


def test_what_cannot_be_done_is_a_sentence_in_the_page(page):
    page.small()
    page.unfold(f"{DDM}accordion")
    page.choose(f"{DDM}adapter", "fair")
    page.set_text(f"{DDM}each", "0, lots")
    page.generate()
    said = page.page.locator("#html_log_txt2img").inner_text()
    assert "DDM: no adapter was used. 'lots' is no α." in said
    assert "DDM" not in page.page.locator("#html_info_txt2img").inner_text()
    assert page.page.locator("#txt2img_gallery img").count() >= 1
