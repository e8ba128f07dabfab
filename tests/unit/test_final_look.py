"""Never worse: a last look decides whether an adapter is recommended at all."""

import numpy as np
import pytest
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.training.evaluation.adapter_page import page_path, write_page
from comfyui_ddm.training.objectives.final_look import FinalLook, compared, shift

from .runs import prepare, write_folder

GOAL = np.array([0.5, 0.5])


def seen(before, after, images=8, seed=0):
    """Images of two groups, of shares by prompt without and with an adapter."""
    rng = np.random.default_rng(seed)
    first = np.array([[rng.random(images) < share for share in part] for part in (before, after)])
    return np.stack([first, ~first], -1).astype(float)


def look(before, after, shifts=()):
    return FinalLook(320, len(before), *compared(seen(before, after), GOAL), dict(shifts))


LEANING = [0.9, 0.1] * 10


def test_an_adapter_that_brings_each_prompt_nearer_is_recommended():
    found = look(LEANING, [0.5] * 20)
    assert not found.harm and found.high < 0 and found.before == pytest.approx(0.4 * 2**0.5, abs=0.1)
    assert found.after < 0.15


def test_one_that_pushes_every_prompt_the_same_way_is_not_though_the_whole_is_in_balance():
    found = look([0.9, 0.5] * 10, [0.7, 0.3] * 10)
    assert found.harm.startswith("In a last look at 320 new images the adapter did not bring prompts nearer: FD by ")


def test_one_that_does_nothing_is_not():
    assert "did not bring prompts nearer" in look(LEANING, LEANING).harm


def test_one_that_moves_what_nobody_asked_for_is_not():
    assert not look(LEANING, [0.5] * 20, {"tone": 0.1}).harm
    assert (
        "moved tone, which nobody asked for, by 17% of a prompt's images"
        in look(LEANING, [0.5] * 20, {"art": 0.02, "tone": 0.17}).harm
    )


def test_few_images_of_each_prompt_do_not_make_a_fair_model_look_unfair():
    found = [compared(seen([0.5] * 40, [0.5] * 40, 3, seed), GOAL)[:2] for seed in range(40)]
    assert np.mean(np.square(found)) < 0.02  # counted as they are, the squares would be .17


def test_the_interval_holds_the_change_that_there_is():
    change = -2 * 0.4**2
    intervals = [compared(seen(LEANING, [0.5] * 20, 6, seed), GOAL)[2:] for seed in range(40)]
    assert np.mean([low <= change <= high for low, high in intervals]) >= 0.85


def test_an_attribute_that_stays_does_not_move_by_chance_and_one_that_moves_does():
    still = [shift(seen([0.3, 0.7] * 10, [0.3, 0.7] * 10, 8, seed)) for seed in range(20)]
    assert np.mean(still) < 0.06
    assert shift(seen([0.3, 0.7] * 10, [0.6, 0.4] * 10, 40)) == pytest.approx(0.3, abs=0.05)


HARM = FinalLook(320, 20, 0.3, 0.3, -0.1, 0.1)


def finished(tiny_base, tmp_path, found):
    said = []
    run = prepare(tiny_base, write_folder(tmp_path / "images", 28, 7), tmp_path / "fair.safetensors", note=said.append)
    run.last_look = lambda progress=None: found
    assert run.train()
    return load_adapter(run.out).card, said


def test_the_file_of_one_that_does_not_help_recommends_0_and_says_why(tiny_base, tmp_path):
    card, said = finished(tiny_base, tmp_path, HARM)
    assert card.recommended_alpha == 0 and card.description.endswith(HARM.harm) and HARM.harm in said
    assert card.training["last_look"]["after"] == 0.3
    write_page(tmp_path / "fair.safetensors")
    assert "did not bring prompts nearer" in page_path(tmp_path / "fair.safetensors").read_text("utf-8")


def test_the_file_of_one_that_helps_recommends_what_the_weights_promise(tiny_base, tmp_path):
    card, said = finished(tiny_base, tmp_path, FinalLook(320, 20, 0.4, 0.1, -0.2, -0.1))
    assert card.recommended_alpha > 0 and not said


def test_other_columns_are_looked_at_where_they_differ_within_captions(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images", 16)
    rows = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    lines = [
        row[:-1] + f', "tone": "{("light", "dark")[n // 2 % 2]}", "role": "{("doctor", "judge")[n % 2]}"}}'
        for n, row in enumerate(rows)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"calibrate": 4, "steps": 2})
    assert run.train()
    found = run.look
    assert set(found.shifts) == {"tone"}
    assert found.images == 4 and found.prompts == 1, "so few images are all of one prompt"
    assert np.isfinite([found.before, found.after, found.low, found.high]).all()
