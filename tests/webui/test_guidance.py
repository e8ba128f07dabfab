"""Distribution guidance in a real Forge, over its API."""

import numpy as np
import pytest

HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "hr_cfg": 3}
HIRES |= {"hr_additional_modules": ["Use same choices"]}


def asked(heads=("guide",), scale=8.0, mode="queue", targets="uniform", keep_counts=False, adapter="None", alpha=1.0):
    before = [adapter, alpha, "", True, "constant", 0.0, 0.5, "", "None", "None", "uniform", True]
    return [*before, list(heads), scale, mode, targets, keep_counts]


def same(one, other, image=0):
    return np.array_equal(np.asarray(one.images[0]), np.asarray(other.images[image]))


@pytest.fixture
def bare(forge):
    """An image that the script has nothing to do with."""
    return forge.known()


def test_its_controls_come_last_in_the_api(forge):
    info = {(one["name"], one["is_img2img"]): one["args"] for one in forge.get("/sdapi/v1/script-info")}
    labels = [arg["label"] for arg in info["ddm", False]]
    ours = ["Heads in models/ddm, one for each attribute", "Scale", "Mode", "Target", "Count over runs"]
    assert labels[-6:] == [*ours, "Words that leave a prompt alone, such as man, woman, boy"]


def test_scale_0_is_bit_for_bit_the_model_as_it_was_and_so_is_the_next_run(forge, bare):
    assert same(forge.make(ddm=asked(scale=0.0)), bare)
    guided = forge.make(ddm=asked())
    assert not same(guided, bare) and same(forge.make(), bare)
    said = {name: guided.setting(f"DDM guidance{name}") for name in ("", " scale", " mode", " target")}
    assert said == {"": "guide", " scale": "8", " mode": "queue", " target": "uniform"}
    assert bare.setting("DDM guidance") is None


@pytest.mark.parametrize("prompt", ["a doctor", "a doctor AND a pilot"])
def test_only_what_is_asked_for_is_pushed(forge, prompt):
    """At CFG 0 nothing but the half without the prompt is seen."""
    assert same(forge.make(prompt, cfg_scale=0), forge.make(prompt, cfg_scale=0, ddm=asked()))
    assert not same(forge.make(prompt, cfg_scale=1), forge.make(prompt, cfg_scale=1, ddm=asked()))


def test_a_prompt_that_says_who_is_meant_is_left_alone(forge):
    prompt = "a (woman:1.1) doctor"
    bare, made = forge.make(prompt), forge.make(prompt, ddm=asked())
    assert same(made, bare) and made.setting("DDM guidance") is None
    assert made.setting("DDM guidance left alone") == "woman"
    made = forge.make(prompt, ddm=[*asked(), "boy, girl"])
    assert not same(made, bare) and made.setting("DDM guidance words") == "boy, girl"


def test_single_images_are_balanced_over_the_queue(forge):
    man, woman = (forge.known(ddm=asked(targets=target), seed=1) for target in ("man=1,woman=0", "man=0,woman=1"))
    assert not same(man, woman)
    first = forge.make(ddm=asked())
    assert same(first, man)  # and what is seen is always a man, so it is women that are missing from now on
    for _ in range(2):
        assert same(forge.make(ddm=asked(keep_counts=True)), woman)
    assert same(forge.make(ddm=asked()), first)


def test_a_batch_is_balanced_within(forge):
    batch = forge.make(ddm=asked(), batch_size=4)
    ways = []
    for place in range(4):
        man, woman = (
            forge.known(ddm=asked(targets=target), seed=1 + place) for target in ("man=1,woman=0", "man=0,woman=1")
        )
        near = [
            np.abs(np.asarray(one.images[0], int) - np.asarray(batch.images[place], int)).max() <= 1
            for one in (man, woman)
        ]
        assert sum(near) == 1
        ways.append(near.index(True))
    assert sorted(ways) == [0, 0, 1, 1]


def test_several_attributes_an_adapter_and_hires_fix_go_together(forge):
    everything = asked(["guide", "age"], targets="uniform; man=.2,woman=.8", adapter="fair", alpha=0.5)
    made = forge.make(ddm=everything, **HIRES)
    assert made.images[0].size == (128, 128)
    assert (made.setting("DDM guidance"), made.setting("DDM alpha")) == ("guide, age", "0.5")
    assert made.setting("DDM guidance target") == "uniform; man=.2,woman=.8"
    assert not same(made, forge.make(ddm=asked(adapter="fair", alpha=0.5), **HIRES))
    assert not same(made, forge.make("a doctor <lora:fair:0.5>", **HIRES))


def test_it_works_in_img2img(forge, bare):
    import base64
    import io

    buffer = io.BytesIO()
    bare.images[0].save(buffer, "PNG")
    given = {"page": "img2img", "init_images": [base64.b64encode(buffer.getvalue()).decode()], "steps": 4}
    made = forge.make(ddm=asked(), **given)
    assert made.setting("DDM guidance") == "guide" and not same(made, forge.make(**given))


@pytest.mark.parametrize(
    "wrong",
    [
        asked(["gone"]),
        asked(["wide"]),
        asked(["guide"], scale="much"),
        asked(["guide"], targets="cat=1,dog=0"),
        asked(["guide", "age"], targets="uniform; uniform; uniform"),
        asked(["guide"], mode="sideways"),
    ],
)
def test_what_cannot_be_guided_is_not_claimed_and_the_image_is_made(forge, bare, wrong):
    before = forge.log().count("Traceback")
    made = forge.make(ddm=wrong)
    assert same(made, bare) and made.setting("DDM guidance") is None
    assert forge.log().count("Traceback") == before
