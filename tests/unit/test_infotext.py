"""α as a web UI asks for it."""

import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.hosts.infotext import ALPHA, END, POINTS, SHAPE, SWITCH, Dial, parse_alphas


def dial(alphas, shape="constant", end=0.0, switch=0.5, points=""):
    return Dial.of(alphas, shape, end, switch, points)


def test_one_alpha_for_all_is_a_constant():
    assert dial([0.7]).constant == 0.7
    assert dial([0.7, 0.7]).constant == 0.7
    assert dial([0.5], "early", end=0.5).constant == 0.5
    assert dial([0.0, 1.0]).constant is None
    assert dial([1.0], "ramp").constant is None


def test_the_images_of_a_run_take_turns():
    assert dial([0.0, 0.5, 1.0]).strengths(999, 4, range(2, 6)) == [1.0, 0.0, 0.5, 1.0]


def test_a_call_for_guidance_has_every_image_twice():
    assert dial([0.0, 1.0]).strengths(999, 4, [0, 1]) == [0.0, 1.0, 0.0, 1.0]


def test_rows_that_belong_to_no_image_are_refused():
    with pytest.raises(DDMError, match="3 images at once in a batch of 2"):
        dial([0.0, 1.0]).strengths(999, 3, [0, 1])


@pytest.mark.parametrize(("timestep", "alpha"), [(999, 1.0), (600, 1.0), (400, 0.2), (0, 0.2), (1200, 1.0)])
def test_early_changes_where_it_says(timestep, alpha):
    assert dial([1.0], "early", end=0.2).strengths(timestep, 1, [0]) == [alpha]


def test_an_infotext_says_what_makes_the_image_again():
    several = dial([0.0, 0.5], "early", end=0.25, switch=0.4)
    assert several.infotext(ALPHA, 3) == ["0", "0.5", "0"]
    assert [several.infotext(name, 3) for name in (SHAPE, END, SWITCH)] == ["early", "0.25", "0.4"]
    custom = dial([1.0], "custom", points=" 0:1, 1:0 ")
    assert (custom.infotext(POINTS, 2), custom.infotext(ALPHA, 2)) == ("0:1, 1:0", None)
    assert dial([1.0]).infotext(SHAPE, 1) is None


def test_a_report_names_a_schedule_and_not_a_constant():
    assert dial([0.0, 1.0]).label(1) == ""
    assert dial([1.0], "ramp").label(0) == "alpha 1, ramp, alpha end 0"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([9.0],), "Choose α between"),
        (([1.0], "sideways"), "'sideways' is unknown"),
        (([0.0, 1.0], "custom", 0, 0, "0:1"), "say α already"),
    ],
)
def test_what_is_no_dial_is_refused_in_a_sentence(given, said):
    with pytest.raises(DDMError, match=said):
        dial(*given)


def test_numbers_are_read_as_people_write_them():
    assert parse_alphas(" 0, .5;1 ,") == [0.0, 0.5, 1.0]
    assert parse_alphas("") == []
    for wrong in ("a", "1, b", "nan", "1 2"):
        with pytest.raises(DDMError, match="is no α"):
            parse_alphas(wrong)
