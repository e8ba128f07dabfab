"""Guidance in our own sampler and galleries."""

import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.debias.methods.guidance_hook import GuidanceHooks
from comfyui_ddm.debias.methods.h_space import HSpace, TokenHSpace
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule, new_module
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.loop.checkpoint import checkpoint_path
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.sampling.generate import generate_batches
from comfyui_ddm.training.sampling.guidance import SamplingGuidance
from typer.testing import CliRunner

from .runs import write_folder


def random_head(attribute="gender", base_hash="", channels=32):
    generator = torch.Generator().manual_seed(0)
    weight, push = (torch.randn(2, 2, channels, 4, 4, generator=generator) for _ in range(2))
    return HSpaceClassifier(
        ("man", "woman"), attribute, (100, 900), weight / 20, torch.zeros(2, 2), push, (1, 1), base_hash
    )


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def head_file(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    random_head(base_hash=base.hash).save(path)
    return path


@pytest.fixture
def ddm():
    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


def test_only_the_conditional_half_is_pushed(base):
    text = base.encode_text(["", "", "a doctor", "a doctor"])
    noisy = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = base.run_denoiser(noisy, torch.tensor(500), text)
        with SamplingGuidance([Guidance(random_head())]).on(base, ["a doctor"] * 2):
            pushed = base.run_denoiser(noisy, torch.tensor(500), text)
        after = base.run_denoiser(noisy, torch.tensor(500), text)
    assert torch.equal(pushed[:2], plain[:2])
    assert not torch.isclose(pushed[2:], plain[2:]).all()
    assert torch.equal(after, plain)


def test_an_image_remembers_the_word_by_which_guidance_left_it_alone():
    steering = SamplingGuidance([Guidance(random_head()), Guidance(random_head("age"), scale=0)])
    assert steering.left_alone("a nurse and her husband") == {"left_alone": {"gender": "her"}}
    assert steering.left_alone("a nurse") == {}


def test_pushes_of_several_attributes_add_up_each_as_one_of_several(base):
    text = base.encode_text(["a doctor"] * 2)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    handle = base.denoiser.up_blocks[0].register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["hidden_states"]), with_kwargs=True
    )
    guides = [Guidance(random_head(), scale=1.0), Guidance(random_head("age"), scale=2.0)]
    with torch.inference_mode():
        for chosen in ([], guides):
            with SamplingGuidance(chosen).on(base, ["a doctor"] * 2):
                base.run_denoiser(noisy, torch.tensor(500), text)
        for guide in guides:
            guide.begin(["a doctor"] * 2, together=2)
            hooks = GuidanceHooks(
                base.denoiser, HSpace(base.denoiser.mid_block), [guide], lambda rows, _: [slice(rows)]
            )
            base.run_denoiser(noisy, torch.tensor(500), text)
            hooks.remove()
    handle.remove()
    plain, both, one, two = seen
    assert torch.allclose(both - plain, (one - plain) + (two - plain), atol=1e-5)


def test_every_sampler_and_number_of_steps_will_do(base):
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler.from_config(base.scheduler.config)
    for options in ({"steps": 1}, {"steps": 7}, {"steps": 3, "scheduler": scheduler}, {"guidance_scale": 1.0}):
        guide = Guidance(random_head())
        batches = generate_batches(
            base, ["a"] * 3, range(3), steering=SamplingGuidance([guide]), **{"steps": 2, **options}
        )
        assert [len(batch.counted) for batch in batches] == [3]
        assert guide.tally.total.sum() == 3


def test_a_batch_that_is_cancelled_does_not_count(base):
    guide = Guidance(random_head())
    batches = generate_batches(
        base, ["a"] * 2, range(2), steps=2, steering=SamplingGuidance([guide]), cancelled=lambda: True
    )
    assert list(batches) == []
    assert guide.tally.total.sum() == 0


def test_the_correction_is_r_times_the_module(base):
    module = new_module(4, 32, sum(p.numel() for p in base.denoiser.parameters()))
    torch.nn.init.normal_(module.leave.weight)
    text = base.encode_text(["", "a doctor"])
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(500)
    with torch.inference_mode():
        plain = base.run_denoiser(noisy, t, text)
        with SamplingGuidance(invariant=module, strength=0.5).on(base, ["a doctor"]):
            corrected = base.run_denoiser(noisy, t, text)
        assert torch.allclose(corrected, plain + 0.5 * module(noisy, t, text.tokens), atol=1e-6)


def sample(ddm, tiny_base, head_file, out, *more, code=0):
    given = ["sample", "--base", tiny_base, "--out", out, "--steps", 2, "--device", "cpu", "--per-prompt", 4]
    return ddm(*given, "--prompts", "a doctor;a pilot", "--batch-size", 2, "--guide", head_file, *more, code=code)


def test_a_stopped_queue_goes_on_counting_where_it_was(ddm, tiny_base, head_file, tmp_path):
    out = tmp_path / "out"
    sample(ddm, tiny_base, head_file, out)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["counted"]["gender"] in ("man", "woman") for row in rows)
    assert rows[0]["guides"][0]["scale"] == 8.0
    before = {row["file_name"]: (out / row["file_name"]).read_bytes() for row in rows}
    for row in rows[4:]:
        (out / row["file_name"]).unlink()
    sample(ddm, tiny_base, head_file, out)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_explicit_prompts_are_as_without_guidance_and_are_not_counted(ddm, tiny_base, head_file, tmp_path):
    given = ("--prompts", "a doctor;a tall doctor")
    for name, more in (("bare", ("--guide-scale", 0)), ("said", ("--guide-words", "tall, short"))):
        sample(ddm, tiny_base, head_file, tmp_path / name, *more, *given)
    bare, said = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.png")}
        for name in ("bare", "said")
    )
    same = {str(file): bare[file] == said[file] for file in bare}
    assert len(same) == 8 and all(equal == ("tall" in file) for file, equal in same.items())


def test_images_of_another_scale_are_not_mixed_in(ddm, tiny_base, head_file, tmp_path):
    sample(ddm, tiny_base, head_file, tmp_path / "out")
    said = sample(ddm, tiny_base, head_file, tmp_path / "out", "--guide-scale", 4, code=2).stderr
    assert "other settings" in said


def test_a_head_for_another_base_warns(ddm, tiny_base, tmp_path):
    random_head(base_hash="00").save(tmp_path / "other.safetensors")
    result = sample(ddm, tiny_base, tmp_path / "other.safetensors", tmp_path / "out")
    assert "Warning: other.safetensors was made for another base model" in result.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--guide-target", "man=.5"), "leaves out 'woman'"),
        (("--guide-target", "uniform", "--guide-target", "uniform"), "2 targets for 1 heads"),
        (("--guide-words", "man", "--guide-words", "boy"), "2 lists of words for 1 heads"),
        (("--invariant", "nowhere.safetensors"), "no file nowhere.safetensors"),
    ],
)
def test_mistakes_are_sentences(ddm, tiny_base, head_file, tmp_path, more, said):
    assert said in sample(ddm, tiny_base, head_file, tmp_path / "out", *more, code=2).stderr


def test_two_heads_for_one_attribute_are_a_sentence(ddm, tiny_base, head_file, tmp_path):
    said = sample(ddm, tiny_base, head_file, tmp_path / "out", "--guide", head_file, code=2).stderr
    assert "one attribute" in said


def test_the_commands_make_files_that_sample_takes(ddm, tiny_base, tmp_path):
    images = write_folder(tmp_path / "images", count=20, rare=3)
    head, module = tmp_path / "head.safetensors", tmp_path / "module.safetensors"
    given = (images, "--base", tiny_base, "--device", "cpu", "--json")
    made = json.loads(ddm("head", *given, "--groups", "labels:gender", "--out", head).stdout)
    assert (made["attribute"], made["names"]) == ("gender", ["man", "woman"])
    made = json.loads(ddm("invariant", *given, "--steps", 2, "--batch-size", 4, "--groups", 2, "--out", module).stdout)
    assert made["share_of_base"] <= 0.05
    sample(ddm, tiny_base, head, tmp_path / "out", "--invariant", module)
    refused = ddm("head", *given, "--groups", "discovered", "--out", tmp_path / "none.safetensors", code=2).stderr
    assert "Nothing is out of balance here" in refused and not (tmp_path / "none.safetensors").exists()
    assert np.isfinite(InvariantModule.load(module).leave.weight.numpy()).all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("head", "images", "--out", "x.safetensors"), "Say once who is in the images"),
        (("head", "--groups", "labels:gender", "--out", "x.safetensors"), "nothing to learn from"),
        (("head", "images", "--groups", "labels:a,b", "--out", "x.safetensors"), "Make a head for each"),
        (("head", "images", "--groups", "gender", "--out", "x.safetensors"), "“gender” is not known"),
        (("head", "images", "--groups", "labels:a", "--out", "x.pt"), "x.pt is none"),
        (("invariant", "--out", "x.safetensors"), "nothing to learn from"),
        (("invariant", "images", "--out", "x.ckpt"), "x.ckpt is none"),
    ],
)
def test_commands_say_what_is_missing(ddm, command, said):
    assert said in ddm(*command, code=2).stderr


@pytest.mark.parametrize("command", ["align", "head", "invariant", "probe"])
def test_a_file_of_somebody_else_is_never_replaced(ddm, tmp_path, command):
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"somebody's checkpoint")
    given = {
        "align": ("--probe", "p.safetensors", "--prompts", "a doctor"),
        "head": ("images", "--groups", "labels:a"),
        "invariant": ("images",),
        "probe": ("images", "--labels", "a"),
    }
    said = ddm(command, *given[command], "--out", taken, code=2).stderr
    assert "There is a file" in said and "that ddm wrote" in said
    assert taken.read_bytes() == b"somebody's checkpoint"


def test_a_mistake_throws_no_stopped_run_away(ddm, tmp_path):
    out = tmp_path / "module.safetensors"
    kept = checkpoint_path(out)
    kept.write_bytes(b"of a stopped run")
    assert "There is no folder" in ddm("invariant", tmp_path / "nowhere", "--out", out, "--restart", code=2).stderr
    assert kept.read_bytes() == b"of a stopped run"


@pytest.mark.parametrize("text_first", [False, True])
def test_a_push_moves_the_image_tokens_of_a_row_and_no_word(text_first):
    generator = torch.Generator().manual_seed(0)
    image, words = torch.randn(2, 16, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    space, shape = TokenHSpace(torch.nn.Identity(), None, text_first), (2, 4, 8, 8)
    rows = [words, image] if text_first else [image, words]
    h = space.read(torch.cat(rows, 1), shape)
    assert torch.equal(h.flatten(2).transpose(1, 2), image)
    moved = space.push(torch.cat(rows, 1), h, h + 1, shape)
    sizes = [one.shape[1] for one in rows]
    for before, after in zip(rows, moved.split(sizes, 1), strict=True):
        torch.testing.assert_close(after, before + (before is image))
