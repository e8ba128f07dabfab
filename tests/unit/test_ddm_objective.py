"""A step of training: its draws, its targets, and who learns from it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.groups.groups import Groups, concepts
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import Weighting
from comfyui_ddm.training.data.caption_table import CaptionTable
from comfyui_ddm.training.data.group_images import Grouping
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.loop.batch_sampler import GRID, BatchSampler
from comfyui_ddm.training.loop.settings import TrainSettings
from comfyui_ddm.training.loop.training import Training
from comfyui_ddm.training.models.family import named_family
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import lora_parameters, set_alpha
from comfyui_ddm.training.models.text import Text
from comfyui_ddm.training.objectives.ddm import DDM

CAPTIONS = ["a doctor", "a judge"] * 6
LABELS = ["man"] * 8 + ["woman"] * 4


def grouping(words=()):
    groups = Groups.from_labels(LABELS, "test")
    groups = Groups(groups.names, groups.membership, "test", words)
    weighting = Weighting.of_groups(groups, Target.uniform(groups.names), concepts(CAPTIONS)[1])
    return Grouping("test", [groups], [Target.uniform(groups.names)], weighting)


class Speller:
    device, text_encoders, family, schedule = torch.device("cpu"), {}, named_family("sd1"), range(1000)

    def chunks(self, prompts):
        return 1

    def encode_text(self, prompts, chunks=1):
        self.prompts = list(prompts)
        return Text(torch.zeros(len(prompts), 1, 1))


def draws(style=False, words=(), bucket=None, **changes):
    speller, found = Speller(), grouping(words)
    table = CaptionTable.build(speller, CAPTIONS, found)
    settings = TrainSettings(**{"batch_size": 16, "keep": 0.25, **changes})
    bucket = np.zeros(len(CAPTIONS), dtype=int) if bucket is None else bucket
    made = BatchSampler(found.weighting, table, settings, bucket, partial(speller.family.timesteps, speller), style)
    made.sentences = speller.prompts
    return made


def test_the_plan_of_a_step_depends_on_seed_and_step_alone():
    first, second = draws(), draws()
    second.draw(3)
    one, other = first.draw(7), second.draw(7)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    assert not np.array_equal(one.timestep, first.draw(8).timestep)
    assert not np.array_equal(one.timestep, draws(seed=1).draw(7).timestep)


@pytest.mark.parametrize("alpha_max", [1.5, 1.0, 3.0])
def test_strengths_lie_on_both_sides_of_the_dial_so_that_what_all_images_share_cancels(alpha_max):
    made = draws(alpha_max=alpha_max)
    alpha = np.concatenate([made.draw(step).alpha for step in range(50)])
    assert (alpha != 0).all() and (np.abs(alpha) <= alpha_max).all()
    assert alpha.mean() == pytest.approx(0, abs=alpha_max / 50)
    assert np.abs(alpha).mean() == pytest.approx(alpha_max / 2, rel=0.02)


def test_images_are_drawn_in_proportion_to_their_weights():
    made = draws(batch_size=64)
    batches = [made.draw(step) for step in range(150)]
    alpha, image = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("alpha", "image"))
    for low, high in ((-1.3, -1.1), (0, 0.3), (0.9, 1.1), (1.3, 1.5)):
        rows = (alpha > low) & (alpha <= high)
        weights = made.weighting.weights((low + high) / 2)
        found = np.bincount(image[rows], minlength=len(CAPTIONS)) / rows.sum()
        assert found == pytest.approx(weights / weights.sum(), abs=0.03)


BUCKETS = np.array([0, 0, 1, 1, 1, 0, 2, 0, 1, 2, 2, 0])


def test_the_images_of_a_step_are_of_one_bucket():
    made = draws(bucket=BUCKETS)
    seen = [set(BUCKETS[made.draw(step).image]) for step in range(40)]
    assert all(len(one) == 1 for one in seen) and set.union(*seen) == {0, 1, 2}


def test_with_buckets_too_every_strength_is_as_frequent_and_images_are_drawn_by_their_weights():
    """P(α) and P(image | α) are those of the draw without buckets: exactly, by adding up what a step draws from."""
    made = draws(bucket=BUCKETS)
    alphas = np.linspace(-made.settings.alpha_max, made.settings.alpha_max, GRID)
    cell = np.diff(made.edges)
    chance = np.zeros((GRID, len(CAPTIONS)))
    for share, dial, rows, cumulative in zip(made.share[False], made.dial, made.members, made.cumulative, strict=True):
        within = np.diff(cumulative, axis=1, prepend=0) / cumulative[:, -1:]
        chance[:, rows] += share * np.diff(dial)[:, None] * within
    assert chance.sum(1) == pytest.approx(cell / cell.sum(), rel=1e-9)
    weights = np.stack([made.weighting.weights(alpha) for alpha in alphas])
    wanted = weights / weights.sum(1, keepdims=True)
    assert chance / chance.sum(1, keepdims=True) == pytest.approx(wanted, rel=1e-9)


def test_what_is_drawn_from_buckets_has_these_chances():
    made = draws(bucket=BUCKETS, batch_size=64)
    batches = [made.draw(step) for step in range(400)]
    alpha, image = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("alpha", "image"))
    assert np.histogram(alpha, 6, (-1.5, 1.5))[0] / len(alpha) == pytest.approx(np.full(6, 1 / 6), abs=0.01)
    for low, high in ((-1.3, -1.1), (0, 0.3), (0.9, 1.1), (1.3, 1.5)):
        rows = (alpha > low) & (alpha <= high)
        weights = made.weighting.weights((low + high) / 2)
        found = np.bincount(image[rows], minlength=len(CAPTIONS)) / rows.sum()
        assert found == pytest.approx(weights / weights.sum(), abs=0.02)


def test_a_bucket_has_its_share_of_the_steps_evenly():
    made = draws(bucket=BUCKETS, style=True, style_share=0.5, steps=400)
    for first, style in ((0, True), (200, False)):
        found = np.bincount([made.bucket(step, style) for step in range(first, first + 200)]) / 200
        assert found == pytest.approx(made.share[style], abs=0.015)
    assert made.share[True] == pytest.approx(np.bincount(BUCKETS) / len(BUCKETS))


def test_timesteps_cover_the_schedule_evenly_for_a_style_and_with_more_noise_for_the_adapter():
    made = draws(style=True, style_share=0.5, steps=40)
    style, adapter = (
        np.concatenate([made.draw(step).timestep for step in range(at, at + 20)]) / 1000 for at in (0, 20)
    )
    quarters = np.arange(5) / 4
    assert np.histogram(style, quarters)[0] / len(style) == pytest.approx(np.diff(quarters), abs=0.01)
    assert np.histogram(adapter, quarters)[0] / len(adapter) == pytest.approx(np.diff(quarters**2), abs=0.01)


def test_without_a_style_no_step_teaches_one():
    assert not draws().draw(0).style


@pytest.mark.parametrize("words", [(), ("man", "woman")])
def test_the_first_steps_teach_the_style_on_plain_rows(words):
    made = draws(style=True, words=words, style_share=0.4, steps=10)
    batches = [made.draw(step) for step in range(10)]
    assert [batch.style for batch in batches] == [True] * 4 + [False] * 6
    for batch in batches:
        assert (batch.alpha == 0).all() if batch.style else (batch.alpha != 0).all()
        assert not batch.style or (batch.anchor == -1).all()


def test_rows_that_keep_explicit_prompts_are_taught_by_the_base_under_the_same_prompt():
    made = draws(caption_dropout_rate=0.0)
    batches = [made.draw(step) for step in range(20)]
    taught = np.concatenate([batch.anchor >= 0 for batch in batches])
    assert taught.mean() == pytest.approx(0.25, abs=0.01)
    for batch in batches:
        rows = batch.anchor >= 0
        assert (batch.text[rows] == batch.anchor[rows]).all()
        assert not set(batch.text[rows]) & set(made.captions.neutral[:, 0])
        assert (batch.text[~rows] == made.captions.neutral[batch.image[~rows], 0]).all()


def test_groups_with_words_are_taught_by_the_base_under_the_words():
    made = draws(words=("man", "woman"), keep=0.0, caption_dropout_rate=0.5)
    for batch in map(made.draw, range(5)):
        said = [made.sentences[row] for row in batch.anchor]
        expected = [CAPTIONS[i].replace("a ", f"a {LABELS[i]} ") for i in batch.image]
        assert said == expected
        assert {made.sentences[row] for row in batch.text} <= {"", *CAPTIONS}


def test_the_empty_caption_is_said_as_often_as_asked():
    made = draws(keep=0.0, caption_dropout_rate=0.3)
    assert np.mean([made.draw(step).text == 0 for step in range(100)]) == pytest.approx(0.3, abs=0.04)


@pytest.fixture
def training(tiny_base):
    def make(style=False, words=(), side=8, **changes):
        base, found = load_base(tiny_base), grouping(words)
        latents = torch.randn(len(CAPTIONS), 4, side, side, generator=torch.Generator().manual_seed(0))
        table = CaptionTable.build(base, CAPTIONS, found)
        settings = TrainSettings(**{"steps": 6, "batch_size": 4, "rank": 2, **changes})
        latents = Latents.of(latents, torch.full_like(latents, 0.1))
        return Training(DDM(base, latents, table, found.weighting, settings, style))

    return make


@pytest.mark.parametrize(("side", "batch", "micro_batches"), [(8, 128, 1), (64, 2, 1), (64, 5, 3), (128, 2, 2)])
def test_a_cpu_takes_large_images_in_pieces_so_that_it_can_be_stopped_between_them(
    training, side, batch, micro_batches
):
    assert training(side=side, batch_size=batch).micro_batches == micro_batches


@torch.no_grad()
def output(unet, latents):
    return unet(latents, torch.tensor([10, 400]), torch.ones(2, 77, 32)).sample


def test_a_step_is_finite_and_alpha_0_stays_what_the_base_was(training, tiny_base):
    run = training(words=("man", "woman"))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    before = output(load_base(tiny_base).denoiser, latents)
    for _ in range(3):
        run.advance()
    assert run.step == 3 and torch.isfinite(run.loss) and run.loss > 0
    assert all(torch.isfinite(parameter).all() for parameter in run.parameters)
    set_alpha(run.objective.base.denoiser, "debias", 0.0)
    assert torch.equal(output(run.objective.base.denoiser, latents), before)
    set_alpha(run.objective.base.denoiser, "debias", 1.0)
    assert not torch.equal(output(run.objective.base.denoiser, latents), before)


def test_the_base_itself_is_not_trained(training):
    run = training()
    names = {id(parameter) for parameter in run.parameters}
    learning = {id(p) for p in run.objective.base.denoiser.parameters() if p.requires_grad}
    assert learning == names and len(names) > 0


def masked(run, rows):
    """The masks of the run's images: of some of them, the left half counts."""
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, :4] = 255
    run.objective.latents = replace(
        run.objective.latents, masks=[(mask,) if row in rows else None for row in range(len(run.objective.latents))]
    )


def test_what_is_masked_out_counts_little_but_for_what_the_base_teaches(training):
    run = training(words=("man", "woman"), keep=0.0)
    batch = run.objective.sampler.draw(0)
    _, _, weight = run.objective.latents.fetch(batch.image, batch.flip)
    assert weight is None
    masked(run, range(12))
    _, _, weight = run.objective.latents.fetch(batch.image, batch.flip)
    assert weight.mean((1, 2, 3)) == pytest.approx(np.ones(4)) and weight[0, 0, 0].tolist() == pytest.approx(
        [1 / 0.55] * 4 + [0.1 / 0.55] * 4
    )
    taught, plain = training(words=("man", "woman"), keep=0.0), training(words=("man", "woman"), keep=0.0)
    masked(taught, range(12))
    taught.advance(), plain.advance()
    assert (batch.anchor >= 0).all() and torch.equal(taught.loss, plain.loss)


def test_the_loss_of_a_masked_image_is_that_of_what_counts(training, monkeypatch):
    run = training(keep=0.0, caption_dropout_rate=0.0)
    masked(run, range(12))
    error = torch.zeros(4, 4, 8, 8)
    error[..., 4:] = 2.0
    monkeypatch.setattr(run.objective.base, "target", lambda latents, noise, t: torch.zeros_like(latents))
    monkeypatch.setattr(run.objective.base, "predict", lambda *_: error + 0 * sum(p.sum() for p in run.parameters))
    run.advance()
    assert run.loss == pytest.approx(4 * 0.1 / 0.55 / 2)


def test_a_mask_is_mirrored_with_its_image(training):
    run = training()
    masked(run, [0])
    run.objective.latents = replace(run.objective.latents, mirrors=[run.objective.latents.rows[0], *[None] * 11])
    mean, _, weight = run.objective.latents.fetch(np.array([0, 0, 1]), np.array([True, False, True]))
    assert torch.allclose(weight[0], weight[1].flip(-1)) and not torch.allclose(weight[0], weight[1])
    assert (weight[2] == 1).all() and torch.equal(mean[0], mean[1])


def gradient(run, name):
    return sum(
        float(p.grad.abs().sum()) for p in lora_parameters(run.objective.base.denoiser, name) if p.grad is not None
    )


def test_the_style_is_learnt_first_and_then_left_as_it_is(training):
    run = training(style=True, style_share=0.5, steps=4)
    learnt = []
    for _ in range(4):
        run.advance()
        learnt.append((gradient(run, "style") > 0, gradient(run, "debias") > 0))
    assert learnt == [(True, False)] * 2 + [(False, True)] * 2


def test_a_batch_of_one_is_no_crash(training):
    run = training(style=True, batch_size=1)
    for _ in range(2):
        run.advance()
    assert torch.isfinite(run.loss)


def test_the_learning_rate_warms_up_and_decays_to_a_twentieth(training):
    run = training(steps=200, learning_rate=1e-2)
    rates = [run.objective.learning_rate(step) for step in range(201)]
    assert rates[0] == pytest.approx(1e-2 / 20) and max(rates) == pytest.approx(1e-2, rel=0.03)
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[-1] == pytest.approx(1e-2 / 20)


def test_the_steps_that_correct_each_prompt_have_half_the_learning_rate(training):
    run = training(by_prompt=8, prompt_share=0.25, steps=400, learning_rate=1e-2)
    rates = [run.objective.learning_rate(step) for step in range(401)]
    assert (
        run.objective.correction_start_step == 300
        and rates[299] == pytest.approx(1e-2 / 20, rel=0.1)
        and rates[400] == pytest.approx(5e-3 / 20)
    )
    assert rates[300] == rates[0] / 2 and max(rates[300:]) == pytest.approx(5e-3, rel=0.1)


def test_style_and_adapter_have_a_learning_rate_of_their_own(training):
    run = training(style=True, style_share=0.25, steps=400, learning_rate=1e-2)
    rates = [run.objective.learning_rate(step) for step in range(400)]
    assert rates[99] == pytest.approx(1e-2 / 20, rel=0.1) and rates[100] == rates[0] and max(rates[100:]) > 9e-3
