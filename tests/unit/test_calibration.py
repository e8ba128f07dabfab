"""The scale that makes α = 1 what the weights promise."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.group import Groups, concepts
from comfyui_ddm.debias.target import Target
from comfyui_ddm.debias.weight import Weighting
from comfyui_ddm.training.base import load_base
from comfyui_ddm.training.calibration import FEWEST, STRENGTHS, calibrate, scale_of, scores_of_set
from comfyui_ddm.training.lora import add_lora, export_lora, lora_parameters


@pytest.mark.parametrize(
    ("scores", "goal", "scale"),
    [
        ((0.0, 1.0, 2.0), 1.0, 1.0),
        ((0.0, 1.0, 2.0), 1.5, 1.5),
        ((0.0, 2.0, 3.0), 1.5, 0.75),
        ((0.0, -1.0, -2.0), -1.25, 1.25),
        ((0.4, 0.6, 1.0), 0.8, 1.5),
        ((1.0, 3.0, 2.0), 2.0, 0.5),
    ],
)
def test_the_scale_is_the_strength_at_which_the_goal_is_met(scores, goal, scale):
    assert scale_of(STRENGTHS, scores, goal) == pytest.approx(scale)


@pytest.mark.parametrize(("goal", "scale"), [(0.1, 0.5), (9.0, 2.0), (0.0, 1.0)])
def test_the_scale_stays_within_a_half_and_two(goal, scale):
    assert scale_of(STRENGTHS, (0.0, 1.0, 2.0), goal) == scale


@pytest.mark.parametrize(
    ("scores", "goal"),
    [
        ((0.0, 0.0, 0.0), 1.0),
        ((0.0, -1.0, -2.0), 1.0),
        ((0.3, 0.3 + 1e-12, 0.3 + 2e-12), 0.3 + 1e-12),
        ((0.3, 0.3 + 1e-12, 0.3 + 2e-12), 1.0),
    ],
)
def test_what_does_not_move_towards_the_goal_is_left_as_it_is(scores, goal):
    assert scale_of(STRENGTHS, scores, goal) == 1.0


def weighting(labels, captions, target=(0.5, 0.5)):
    groups = Groups.from_labels(labels, "labels:gender")
    return Weighting.of_groups(groups, Target(groups.names, np.array(target)), concepts(captions)[1])


def test_rare_pictures_are_asked_for_most():
    labels = ["man"] * 9 + ["woman"] * 3
    scores = scores_of_set(weighting(labels, ["a doctor"] * 12))
    assert scores[-1] > 0 > scores[0]


@pytest.fixture
def trained(tiny_base):
    base = load_base(tiny_base)
    add_lora(base.unet, "debias", 2)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(base.unet, "debias"):
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return base


def run(base, count=16, pictures=4, labels=None):
    captions = [("a doctor", "a judge")[i % 2] for i in range(count)]
    labels = labels or [("woman" if i % 4 == 3 else "man") for i in range(count)]
    concept = concepts(captions)[1]
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = []
    found = calibrate(
        base,
        latents,
        captions,
        concept,
        weighting(labels, captions),
        pictures=pictures,
        seed=0,
        progress=lambda done, total: steps.append((done, total)),
    )
    return found, steps


def test_a_trained_lora_is_measured_without_being_changed(trained):
    before = export_lora(trained.unet, "debias")
    found, steps = run(trained)
    assert 0.5 <= found.scale <= 2 and np.isfinite([*found.scores, found.goal]).all()
    assert found.strengths == STRENGTHS and len(found.scores) == 3
    assert steps[-1][0] == steps[-1][1] and [done for done, _ in steps] == sorted(done for done, _ in steps)
    after = export_lora(trained.unet, "debias")
    assert all(torch.equal(before[name].up, after[name].up) for name in before)
    assert trained.unet.lora_strengths["debias"].alpha == 1.0
    assert run(trained)[0] == found


def test_a_set_that_is_in_balance_asks_for_no_other_scale(trained):
    assert run(trained, labels=["man", "man", "woman", "woman"] * 4)[0].scale == 1.0


def test_the_fewest_pictures_that_teach_anything_are_no_crash(trained):
    labels = ["man"] * (FEWEST - 1) + ["woman"]
    assert 0.5 <= run(trained, FEWEST, labels=labels)[0].scale <= 2
