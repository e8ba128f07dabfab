"""The scale that makes α = 1 what the weights promise."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.group import Groups, concepts
from comfyui_ddm.debias.target import Target
from comfyui_ddm.debias.weight import Weighting
from comfyui_ddm.training.base import load_base
from comfyui_ddm.training.calibration import FEWEST, STRENGTHS, GroupReader, progress_of, scale_of, shares_of
from comfyui_ddm.training.grouping import Grouping
from comfyui_ddm.training.latents import Latents
from comfyui_ddm.training.lora import add_lora, export_lora, lora_parameters


@pytest.mark.parametrize(
    ("progress", "scale"),
    [
        ((0.0, 1.0, 2.0), 1.0),
        ((0.0, 0.5, 1.5), 1.5),
        ((0.0, 2.0, 3.0), 0.5),
        ((0.0, 8.0, 9.0), 0.25),
        ((0.0, 1.25, 1.5), 0.8),
        ((0.0, 0.5, 0.8), 2.5),
        ((0.0, 0.1, 0.2), 3.0),
        ((0.0, 1.6, 1.2), 0.625),
        ((0.0, 0.0, 0.0), 1.0),
        ((0.0, -0.5, -1.0), 1.0),
    ],
)
def test_the_scale_is_the_strength_at_which_the_goal_is_met_within_a_quarter_and_three(progress, scale):
    assert scale_of(STRENGTHS, progress) == pytest.approx(scale)


def test_progress_is_the_share_of_the_way_from_the_start_to_the_goal():
    shares, goal = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7]]), np.array([0.5, 0.5])
    assert progress_of(shares, goal) == pytest.approx([0, 0.5, 1.5])


def test_what_is_at_its_goal_already_makes_no_progress():
    assert not progress_of(np.array([[0.52, 0.48], [0.3, 0.7]]), np.array([0.5, 0.5])).any()


def test_where_the_set_shows_one_group_only_every_picture_is_of_it():
    one = np.eye(2)[np.ones(9, dtype=int)]
    assert shares_of(np.zeros((9, 3)), one, [np.ones((4, 3))] * 2).tolist() == [[0, 1], [0, 1]]


def test_shares_are_read_from_the_features():
    rng = np.random.default_rng(0)
    group = (np.arange(300) % 6 == 0).astype(int)
    x = rng.normal(size=(300, 20)) + 3 * group[:, None]
    made = [rng.normal(size=(100, 20)) + 3 * (np.arange(100) < rare)[:, None] for rare in (10, 40, 70)]
    assert shares_of(x, np.eye(2)[group], made)[:, 1] == pytest.approx([0.1, 0.4, 0.7], abs=0.02)


def test_pictures_without_a_group_teach_nothing():
    x = np.array([[-1.0], [-1.1], [1.0], [1.1], [50.0]] * 4)
    membership = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]] * 4, float)
    assert shares_of(x, membership, [np.array([[-1.0], [1.0], [1.0], [1.0]])])[0] == pytest.approx([0.25, 0.75])


def grouped(labels, captions):
    groups = Groups.from_labels(labels, "labels:gender")
    target = Target.uniform(groups.names)
    return Grouping("labels:gender", [groups], [target], Weighting.of_groups(groups, target, concepts(captions)[1]))


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
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = []
    reader = GroupReader(
        base,
        Latents.of(latents),
        captions,
        grouped(labels, captions),
        pictures=pictures,
        seed=0,
        progress=lambda done, total: steps.append((done, total)),
    )
    return reader.calibrate(), steps


def test_a_trained_lora_is_measured_without_being_changed(trained):
    before = export_lora(trained.unet, "debias")
    found, steps = run(trained)
    assert 0.25 <= found.scale <= 3 and np.isfinite(found.progress).all() and sum(found.goal) == pytest.approx(1)
    assert found.strengths == STRENGTHS and np.sum(found.shares, axis=1) == pytest.approx([1, 1, 1])
    assert steps[-1][0] == steps[-1][1] and [done for done, _ in steps] == sorted(done for done, _ in steps)
    after = export_lora(trained.unet, "debias")
    assert all(torch.equal(before[name].up, after[name].up) for name in before)
    assert trained.unet.lora_strengths["debias"].alpha == 1.0
    assert run(trained)[0] == found


def test_a_set_that_is_in_balance_asks_for_no_other_scale(trained):
    assert run(trained, labels=["man", "man", "woman", "woman"] * 4)[0].scale == 1.0


def test_the_fewest_pictures_that_teach_anything_are_no_crash(trained):
    labels = ["man"] * (FEWEST - 1) + ["woman"]
    assert 0.25 <= run(trained, FEWEST, labels=labels)[0].scale <= 3
