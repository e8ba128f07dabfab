import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.groups.target import Target, check_target

NAMES = ("man", "woman")


def test_a_uniform_target_gives_every_class_the_same():
    assert Target.uniform("abcd").shares.tolist() == [0.25] * 4


def test_shares_are_read_in_any_order_and_kept_in_the_order_of_the_classes():
    target = Target.parse(" woman = .25, man=.75 ", NAMES)
    assert target.names == NAMES
    assert target.shares.tolist() == [0.75, 0.25]


def test_uniform_is_a_word():
    assert Target.parse(" Uniform ", NAMES) == Target.uniform(NAMES)


def test_a_target_reads_back_from_its_own_text():
    target = Target.parse("man=.7,woman=.3", NAMES)
    assert np.allclose(Target.parse(str(target), NAMES).shares, target.shares)


def test_thirds_may_be_rounded():
    assert Target.parse("a=.333,b=.333,c=.333", "abc").shares.sum() == pytest.approx(1)


def test_a_class_may_have_an_equals_sign_in_its_name():
    assert Target.parse("a=b=.5,c=.5", ("a=b", "c")).shares.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        "man=.5",
        "man=.5,man=.5",
        "man=.5,dog=.5",
        "man=1.5,woman=-.5",
        "man=.5,woman=.4",
        "man=x,woman=.5",
        "half",
        "",
        "man=nan,woman=1",
    ],
)
def test_a_wrong_target_is_refused_with_the_classes_named(text):
    with pytest.raises(DDMError) as caught:
        Target.parse(text, NAMES)
    assert "man" in str(caught.value) and "woman" in str(caught.value)


def test_a_target_over_other_classes_names_both_lists():
    with pytest.raises(DDMError) as caught:
        Target.parse("cat=.5,dog=.5", NAMES)
    assert all(name in str(caught.value) for name in ("cat", "dog", "man", "woman"))
    with pytest.raises(DDMError) as caught:
        Target.uniform(("cat", "dog")).ordered_as(NAMES)
    assert all(name in str(caught.value) for name in ("cat", "dog", "man", "woman"))


@pytest.mark.parametrize("text", ["uniform", " Uniform", "man=.5,woman=.5", "a=.2,b=.3,c=.5"])
def test_what_could_be_a_target_passes_before_the_classes_are_known(text):
    check_target(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("men & women", "Write 'uniform'"),
        ("man=1", "at least two"),
        ("a=.5,a=.5", "twice"),
        ("a=.9,b=.9", "sum to 1.8"),
    ],
)
def test_what_no_probe_could_have_as_a_target_is_refused_before_the_classes_are_known(text, said):
    with pytest.raises(DDMError, match=said):
        check_target(text)
