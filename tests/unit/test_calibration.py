"""The scale that makes α = 1 what the weights promise."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.groups.groups import Groups, concepts
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import Weighting
from comfyui_ddm.training.data.group_images import Grouping
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import add_lora, export_lora, lora_parameters
from comfyui_ddm.training.objectives.calibration import (
    MIN_IMAGES,
    STRENGTHS,
    GroupReader,
    groups_of,
    progress_by_prompt,
    progress_of,
    scale_of,
)


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


def test_prompts_that_lean_to_opposite_sides_do_not_make_up_for_each_other():
    rng = np.random.default_rng(0)
    men = np.array([[[0.9], [0.1]] * 20, [[0.7], [0.3]] * 20, [[0.5], [0.5]] * 20])
    first = rng.random((3, 40, 8)) < men
    seen = np.stack([first, ~first], -1).astype(float)
    assert progress_by_prompt(seen, np.array([0.5, 0.5])) == pytest.approx([0, 0.5, 1], abs=0.15)
    assert not progress_of(seen.mean((1, 2)), np.array([0.5, 0.5])).any()


def test_prompts_in_balance_make_no_progress_by_chance():
    first = np.random.default_rng(0).random((3, 40, 4)) < 0.5
    assert not progress_by_prompt(np.stack([first, ~first], -1).astype(float), np.array([0.5, 0.5])).any()


def test_where_the_set_shows_one_group_only_every_image_is_of_it():
    one = np.eye(2)[np.ones(9, dtype=int)]
    assert groups_of(np.zeros((9, 3)), one, [np.ones((4, 3))] * 2).mean(1).tolist() == [[0, 1], [0, 1]]


def test_shares_are_read_from_the_features():
    rng = np.random.default_rng(0)
    group = (np.arange(300) % 6 == 0).astype(int)
    x = rng.normal(size=(300, 20)) + 3 * group[:, None]
    made = [rng.normal(size=(100, 20)) + 3 * (np.arange(100) < rare)[:, None] for rare in (10, 40, 70)]
    assert groups_of(x, np.eye(2)[group], made).mean(1)[:, 1] == pytest.approx([0.1, 0.4, 0.7], abs=0.02)


def test_images_without_a_group_teach_nothing():
    x = np.array([[-1.0], [-1.1], [1.0], [1.1], [50.0]] * 4)
    membership = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]] * 4, float)
    assert groups_of(x, membership, [np.array([[-1.0], [1.0], [1.0], [1.0]])])[0, :, 1].tolist() == [0, 1, 1, 1]


def grouped(labels, captions):
    groups = Groups.from_labels(labels, "labels:gender")
    target = Target.uniform(groups.names)
    return Grouping("labels:gender", [groups], [target], Weighting.of_groups(groups, target, concepts(captions)[1]))


@pytest.fixture
def trained(tiny_base):
    base = load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return base


def reader_of(base, count=16, images=4, labels=None, kind=GroupReader):
    captions = [("a doctor", "a judge")[i % 2] for i in range(count)]
    labels = labels or [("woman" if i % 4 == 3 else "man") for i in range(count)]
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = []
    reader = kind(
        base,
        Latents.of(latents),
        captions,
        grouped(labels, captions),
        images=images,
        seed=0,
        progress=lambda done, total: steps.append((done, total)),
    )
    return reader, steps


def run(base, *given, **named):
    reader, steps = reader_of(base, *given, **named)
    return reader.calibrate(), steps


def test_a_trained_lora_is_measured_without_being_changed(trained):
    before = export_lora(trained.denoiser, "debias")
    found, steps = run(trained)
    assert 0.25 <= found.scale <= 3 and np.isfinite(found.progress).all() and sum(found.goal) == pytest.approx(1)
    assert found.strengths == STRENGTHS and np.sum(found.shares, axis=1) == pytest.approx([1, 1, 1])
    assert steps[-1][0] == steps[-1][1] and [done for done, _ in steps] == sorted(done for done, _ in steps)
    after = export_lora(trained.denoiser, "debias")
    assert all(torch.equal(before[name].up, after[name].up) for name in before)
    assert trained.denoiser.lora_strengths["debias"].alpha == 1.0
    assert run(trained)[0] == found


def test_a_set_that_is_in_balance_asks_for_no_other_scale(trained):
    assert run(trained, labels=["man", "man", "woman", "woman"] * 4)[0].scale == 1.0


def test_the_fewest_images_that_teach_anything_are_no_crash(trained):
    labels = ["man"] * (MIN_IMAGES - 1) + ["woman"]
    assert 0.25 <= run(trained, MIN_IMAGES, labels=labels)[0].scale <= 3


def test_each_prompt_is_read_by_itself(trained):
    reader, steps = reader_of(trained)
    shares = reader.shares_by_prompt(3)
    assert shares.shape == (2, 2) and (shares > 0).all() and shares.sum(1) == pytest.approx([1, 1])
    assert steps[-1][0] == steps[-1][1] and (reader.shares_by_prompt(3) == shares).all()


class Given(GroupReader):
    """Sees that of the doctors 10 · (9, 7, 5) are men at the three strengths, and of the judges all that are left."""

    def _read(self, strengths, drawn):
        judges = np.array([self.captions[row] == "a judge" for row in drawn])
        assert judges.tolist() == [False] * 100 + [True] * 100
        men = np.zeros((3, 200))
        for along, (doctors, others) in zip(men, ((90, 90), (70, 50), (50, 10)), strict=True):
            along[:doctors] = along[100 : 100 + others] = 1
        return np.stack([men, 1 - men], 2)


def test_prompts_are_read_at_the_strength_at_which_all_together_meet_the_target():
    # Men are .9, .6 and .3 of all: half at 4/3.
    reader, _ = reader_of(None, kind=Given)
    doctors, judges = 0.7 - 0.2 / 3, 0.5 - 0.4 / 3
    read = reader.shares_by_prompt(100)
    assert read[:, 0] == pytest.approx(np.array([doctors, judges]) * (100 / 116) + 0.5 * (16 / 116))
