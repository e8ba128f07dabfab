"""Adapters in a real Forge, over its API: what α does to pixels, and what the infotext claims."""

import numpy as np
import pytest

from .checkpoint import save_lora
from .conftest import CARD

ALONG = [True, "constant", 0.0, 0.5, ""]  # same seed, and no schedule


def pixels(made, image=0):
    return np.asarray(made.images[image], dtype=np.int16)


def same(one, other, image=0):
    return np.array_equal(pixels(one), pixels(other, image))


@pytest.fixture
def bare(forge):
    """An image that the script has nothing to do with."""
    return forge.known()


def test_the_extension_loads_without_a_line_of_error(forge):
    start = forge.log().partition("Running on local URL")[0]
    assert "Traceback" not in start and "Error loading script" not in start
    assert [one for one in forge.get("/sdapi/v1/scripts")["txt2img"] if one == "ddm"] == ["ddm"]
    info = {(one["name"], one["is_img2img"]): one["args"] for one in forge.get("/sdapi/v1/script-info")}
    assert [arg["label"] for arg in info["ddm", False]][:2] == ["Adapter", "α"]
    assert info["ddm", False][0]["choices"] == info["ddm", True][0]["choices"] == ["None", "fair", "fairer"]


def test_alpha_0_is_bit_for_bit_the_model_as_it_was(forge, bare):
    made = forge.make(ddm=["fair", 0.0])
    assert same(made, bare) and made.setting("DDM alpha") == "0"
    assert bare.setting("DDM adapter") is None


@pytest.mark.parametrize("alpha", [1.0, 0.5, -0.5])
def test_alpha_is_bit_for_bit_the_strength_of_the_lora(forge, bare, alpha):
    made = forge.make(ddm=["fair", alpha])
    assert same(made, forge.known(f"a doctor <lora:fair:{alpha}>")) and not same(made, bare)
    assert (made.setting("DDM adapter"), made.setting("DDM alpha")) == ("fair", f"{alpha:g}")
    assert same(forge.make(), bare)


def test_it_adds_to_the_other_loras_of_a_prompt(forge):
    both = forge.make("a doctor <lora:foreign:0.7>", ddm=["fair", 0.6])
    stacked = forge.make("a doctor <lora:foreign:0.7> <lora:fair:0.6>")
    assert abs(pixels(both) - pixels(stacked)).max() <= 1
    assert not same(both, forge.make("a doctor <lora:foreign:0.7>"))


def test_every_image_of_a_batch_has_its_own_alpha(forge):
    batch = forge.make(ddm=["fair", 1.0, "0, .5, 1.5", *ALONG], batch_size=2, n_iter=3)
    assert [batch.setting("DDM alpha", i) for i in range(6)] == ["0", "0.5", "1.5"] * 2
    assert [batch.setting("Seed", i) for i in range(6)] == ["1"] * 3 + ["2"] * 3
    for i, (alpha, seed) in enumerate([(0.0, 1), (0.5, 1), (1.5, 1), (0.0, 2), (0.5, 2), (1.5, 2)]):
        alone = forge.known(ddm=["fair", alpha], seed=seed)
        assert abs(pixels(alone) - pixels(batch, i)).max() <= 1, alpha


def test_it_does_so_with_several_prompts_joined_by_and_and_without_guidance(forge):
    for prompt, scale in (("a doctor AND a pilot", 3), ("a doctor", 1)):
        batch = forge.make(prompt, ddm=["fair", 1.0, "0, 1", *ALONG], batch_size=2, cfg_scale=scale)
        for i, alpha in enumerate((0.0, 1.0)):
            alone = forge.make(prompt, ddm=["fair", alpha], cfg_scale=scale)
            assert abs(pixels(alone) - pixels(batch, i)).max() <= 1


def test_a_schedule_acts_where_it_says(forge, bare):
    early = ["fair", 1.0, "", True, "early"]
    made = forge.make(ddm=[*early, 0.0, 0.5])
    assert not same(made, bare) and not same(made, forge.known(ddm=["fair", 1.0], seed=1))
    assert (made.setting("DDM schedule"), made.setting("DDM switch")) == ("early", "0.5")
    never = forge.make(ddm=["fair", 0.0, "", True, "early", 0.0, 0.5])
    always = forge.make(ddm=["fair", 1.0, "", True, "custom", 0.0, 0.5, "0:1, 1:1"])
    assert same(never, bare)
    assert abs(pixels(always) - pixels(forge.known(ddm=["fair", 1.0], seed=1))).max() <= 1


def test_hires_fix_uses_it_in_both_passes(forge):
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "hr_cfg": 3}
    hires |= {"hr_additional_modules": ["Use same choices"]}
    made = forge.make(ddm=["fair", 1.0], **hires)
    assert made.images[0].size == (128, 128)
    assert same(made, forge.known("a doctor <lora:fair:1>", **hires))
    dial = forge.make(ddm=["fair", 1.0, "0, 1", *ALONG], batch_size=2, **hires)
    assert abs(pixels(made) - pixels(dial, 1)).max() <= 1


def test_it_works_in_img2img(forge, bare):
    import base64
    import io

    buffer = io.BytesIO()
    bare.images[0].save(buffer, "PNG")
    given = {"page": "img2img", "init_images": [base64.b64encode(buffer.getvalue()).decode()], "steps": 4}
    made = forge.make(ddm=["fair", 1.0], **given)
    assert same(made, forge.make("a doctor <lora:fair:1>", **given)) and made.setting("DDM alpha") == "1"


def test_a_file_that_was_trained_again_under_its_name_is_another_one(forge):
    file = forge.loras / "again.safetensors"
    save_lora(file, 3, CARD)
    first = forge.make(ddm=["again", 1.0])
    save_lora(file, 4, CARD)
    second = forge.make(ddm=["again", 1.0])
    save_lora(file, 3, CARD)
    assert not same(first, second) and first.setting("DDM hash") != second.setting("DDM hash")
    assert same(first, forge.make(ddm=["again", 1.0]))
    file.unlink()


@pytest.mark.parametrize(
    "asked",
    [
        ["gone", 1.0],
        ["foreign", 1.0],
        ["../fair", 1.0],
        ["broken", 1.0],
        ["other", 1.0],
        ["fair", 99.0],
        ["fair", "much"],
        ["fair", 1.0, "a, b"],
        ["fair", 1.0, "", True, "custom", 0.0, 0.5, "somewhere:1"],
        ["fair", 1.0, "", True, "sideways"],
    ],
)
def test_what_cannot_be_done_is_not_claimed_and_the_image_is_made(forge, bare, asked):
    (forge.loras / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    import torch
    from comfyui_ddm.debias.adapter.lora_file import Lora, save_adapter

    save_adapter(forge.loras / "other.safetensors", {"no.layer": Lora(torch.ones(1, 4), torch.ones(4, 1), 1.0)}, CARD)
    before = forge.log().count("Traceback")
    made = forge.make(ddm=asked)
    assert same(made, bare)
    assert made.setting("DDM adapter") is made.setting("DDM alpha") is None
    assert forge.log().count("Traceback") == before
    for name in ("broken", "other"):
        (forge.loras / f"{name}.safetensors").unlink()


def test_the_plot_has_an_axis_for_alpha(forge):
    info = next(one for one in forge.get("/sdapi/v1/script-info") if one["name"] == "x/y/z plot")
    axes = info["args"][0]["choices"]
    assert axes.count("DDM α") == 1
    axis = axes.index("DDM α")
    plot = [axis, "0, 1", [], 0, "", [], 0, "", [], True, True, False, False, False, False, False, 0, False]
    made = forge.make(ddm=["fair", 0.5], script_name="x/y/z plot", script_args=plot)
    grid, *cells = made.images
    assert len(cells) == 2 and grid.width >= 2 * 64
    for alpha, cell in zip((0.0, 1.0), cells, strict=True):
        assert np.array_equal(pixels(forge.known(ddm=["fair", alpha], seed=1)), np.asarray(cell, dtype=np.int16))
