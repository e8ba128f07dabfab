"""Alignment by a probe: learns, resumes exactly, and leaves the base alone at α = 0."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import read_metadata
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.probe_network import ProbeNetwork
from comfyui_ddm.training.loop.checkpoint import MAX_CONSECUTIVE_SKIPS
from comfyui_ddm.training.loop.training import Training
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.model import load_model
from comfyui_ddm.training.objectives.alignment import TRAINED, Alignment, AlignmentSettings, Original
from comfyui_ddm.training.objectives.alignment_run import AlignmentRun
from comfyui_ddm.training.sampling.generate import generate

PROMPTS = ["a cook", "a pilot"]


def settings(**changes) -> AlignmentSettings:
    small = {"steps": 3, "batch_size": 4, "rank": 2, "tokens": 2, "sampling": 2, "through": 2}
    return AlignmentSettings(**{**small, **changes})


def probe(names=("man", "woman"), attribute="gender", seed=0) -> Probe:
    """A random network, sure enough of itself that batches hold both classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Probe(names, attribute, torch.nn.Linear(16, len(names)), ProbeNetwork(16))
    made.temperature = 0.05
    return made


def prepare(base, out: Path = Path("none.safetensors"), target=(0.5, 0.5), **changes) -> AlignmentRun:
    goal = Target(("man", "woman"), np.array(target))
    return AlignmentRun(load_base(base), [probe()], [goal], [PROMPTS], out, settings(**changes), checkpoint_every=1)


def hold_draw(objective: Alignment) -> None:
    """Let every step make what the first one makes."""
    drawn = objective.draw(0)
    objective.draw = lambda step: drawn


@pytest.mark.parametrize("train", TRAINED)
def test_the_images_move_towards_the_target(tiny_base, train):
    training = prepare(tiny_base, target=(0.0, 1.0), train=train, through=0, learning_rate=0.03, keep=0.0).training
    # The same noise in every step, so that the losses compare.
    hold_draw(training.objective)
    training.advance()
    first = training.loss.item()
    for _ in range(5):
        training.advance()
    assert training.loss.item() < first


def test_a_checkpoint_of_other_targets_is_refused(tiny_base, tmp_path):
    first = prepare(tiny_base, tmp_path / "fair.safetensors")
    first.train(stop=lambda: first.training.step == 1)
    with pytest.raises(DDMError, match=r"a run with other target\. Give"):
        prepare(tiny_base, tmp_path / "fair.safetensors", target=(0.75, 0.25)).resume()


@pytest.mark.parametrize("train", TRAINED)
def test_the_file_is_used_like_any_other_and_changes_nothing_at_alpha_0(tiny_base, tmp_path, train):
    run = prepare(tiny_base, tmp_path / "fair.safetensors", train=train, learning_rate=0.05)
    run.train()
    plain, model = load_base(tiny_base), load_model(tiny_base, run.out)
    assert model.warnings == []
    assert (model.card.objective, model.card.groups) == ("alignment", "probe:gender")
    assert model.card.target == {"man": 0.5, "woman": 0.5}
    before = generate(plain, PROMPTS, [1, 2], steps=2)
    assert np.array_equal(generate(model.base, PROMPTS, [1, 2], steps=2, alpha=0.0), before)
    made = generate(model.base, PROMPTS, [1, 2], steps=2, alpha=1.0)
    assert not np.array_equal(made, before)
    with run.training.averaged():
        assert np.array_equal(generate(run.base, PROMPTS, [1, 2], steps=2), made)


def test_what_is_saved_is_the_running_average(tiny_base, tmp_path):
    run = prepare(tiny_base, tmp_path / "a.safetensors", steps=3)
    run.train()
    own = [parameter.detach().clone() for parameter in run.training.parameters]
    with run.training.averaged():
        averaged = [parameter.detach().clone() for parameter in run.training.parameters]
    assert any(not torch.equal(one, other) for one, other in zip(own, averaged, strict=True))
    assert all(torch.equal(one, now) for one, now in zip(own, run.training.parameters, strict=True))


def test_a_gradient_that_is_not_finite_is_skipped_and_many_are_an_error(tiny_base, tmp_path):
    run = prepare(tiny_base, tmp_path / "fair.safetensors", steps=2 * MAX_CONSECUTIVE_SKIPS)
    training, good = run.training, run.objective.loss
    training.advance()
    before = [parameter.detach().clone() for parameter in training.parameters]
    run.objective.loss = lambda *given: good(*given) * float("nan")
    training.advance()
    assert training.step == 2 and training.skipped == 1
    assert all(torch.equal(one, now) for one, now in zip(before, training.parameters, strict=True))
    with pytest.raises(DDMError, match="learning rate lower"):
        run.train()


def test_images_that_keep_their_class_are_held_more_than_those_that_change(tiny_base):
    """With nothing to push, only likeness counts; after a change of the model it pulls back."""
    objective = prepare(tiny_base, confidence=2.0).objective
    base, drawn = objective.base, objective.draw(0)
    original = objective._original(drawn, 4)
    text, none = (part[[0] * 4] for part in objective._encode([drawn.prompt, ""]))
    same = objective._roll_out(drawn, text, none, 4)
    assert objective.loss(drawn, same, original).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for parameter in objective.learning["debias"]:
            parameter.add_(0.2)
    other = objective._roll_out(drawn, text, none, 4)
    (classes,) = original.classes
    # An image is held wholly where its aim is what the original shows, and else by a fifth; here once each.
    held = [objective.loss(drawn, other, Original(original.features, [kind])).item() for kind in (classes, 1 - classes)]
    everything = prepare(tiny_base, confidence=2.0, keep_changed=1.0).objective.loss(drawn, other, original).item()
    assert everything > 0 and sum(held) == pytest.approx(1.2 * everything, rel=1e-4)
    assert base.denoiser.lora_strengths["debias"].alpha == 1.0


def test_every_family_and_every_prompt_of_it_is_trained_equally_often(tiny_base):
    families = [["a cook", "a pilot", "a judge"], ["a cat"]]
    objective = Alignment(load_base(tiny_base), [probe()], [Target.uniform(("man", "woman"))], families, settings())
    drawn = Counter(objective.draw(step).prompt for step in range(12))
    assert drawn == {"a cook": 2, "a pilot": 2, "a judge": 2, "a cat": 6}
    seeds = [seed for step in range(12) for seed in objective.draw(step).seeds]
    assert len(set(seeds)) == len(seeds)
    assert {objective.draw(step).sampling_steps for step in range(40)} == {1, 2, 3, 4}


def test_two_attributes_are_aligned_together(tiny_base, tmp_path):
    probes = [probe(), probe(("dark", "light", "medium"), "tone", seed=1)]
    goals = [Target.uniform(part.names) for part in probes]
    run = AlignmentRun(load_base(tiny_base), probes, goals, [PROMPTS], tmp_path / "a.safetensors", settings(steps=1))
    assert run.train()
    assert '"probe:gender,tone"' in read_metadata(run.out)["ddm.groups"]


def test_two_attributes_move_at_once_each_towards_its_target(tiny_base):
    tones = ("dark", "light", "medium")
    probes = [probe(), probe(tones, "tone", seed=1)]
    goals = [Target(("man", "woman"), np.array([0.0, 1.0])), Target(tones, np.array([0.0, 1.0, 0.0]))]
    chosen = settings(through=0, learning_rate=0.03, keep=0.0, confidence=0.0)
    objective = Alignment(load_base(tiny_base), probes, goals, [PROMPTS], chosen)
    training, plain = Training(objective), objective.loss
    hold_draw(objective)
    seen = {False: [], True: []}

    def looked_at(drawn, made, original):
        with torch.no_grad():
            images = objective._decode(made.latents)
            seen[training.step > 0].append([one.logits(images).softmax(1)[:, 1].mean().item() for one in probes])
        return plain(drawn, made, original)

    objective.loss = looked_at
    for _ in range(6):
        training.advance()
    (before,), after = seen[False], seen[True][-1]
    assert all(now > then for then, now in zip(before, after, strict=True))


@pytest.mark.parametrize("train", ["unet", "both"])
def test_out_of_memory_makes_fewer_images_at_a_time_says_so_and_learns_the_same(tiny_base, monkeypatch, train):
    monkeypatch.setattr(Base, "half_is_native", False)  # the rounding of bfloat16 hides what is to be seen
    said = []
    exact, small = (prepare(tiny_base, train=train).training for _ in range(2))
    small.note = said.append
    plain, room = Base.predict, [2 * 4, 2 * 2, 2 * 1]  # guidance doubles the rows

    def predicted(self, noisy, t, text):
        if torch.is_grad_enabled() and self is small.objective.base and len(noisy) >= room[0] and len(room) > 1:
            room.pop(0)
            raise torch.cuda.OutOfMemoryError("no room")
        return plain(self, noisy, t, text)

    monkeypatch.setattr(Base, "predict", predicted)
    for training in (exact, small):
        training.advance()
        training.advance()
    assert (
        small.micro_batches == 4 and len(said) == 2 and "from step 1 on, each step takes its 4 in 4 parts" in said[-1]
    )
    for one, other in zip(small.parameters, exact.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_checkpointing_comes_next_and_then_a_sentence(tiny_base, monkeypatch):
    training = prepare(tiny_base, batch_size=2).training
    training.micro_batches = 2

    def full(self, noisy, t, text):
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(Base, "predict", full)
    with pytest.raises(DDMError, match="does not suffice to learn from one image"):
        training.advance()
    assert training.gradient_checkpointing


def test_checkpointing_changes_nothing_that_is_learnt(tiny_base, monkeypatch):
    monkeypatch.setattr(Base, "half_is_native", False)
    plain, saving = (prepare(tiny_base).training for _ in range(2))
    saving.save_memory()
    for training in (plain, saving):
        training.advance()
    for one, other in zip(saving.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_images_that_are_decoded_one_by_one_are_those_of_all_at_once_with_their_gradients(tiny_base, monkeypatch):
    objective = prepare(tiny_base).objective
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def decoded():
        latents.grad = None
        images = objective._decode(latents)
        images.square().sum().backward()
        return images.detach(), latents.grad

    together = decoded()
    monkeypatch.setattr(Base, "vae_batch", lambda self, height, width: 1)
    for one, all_of_them in zip(decoded(), together, strict=True):
        torch.testing.assert_close(one, all_of_them, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_trained_is_a_sentence(tiny_base):
    with pytest.raises(DDMError, match="Choose among unet"):
        prepare(tiny_base, train="vae")
