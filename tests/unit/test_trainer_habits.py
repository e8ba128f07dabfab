"""What a trainer's options of these names promise everywhere: each does what it does in other trainers."""

import json
import math

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import kohya_name, load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.data.caption_table import CaptionTable
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.loop.optimizer import SCHEDULERS, schedule
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import export_parts
from comfyui_ddm.training.sampling.generate import generate
from PIL import Image
from typer.testing import CliRunner

from .runs import prepare

LONG = "a " * 100


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture
def ddm(tiny_base, tmp_path):
    def run(*arguments):
        given = ["train", "--base", tiny_base, "--out", tmp_path / "fair.safetensors", "--rank", 2, "--calibrate", 0]
        result = CliRunner().invoke(app, [str(argument) for argument in (*given, "--device", "cpu", *arguments)])
        assert result.exit_code == 0, result.output
        return result

    return run


# Learning rate


def test_the_usual_schedule_rises_over_twenty_steps_and_falls_as_a_cosine_to_a_twentieth():
    rates = [schedule("cosine_with_min_lr", 20, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == max(rates[18:21]) and rates[-1] < 0.052
    assert rates[50] == pytest.approx(0.05 + 0.95 * 0.5)


@pytest.mark.parametrize("name", SCHEDULERS[1:])
def test_the_other_schedules_are_those_of_diffusers(name):
    from diffusers.optimization import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs, rates = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=30), []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [schedule(name, 5, step, 30) for step in range(30)] == pytest.approx(rates)


def test_a_run_learns_at_the_rates_of_its_schedule(prepared):
    changes = {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2, "learning_rate": 0.01, "steps": 6}
    objective = prepared("rates", changes=changes).objective
    assert [objective.learning_rate(step) for step in range(6)] == pytest.approx([0, 0.005, *[0.01] * 4])


# Steps, snapshots, and a LoRA to begin with


def test_epochs_make_as_many_steps_as_there_are_batches(ddm, folder, tmp_path):
    given = ["--groups", "labels:gender", "--batch-size", 3, "--steps", 50]
    assert json.loads(ddm(folder, *given, "--epochs", 2, "--json").stdout)["steps"] == 2 * math.ceil(8 / 3)


def test_adapters_on_the_way_can_be_used_as_they_are(prepared):
    run = prepared("fair", changes={"steps": 5}, save_every=2)
    assert run.train()
    names = sorted(path.name for path in run.out.parent.glob("fair*.safetensors"))
    assert names == ["fair-000002.safetensors", "fair-000004.safetensors", "fair.safetensors"]
    early, late = (load_adapter(run.out.parent / name) for name in names[:2])
    assert early.card.description == "As it was after step 2." and early.card.recommended_alpha == 0
    assert set(early.modules) == set(late.modules) == set(load_adapter(run.out).modules)
    assert any(not torch.equal(early.modules[key].up, late.modules[key].up) for key in early.modules)


def test_a_training_begins_as_the_lora_that_is_given(prepared):
    first = prepared("first")
    assert first.train()
    learnt = load_adapter(first.out).modules
    further = prepared("further", init_from=first.out, changes={"seed": 7})
    begun = export_parts(further.objective.parts, "debias")
    begun = {kohya_name(module): lora for module, lora in begun.items()}
    assert set(begun) == set(learnt)
    for mine, theirs in ((begun[key], learnt[key]) for key in learnt):
        assert torch.equal(mine.up, theirs.up) and torch.equal(mine.down, theirs.down) and mine.alpha == theirs.alpha
    assert further.fingerprint != prepared("further", changes={"seed": 7}).fingerprint


@pytest.mark.parametrize(
    ("changes", "said"), [({"rank": 3}, "has rank 2, and this training 3"), ({"text_encoder": True}, "other layers")]
)
def test_a_lora_of_another_rank_or_other_layers_is_refused(prepared, changes, said):
    first = prepared("first")
    assert first.train()
    with pytest.raises(DDMError, match=said):
        prepared("further", init_from=first.out, changes=changes)


# What counts how much


def test_the_loss_of_images_that_are_not_ones_own_counts_by_its_weight(prepared):
    plain = prepared("plain").objective
    weighted = prepared("weighted", changes={"prior_loss_weight": 0.25}).objective
    assert plain.own is None and weighted.own == 8
    weighted.own = 4
    batch = plain.draw(0)
    shape = (len(batch.image), plain.base.latent_channels, *plain.latents.sizes[0])
    latents, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alike, counted = plain.loss(batch, latents, noise), weighted.loss(batch, latents, noise)
    factors = torch.as_tensor(np.where(batch.image < 4, 1.0, 0.25), dtype=torch.float32)
    assert torch.allclose(counted, alike * factors)


# Captions


def test_a_line_of_a_caption_is_drawn_each_time_if_that_is_wanted(base, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for number, lines in enumerate((["a doctor", "a person at work", "someone"], ["a judge"])):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    first, every = (folder_set(base, read_folder(root, every_line=each)) for each in (False, True))
    assert first.captions == every.captions == ["a doctor", "a judge"]
    assert first.fingerprint != every.fingerprint
    assert [list(others) for others in every.others] == [["a person at work", "someone"], []]
    grouping = type("None", (), {"groups": []})
    table = CaptionTable.build(base, every.captions, grouping, others=every.others)
    drawn = [[table.sentences[row] for row in rows] for rows in table.neutral]
    assert drawn == [["a doctor", "a person at work", "someone"], ["a judge"] * 3]
    both = every + first
    assert [len(others) for others in both.others] == [2, 0, 0, 0]


def test_the_trigger_stands_before_every_line(tmp_path):
    (tmp_path / "set").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "a.txt").write_text("one\ntwo", encoding="utf-8")
    (item,) = read_folder(tmp_path / "set", every_line=True).triggered("sks").items
    assert (item.caption, item.others) == ("sks, one", ("sks, two",))


# What the text encoder reads


def test_a_prompt_of_more_than_75_tokens_is_read_in_chunks_to_its_end(base):
    text = base.encode_text([LONG, "a judge"])
    length = base.tokenizer.model_max_length
    assert text.tokens.shape[1] == 2 * length
    ends = base.encode_text(["a " * 75, "a " * 25, "a judge", ""])
    assert torch.allclose(text.tokens[0, :length], ends.tokens[0], atol=1e-5)
    assert torch.allclose(text.tokens[0, length:], ends.tokens[1], atol=1e-5)
    assert torch.allclose(text.tokens[1, :length], ends.tokens[2], atol=1e-5)
    assert torch.allclose(text.tokens[1, length:], ends.tokens[3], atol=1e-5)


def test_images_of_long_prompts_are_made_with_and_without_guidance(base):
    for scale in (1.0, 3.0):
        images = generate(base, [LONG, LONG + "b"], [1, 1], steps=2, guidance_scale=scale)
        assert len(images) == 2 and (images[0] != images[1]).any()


def test_a_training_on_long_captions_reads_them_to_their_end(tiny_base, tmp_path):
    root = tmp_path / "long"
    root.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(LONG if number else "a judge", encoding="utf-8")
    for text_encoder in (False, True):
        changes = {"text_encoder": text_encoder}
        out = tmp_path / f"{text_encoder}.safetensors"
        run = prepare(tiny_base, root, out, "words:man|woman", changes=changes)
        assert run.train() and run.objective.captions.table[np.array([0])].tokens.shape[1] == 2 * 77


@pytest.mark.parametrize("layer", [1, 2])
def test_clip_skip_reads_an_earlier_layer_through_the_last_normalisation(tiny_base, base, layer):
    skipping = load_base(tiny_base, clip_skip=layer)
    ids = base.tokenizer(["a judge"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    last = next(one for name, one in base.text_encoder.named_modules() if name.endswith("final_layer_norm"))
    read = base.text_encoder(ids, output_hidden_states=True)
    wanted = last(read.hidden_states[-layer])
    assert torch.equal(skipping.encode_text(["a judge"]).tokens, wanted)
    assert (layer == 1) == torch.equal(wanted, base.encode_text(["a judge"]).tokens)
    assert skipping.identity != base.identity


# Precision and previews


def test_no_mixed_precision_computes_in_float32_and_the_others_in_theirs(tiny_base, monkeypatch):
    plain = load_base(tiny_base, mixed_precision="no")
    monkeypatch.setattr(type(plain), "half_is_native", True)
    with plain.autocast():
        assert not torch.is_autocast_enabled("cpu")
    with load_base(tiny_base).autocast():
        assert torch.is_autocast_enabled("cpu")
    assert load_base(tiny_base, mixed_precision="bf16").dtype == torch.bfloat16


def test_previews_are_of_the_prompts_that_are_given(ddm, folder, tmp_path, monkeypatch):
    from comfyui_ddm.training.sampling.previews import Previews

    asked, make = [], Previews.make
    monkeypatch.setattr(Previews, "make", lambda self, *rest: asked.extend(self.prompts) or make(self, *rest))
    ddm(
        folder,
        "--groups",
        "labels:gender",
        "--sample-dir",
        tmp_path / "seen",
        "--sample-prompts",
        "a judge;a pilot",
        "--steps",
        3,
    )
    assert set(asked) == {"a judge", "a pilot"} and list((tmp_path / "seen").glob("*.png"))
