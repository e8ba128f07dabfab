"""A run from folder to file: the same bytes however often it is stopped, and a card that says what it is."""

import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import content_hash, load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.data.dataset import folder_set, self_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.loop.checkpoint import checkpoint_path
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import load_lora_into, set_alpha
from comfyui_ddm.training.objectives.calibration import Calibration
from comfyui_ddm.training.objectives.ddm_run import Run

from .runs import prepare, settings, write_folder, write_tones


@pytest.fixture(scope="module")
def trained(tiny_base, folder, tmp_path_factory):
    """A run that was not stopped, with a style."""
    root = tmp_path_factory.mktemp("whole")
    run = prepare(tiny_base, folder, root / "fair.safetensors", style=root / "style.safetensors")
    steps = []
    assert run.train(lambda *figures: steps.append(figures))
    return run, root, steps


EVERY = torch.arange(4)


def after(count):
    """A question that says yes the count-th time it is asked, and from then on."""
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count


def test_a_complete_run_leaves_its_files_and_nothing_else(trained):
    _, root, steps = trained
    assert sorted(path.name for path in root.iterdir()) == ["fair.safetensors", "style.safetensors"]
    assert steps[-1][:2] == (4, 4) and np.isfinite(steps[-1][2]) and 0 < steps[-1][3] <= 1


def test_a_run_that_was_stopped_gives_the_same_bytes_and_so_does_one_that_was_not(trained, tiny_base, folder, tmp_path):
    _, root, _ = trained
    files = {"style": tmp_path / "style.safetensors"}
    first = prepare(tiny_base, folder, tmp_path / "fair.safetensors", **files)
    assert not first.resume()
    assert not first.train(stop=after(2))
    assert first.training.step == 2 and [path.name for path in tmp_path.iterdir()] == ["fair.checkpoint.safetensors"]
    again = prepare(tiny_base, folder, tmp_path / "fair.safetensors", **files)
    assert again.resume() and again.training.step == 2
    assert again.train()
    for name in ("fair.safetensors", "style.safetensors"):
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes()
    assert not checkpoint_path(tmp_path / "fair.safetensors").exists()


def test_a_file_gives_what_the_trained_model_gives(trained, tiny_base):
    run, root, _ = trained
    base = load_base(tiny_base)
    # In the order of training: sums of floats depend on it.
    for name, file in (("debias", "fair"), ("style", "style")):
        assert load_lora_into(base.denoiser, load_adapter(root / f"{file}.safetensors"), name, base.hash) is None
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    outputs = []
    for unet in (run.base.denoiser, base.denoiser):
        set_alpha(unet, "debias", 0.75)
        with torch.no_grad():
            outputs.append(unet(latents, torch.tensor([10, 400]), torch.ones(2, 77, 32)).sample)
    assert torch.equal(*outputs)


def test_the_card_says_what_the_adapter_was_trained_for(trained):
    run, root, _ = trained
    card = load_adapter(root / "fair.safetensors").card
    assert (card.objective, card.groups, card.target) == ("ddm", "labels:gender", {"man": 0.5, "woman": 0.5})
    assert card.base_hash == run.base.hash and card.alpha_max == 1.5 and card.concepts == ["a doctor", "a judge"]
    assert card.training["steps"] == 4 and card.training["images"] == 8 and card.training["calibration"] is None
    assert card.predicted[0]["shares"] == [0.75, 0.25] and card.predicted[0]["alpha"] == 0
    assert card.predicted[-1]["alpha"] == 1.5 and {"fd", "ess"} <= set(card.predicted[0])
    assert card.recommended_alpha == run.recommended
    style = load_adapter(root / "style.safetensors").card
    assert (style.objective, style.base_hash) == ("style", run.base.hash)


def test_the_scale_is_calibrated_and_the_card_says_how(tiny_base, folder, tmp_path):
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"calibrate": 4, "steps": 3})
    assert not run.train(stop=after(5))
    assert run.checkpoint.exists() and not run.out.exists()
    again = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"calibrate": 4, "steps": 3})
    assert again.resume() and again.training.step == 3
    done = []
    assert again.train(calibration_progress=lambda *figures: done.append(figures))
    assert done[-1][0] == done[-1][1]
    adapter = load_adapter(again.out)
    found = adapter.card.training["calibration"]
    assert 0.5 <= found["scale"] <= 2 and len(found["progress"]) == 3 and len(found["goal"]) == 2
    assert [lora.alpha for lora in adapter.modules.values()] == pytest.approx(
        [2 * found["scale"] / again.objective.alpha_range_scale] * len(adapter.modules)
    )


@pytest.mark.parametrize(("scale", "warned"), [(2.9, False), (3.0, True)])
def test_an_adapter_that_hardly_learnt_what_it_should_says_so(tiny_base, tmp_path, scale, warned):
    said = []
    run = prepare(tiny_base, write_folder(tmp_path / "images"), tmp_path / "fair.safetensors", note=said.append)
    run.calibrate = lambda *_, **__: Calibration(scale, (0, 1, 2), (0.0, 0.06, 0.11), ((0.5, 0.5),) * 3, (0.5, 0.5))
    assert run.train()
    assert any("6% of the way" in text and "more steps" in text for text in said) == warned


def test_a_mild_target_is_learnt_from_further_along_the_dial_by_a_weaker_lora(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images", 28, 7)

    def made(target):
        out = tmp_path / f"{target.partition(',')[0]}.safetensors"
        run = prepare(tiny_base, folder, out, target=target, changes={"calibrate": 0, "steps": 2})
        assert run.train()
        (strength,) = {lora.alpha for lora in load_adapter(out).modules.values()}
        drawn = [run.objective.sampler.draw(step).alpha for step in range(200)]
        return run.objective.alpha_range_scale, strength, np.abs(drawn).max()

    assert made("uniform") == (1.0, 2.0, pytest.approx(1.5, abs=0.05))
    reach, strength, furthest = made("man=.75,woman=.25")
    assert 1.5 < reach < 3
    assert strength == pytest.approx(2 / reach)
    assert furthest == pytest.approx(1.5 * reach, abs=0.05 * reach)


def test_of_more_than_two_groups_the_weights_are_made_for_what_the_base_makes(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images", 12, 3)
    write_tones(folder)

    def begun(groups):
        changes = {"calibrate": 4, "steps": 2}
        return prepare(tiny_base, folder, tmp_path / "fair.safetensors", groups, changes=changes)

    assert not begun("labels:gender").needs_base_shares
    run, looked = begun("labels:tone"), []
    shares = run.base_shares()
    assert run.needs_base_shares and len(shares) == 3 and shares.sum() == pytest.approx(1) and (shares > 0).all()
    assert not run.train(stop=after(2), base_progress=lambda *figures: looked.append(figures))
    assert looked and run.training.step == 0 and run.checkpoint.exists()
    again = begun("labels:tone")
    assert again.resume() and not again.train(stop=lambda: again.training.step == 1)
    last, looked = begun("labels:tone"), []
    assert last.resume() and not last.needs_base_shares
    assert last.train(base_progress=lambda *figures: looked.append(figures)) and not looked
    weights = last.grouping.weighting.starting_from(last.grouping.groups, [shares])
    assert last.objective.sampler.weighting.log_ratio == pytest.approx(weights.log_ratio, abs=1e-5)
    assert load_adapter(last.out).card.training["calibration"]["shares"][0] == pytest.approx(shares)


def test_each_prompt_is_corrected_by_what_it_lacks_before_the_last_steps(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images", 12)

    def begun(by_prompt=2, name="fair"):
        changes = {"by_prompt": by_prompt, "prompt_share": 0.5, "steps": 4, "ema": 0.5}
        return prepare(tiny_base, folder, tmp_path / f"{name}.safetensors", changes=changes)

    run, looked = begun(), []
    assert not begun(0).needs_prompt_shares and run.needs_prompt_shares and run.objective.correction_start_step == 2
    assert not run.train(stop=after(4), prompts_progress=lambda *figures: looked.append(figures))
    assert looked and run.training.step == 2 and not len(run.objective.prompt_group_shares)
    again = begun()
    assert again.resume() and not again.train(stop=lambda: again.training.step == 3)
    shares = again.objective.prompt_group_shares.double().numpy()
    assert shares.shape == (2, 2) and (shares > 0).all()
    last, looked = begun(), []
    assert last.resume() and not last.needs_prompt_shares
    assert last.train(prompts_progress=lambda *figures: looked.append(figures)) and not looked
    wanted = last.grouping.weighting.corrected(last.grouping.targets, [shares])
    assert last.objective.sampler.weighting.log_ratio == pytest.approx(wanted.log_ratio)
    training = load_adapter(last.out).card.training
    assert training["by_prompt"] == 2 and len(training["prompts"]) == 2
    (found,) = training["prompts"][1]["found"]
    assert list(found["shares"].values()) == pytest.approx(shares[1], abs=1e-4)
    whole = begun(name="whole")
    assert whole.train() and content_hash(whole.out) == content_hash(last.out)


@pytest.mark.parametrize(
    "groups, count, why", [("labels:gender", 4, "4 images do not teach"), ("discovered", 12, "no groups were found")]
)
def test_a_run_that_cannot_look_at_each_prompt_says_so_and_is_like_one_that_does_not(
    tiny_base, tmp_path, groups, count, why
):
    folder, notes = write_folder(tmp_path / "images", count), []

    def begun(name, by_prompt):
        changes = {"by_prompt": by_prompt, "prompt_share": 0.5, "steps": 2}
        return prepare(
            tiny_base,
            folder,
            tmp_path / f"{name}.safetensors",
            groups,
            changes=changes,
            note=lambda text, *_: notes.append(text),
        )

    run, plain = begun("each", 2), begun("plain", 0)
    assert (
        [why in note for note in notes] == [True]
        and run.objective.correction_start_step == 2
        and not run.needs_prompt_shares
    )
    assert run.train() and plain.train() and content_hash(run.out) == content_hash(plain.out)
    training = load_adapter(run.out).card.training
    assert training["by_prompt"] == 0 and training["prompts"] == []


def test_too_few_images_to_calibrate_are_trained_all_the_same(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "images", 3, 3)
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors", changes={"calibrate": 4, "steps": 1})
    assert run.train()
    assert load_adapter(run.out).card.training["calibration"] is None


@pytest.fixture
def stopped(tiny_base, folder, tmp_path):
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors")
    assert not run.train(stop=after(1))
    return run


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("settings", r"learning rate \(.*, now 0\.0005\)"),
        ("style", "style, style steps"),
        ("target", r"target \(uniform, now man=\.4,woman=\.6\)"),
        ("labels", "labels"),
        ("captions", "images"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(stopped, tiny_base, folder, tmp_path, other, said):
    options = {
        "settings": {"changes": {"learning_rate": 5e-4}},
        "style": {"style": tmp_path / "style.safetensors"},
        "target": {"target": "man=.4,woman=.6"},
    }.get(other, {})
    if other in ("labels", "captions"):
        folder = write_folder(tmp_path / "others")
        table = folder / "metadata.jsonl"
        text = table.read_text(encoding="utf-8")
        text = text.replace('"woman"', '"man"', 1) if other == "labels" else text.replace("a judge", "a pilot")
        table.write_text(text, encoding="utf-8")
    run = prepare(tiny_base, folder, stopped.out, **options)
    with pytest.raises(DDMError, match=f"belongs to a run with other .*{said}"):
        run.resume()
    assert stopped.checkpoint.exists()


def test_a_stopped_run_may_be_given_other_steps_but_not_fewer_than_are_made(stopped, tiny_base, folder):
    notes = []
    more = prepare(tiny_base, folder, stopped.out, changes={"steps": 9}, note=notes.append)
    assert more.resume() and more.training.step == stopped.training.step
    assert any("goes on with other steps" in one and "now 9" in one for one in notes)
    assert more.train() and load_adapter(stopped.out).card.training["steps"] == 9


def test_fewer_steps_than_are_made_are_refused(tiny_base, folder, tmp_path):
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors")
    assert not run.train(stop=after(2))
    with pytest.raises(DDMError, match=r"other steps \(\d+, now 1\)"):
        prepare(tiny_base, folder, run.out, changes={"steps": 1}).resume()


def test_a_copy_of_the_images_goes_on_from_the_checkpoint(stopped, tiny_base, tmp_path):
    assert prepare(tiny_base, write_folder(tmp_path / "copy"), stopped.out).resume()


def test_a_loss_that_is_not_finite_ends_the_run_and_the_last_good_state_survives(tiny_base, folder, tmp_path):
    run = prepare(tiny_base, folder, tmp_path / "fair.safetensors", checkpoint_every=1, changes={"steps": 30})
    advance = run.training.advance

    def diverge(stop):
        made = advance(stop)
        if run.training.step == 3:
            with torch.no_grad():
                run.training.parameters[0].fill_(float("nan"))
        return made

    run.training.advance = diverge
    with pytest.raises(DDMError, match=r"no longer finite at step 3,.*learning rate lower"):
        run.train()
    again = prepare(tiny_base, folder, run.out, changes={"steps": 30})
    assert again.resume() and again.training.step == 2 and not run.out.exists()
    assert all(torch.isfinite(parameter).all() for parameter in again.training.parameters)


def test_the_bases_own_images_can_be_the_set_or_be_mixed_in(tiny_base, folder, tmp_path):
    base = load_base(tiny_base)
    own = self_set(base, ["a pilot", "a cook"], 2, seed=0)
    assert own.captions == ["a pilot", "a pilot", "a cook", "a cook"] and len(own.latents) == 4
    assert not any(deviation.any() for _, deviation in own.latents.rows)
    again = self_set(base, ["a pilot", "a cook"], 2, seed=0)
    assert torch.equal(own.latents[EVERY], again.latents[EVERY]) and own.fingerprint == again.fingerprint
    assert self_set(base, ["a pilot"], 1, seed=1).fingerprint != own.fingerprint
    with pytest.raises(DDMError, match="have no labels"):
        own.column("gender")
    both = folder_set(base, read_folder(folder)) + own
    assert len(both.latents) == len(both.captions) == 12
    assert both.column("gender") == ["man", "man", "man", "woman"] * 2 + [None] * 4
    run = Run(base, both, tmp_path / "fair.safetensors", groups="labels:gender", settings=settings(steps=1))
    assert run.train()
    assert load_adapter(run.out).card.training["images"] == 12


def test_an_image_counts_as_often_as_its_folder_says(tiny_base, tmp_path):
    for name, rare in (("3_women", 1), ("1_men", 99)):
        write_folder(tmp_path / "set" / name, 2, rare)
        (tmp_path / "set" / name / "metadata.jsonl").unlink()
    base = load_base(tiny_base)
    images = folder_set(base, read_folder(tmp_path / "set", "a doctor"))
    assert len(images.captions) == len(images.latents) == 8
    assert sorted(images.column("folder")) == ["men"] * 2 + ["women"] * 6


def test_discovered_groups_give_the_same_bytes_twice(tiny_base, folder, tmp_path):
    files = []
    for name in ("one", "two"):
        run = prepare(tiny_base, folder, tmp_path / name / "fair.safetensors", "discovered", changes={"steps": 2})
        assert run.train()
        files.append(run.out.read_bytes())
    assert files[0] == files[1]
    card = load_adapter(run.out).card
    assert card.target is None and card.recommended_alpha == 0.0 and json.dumps(card.predicted)
