"""The accordion of A1111 1.8, 1.10 and Forge Neo: distribution guidance."""

import pytest
import torch

from . import host
from .host import GUIDED

UP, DOWN = 2.0, -2.0


def test_images_that_are_made_together_are_guided_to_the_target(run, heads, model):
    calls = []
    model.model.diffusion_model.register_forward_hook(lambda unet, inputs, made: calls.append(made))
    run(prompts=["a doctor"] * 2)
    moved, infotexts, p = run(prompts=["a doctor"] * 2, **GUIDED)
    assert sorted(round(one, 2) for one in moved) == [DOWN, UP]
    assert torch.equal(calls[1][2:], calls[0][2:])  # the half without a prompt
    assert infotexts[0] == infotexts[1]
    said = {name.removeprefix("DDM guidance").strip(): value for name, value in infotexts[0].items()}
    assert len(said.pop("hash")) == 12
    assert said == {"": "gender", "scale": "2", "mode": "queue", "target": "uniform"}
    assert "made for another model" in p.comments[0] and len(p.comments) == 1


def test_single_images_are_counted_over_runs_unless_each_is_by_itself(run, heads):
    assert [round(run(**GUIDED)[0][0], 2) for _ in range(3)] == [DOWN, UP, UP]
    assert [round(run(keep_counts=False, **GUIDED)[0][0], 2) for _ in range(2)] == [DOWN, DOWN]


def test_counts_are_reset_for_the_heads_that_are_chosen(run, heads):
    from comfyui_ddm.webui import script

    assert [round(run(**GUIDED)[0][0], 2) for _ in range(2)] == [DOWN, UP]
    run(**GUIDED)
    assert script._reset_counts(["gender"], "uniform")["value"] == "The counts are reset"
    assert round(run(**GUIDED)[0][0], 2) == DOWN
    assert "Choose heads" in script._reset_counts([], "uniform")["value"]
    assert "no head called" in script._reset_counts(["gone"], "uniform")["value"]


def test_a_second_pass_over_the_images_does_not_count_them_twice(run, heads, door):
    from comfyui_ddm.webui import guiding

    run(prompts=["a doctor"] * 2, p={"passes": 2}, **GUIDED)
    (tally,) = guiding.TALLIES._kept.values()
    assert tally.total.sum() == 2


def test_it_asks_for_other_shares_of_several_attributes_and_goes_with_an_adapter(run, heads):
    moved, infotexts, _ = run(
        "people/fair", 0.5, heads=["gender", "age"], scale=2.0, targets="man=0,woman=1; man=1,woman=0"
    )
    assert round(moved[0], 2) == 0.5
    assert infotexts[0]["DDM guidance target"] == "man=0,woman=1; man=1,woman=0"
    assert infotexts[0]["DDM guidance"] == "gender, age" and infotexts[0]["DDM alpha"] == "0.5"
    assert round(run(targets="man=0,woman=1", mode="batch", **GUIDED)[0][0], 2) > 1


def test_a_prompt_that_says_who_is_meant_is_left_alone(run, heads):
    asked = {"prompts": ["a doctor", "a woman doctor", "a boy"]}
    moved, infotexts, p = run(**asked, **GUIDED)
    assert [one != 0 for one in moved] == [True, False, False] and "DDM guidance words" not in infotexts[0]
    assert "DDM: guidance leaves alone what the prompt says itself (woman, boy)." in p.comments
    moved, infotexts, _ = run(words="boy, girl", **asked, **GUIDED)
    assert [one != 0 for one in moved] == [True, True, False]
    assert infotexts[0]["DDM guidance words"] == "boy, girl"


def test_an_image_that_guidance_left_alone_claims_none_and_says_why(run, heads, door):
    both = {"heads": ["gender", "age"], "scale": 2.0, "targets": "uniform; uniform", "words": "lady; elderly"}
    _, infotexts, _ = run(prompts=["a doctor", "a lady"], **both)
    if issubclass(door.module.DDMScript, host.NewerScript):
        assert "DDM guidance left alone" not in infotexts[0]
        assert infotexts[0]["DDM guidance"] == "gender, age" and infotexts[1]["DDM guidance"] == "age"
        assert (infotexts[1]["DDM guidance target"], infotexts[1]["DDM guidance words"]) == ("uniform", "elderly")
    assert infotexts[1]["DDM guidance left alone"] == "lady"
    _, infotexts, _ = run(prompts=["a lady"], **GUIDED)
    assert infotexts == [{"DDM guidance left alone": "lady"}]


def test_scale_0_is_the_model_as_it_was(run, heads):
    assert run(heads=["gender"], scale=0.0)[0] == [0.0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"heads": ["gone"]}, "There is no head called 'gone'"),
        ({"heads": ["../ddm/gender"]}, "There is no head called"),
        ({"heads": ["gender", "other"]}, "for one attribute"),
        ({"heads": ["gender"], "targets": "cat=1,dog=0"}, "cat"),
        ({"heads": ["gender"], "targets": "uniform; uniform"}, "2 targets for 1 heads"),
        ({"heads": ["gender"], "scale": "much"}, "is a number"),
        ({"heads": ["gender"], "mode": "sideways"}, "queue or batch"),
        ({"heads": ["gender"], "prompts": ["a doctor AND a pilot"]}, "Prompts with AND"),
        ({"heads": ["other"]}, "reads 8 channels"),
    ],
)
def test_what_cannot_be_guided_is_said_and_not_claimed(run, heads, asked, said):
    moved, infotexts, p = run(**asked)
    assert moved == [0.0] and infotexts == [{}]
    assert p.comments[-1].startswith("DDM: these images were not guided.") and said in p.comments[-1]
