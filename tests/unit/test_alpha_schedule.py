import pytest
from comfyui_ddm.debias.adapter.alpha_schedule import PIECES, AlphaSchedule
from comfyui_ddm.debias.core.error import DDMError


def test_a_constant_is_one_step():
    assert AlphaSchedule.constant(0.7).steps() == [(0.0, 0.7)]


def test_early_switches_exactly_where_it_is_told():
    schedule = AlphaSchedule.early(1.0, 0.0, 0.33)
    assert schedule.steps() == [(0.0, 1.0), (0.33, 0.0)]
    assert (schedule.at(0.329), schedule.at(0.33), schedule.at(1.0)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("switch", "steps"), [(0.0, [(0.0, 0.2)]), (1.0, [(0.0, 0.9)])])
def test_a_switch_at_an_end_leaves_one_strength(switch, steps):
    assert AlphaSchedule.early(0.9, 0.2, switch).steps() == steps


def test_a_ramp_takes_the_middle_of_each_piece():
    steps = AlphaSchedule.ramp(0.0, 1.0).steps()
    assert len(steps) == PIECES
    assert steps[0] == (0.0, pytest.approx(0.5 / PIECES))
    assert steps[-1] == (pytest.approx(1 - 1 / PIECES), pytest.approx(1 - 0.5 / PIECES))


def test_a_ramp_between_equal_strengths_is_a_constant():
    assert AlphaSchedule.ramp(0.4, 0.4).steps() == [(0.0, 0.4)]


def test_points_may_come_in_any_order_and_with_spaces():
    schedule = AlphaSchedule.parse(" 1 : 0 ,0:1,  .4:.5; ")
    assert schedule.points == ((0.0, 1.0), (0.4, 0.5), (1.0, 0.0))
    assert schedule.at(0.2) == pytest.approx(0.75)


def test_before_the_first_point_and_after_the_last_the_strength_stays():
    schedule = AlphaSchedule.parse(".3:.5, .6:1")
    assert (schedule.at(0.0), schedule.at(0.3), schedule.at(0.9)) == (0.5, 0.5, 1.0)
    assert schedule.steps()[0] == (0.0, 0.5)
    assert schedule.steps()[-1] == (0.6, 1.0)


def test_of_several_points_at_one_position_the_last_counts():
    assert AlphaSchedule.parse("0:1, .5:1, .5:.3, .5:0").steps() == [(0.0, 1.0), (0.5, 0.0)]


def test_the_curve_reaches_both_ends():
    curve = AlphaSchedule.parse(".3:.5, .6:1").curve()
    assert [(one["position"], one["alpha"]) for one in curve] == [(0.0, 0.5), (0.3, 0.5), (0.6, 1.0), (1.0, 1.0)]


@pytest.mark.parametrize(
    "text", ["", " , ", "x", "0", "0:1:2", "0:one", "2:1", "-1:1", "0:3", "0:-2", "0:nan", "0:inf"]
)
def test_what_is_no_schedule_is_refused_in_a_sentence(text):
    with pytest.raises(DDMError, match=r"^[A-Z'].+\.$"):
        AlphaSchedule.parse(text)
