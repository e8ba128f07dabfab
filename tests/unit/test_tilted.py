"""The model as its own teacher: what it would answer if a prompt's groups had other odds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import set_alpha
from comfyui_ddm.training.objectives.h_space_classifier import make_head
from comfyui_ddm.training.objectives.tilted import (
    ROUNDS,
    HeadTeacher,
    TiltedRun,
    WordsTeacher,
    mixture_weights,
    tilted,
)

from .runs import prepare, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("tilted") / "images", 24, 3)


@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.05, 0.95), (0.5, 0.3, 0.2)])
def test_of_what_groups_an_answer_is_a_mixture_is_read_from_the_answers(weights):
    groups = torch.randn(3, len(weights), 64, generator=torch.Generator().manual_seed(0))
    answer = torch.einsum("k,bkd->bd", torch.tensor(weights), groups)
    assert mixture_weights(answer, groups) == pytest.approx(np.tile(weights, (3, 1)), abs=0.01)


def test_groups_that_are_answered_alike_are_no_crash_and_weigh_alike():
    alike = torch.ones(2, 2, 8)
    assert mixture_weights(alike[:, 0], alike).tolist() == [[0.5, 0.5]] * 2


def test_a_tilt_moves_log_odds_by_as_much():
    posterior = torch.tensor([[0.8, 0.2]])
    moved = tilted(posterior, torch.tensor([[0.0, 1.5]])).logit() - posterior.logit()
    assert moved[0].tolist() == pytest.approx([-1.5, 1.5])


class Said:
    """A base that answers a text with a picture of its own: the caption with 3 parts of men to one of women."""

    def __init__(self):
        man, woman = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        self.answers = torch.stack([0.75 * man + 0.25 * woman, man, woman])

    def predict(self, noisy, t, text):
        return self.answers[text]


def taught(base, folder, out, groups="labels:gender", **changes):
    return prepare(base, folder, out, groups, TiltedRun, changes={"teacher": "model", **changes})


def words_teacher(base):
    captions = SimpleNamespace(said_by_group=np.array([[1, 2]]), table=torch.arange(3))
    return WordsTeacher(base, captions, [2])


ROWS = SimpleNamespace(image=np.zeros(2, dtype=int), text=np.zeros(2, dtype=int))


def test_words_teach_the_mixture_of_the_odds_that_were_asked_for():
    base, noisy, t = Said(), torch.zeros(2, 4, 8, 8), torch.tensor([500, 900])
    plain, balanced = words_teacher(base)(ROWS, noisy, t, torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]))
    assert torch.allclose(plain, base.answers[0], atol=1e-5)
    assert torch.allclose(balanced, base.answers[1:].mean(0), atol=5e-3)


@pytest.fixture(scope="module")
def headed(tiny_base, folder, tmp_path_factory):
    run = taught(tiny_base, folder, tmp_path_factory.mktemp("head") / "fair.safetensors")
    assert isinstance(run.objective.teacher, HeadTeacher)
    return run


@torch.no_grad()
def test_a_head_pushes_towards_the_group_whose_odds_rise_and_without_a_tilt_not_at_all(headed):
    base, teacher = headed.base, headed.objective.teacher
    batch = headed.objective.draw(0)[np.arange(2)]
    batch.text[:] = headed.objective.captions.neutral[0, 0]
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([700, 900])

    def answer(tilt):
        return teacher(batch, noisy, t, torch.tensor([tilt] * 2))

    set_alpha(base.denoiser, "debias", 0.0)
    plain = base.predict(noisy, t, headed.objective.captions.table[batch.text])
    assert torch.allclose(answer([0.0, 0.0]), plain, atol=1e-5)
    one, other = answer([2.0, 0.0]), answer([0.0, 2.0])
    assert not torch.equal(one, plain) and ((one - plain) * (other - plain)).sum() < 0


def test_each_prompt_is_tilted_against_its_own_lean_again_and_again(tiny_base, folder, tmp_path, monkeypatch):
    run = taught(tiny_base, folder, tmp_path / "fair.safetensors", steps=8)
    doctors = run.objective.concept[run.images.captions.index("a doctor")]
    shares = np.full((2, 2), 0.5)
    shares[doctors] = [0.8, 0.2]
    strengths = []

    def shares_at(strength, count, round_):
        strengths.append((run.training.step, strength, count, round_))
        return shares

    monkeypatch.setattr(type(run), "_reader", lambda self, progress: SimpleNamespace(shares_at=shares_at))
    assert run.train()
    assert strengths == [(2 * number, float(number > 0), 8, number) for number in range(ROUNDS)]
    moved = run.objective.tilt.numpy()
    assert moved[doctors] == pytest.approx(ROUNDS * np.log([0.5 / 0.8, 0.5 / 0.2]), abs=1e-5)
    assert moved[1 - doctors] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("groups", ["labels:gender", "words:man|woman"])
def test_a_run_that_was_stopped_gives_the_same_bytes(tiny_base, folder, tmp_path, groups):
    def begun(name):
        return taught(tiny_base, folder, tmp_path / f"{name}.safetensors", groups, steps=5, by_prompt=1)

    whole = begun("whole")
    assert whole.train() and whole.objective.tilt.abs().sum() > 0
    steps = []
    stopped = begun("stopped")
    assert not stopped.train(lambda step, *_: steps.append(step), stop=lambda: stopped.training.step == 3)
    resumed = begun("stopped")
    assert resumed.resume() and resumed.train()
    one, other = (load_tensors(tmp_path / f"{name}.safetensors")[0] for name in ("whole", "stopped"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(value.abs().sum() > 0 for name, value in one.items() if "lora_up" in name)


def test_explicit_prompts_and_the_empty_one_keep_the_answers_of_the_base(headed, monkeypatch):
    objective = headed.objective
    monkeypatch.setattr(objective, "teacher", None)  # it is not asked
    batch = objective.draw(0)
    rows = len(batch.text)
    said = objective.captions.said[0, 0]
    for text, anchor in ((objective.captions.empty, -1), (said, said)):
        batch.text[:], batch.anchor[:] = text, anchor
        objective.tilt += 3.0
        losses = objective.loss(batch, torch.randn(rows, 4, 8, 8), torch.randn(rows, 4, 8, 8))
        assert losses.detach() == pytest.approx(np.zeros(rows), abs=1e-3)  # the LoRA is new, and changes nothing yet
        objective.tilt.zero_()


def test_what_finds_nothing_teaches_nothing(tiny_base, folder, tmp_path):
    with pytest.raises(DDMError, match="Nothing is out of balance here"):
        taught(tiny_base, folder, tmp_path / "fair.safetensors", "discovered")


def test_the_head_is_the_one_that_guides(tiny_base, folder, headed):
    head = make_head(load_base(tiny_base), headed.images, "labels:gender")
    assert torch.allclose(headed.objective.teacher.heads[0].push, head.push)
