"""A small flow-matching transformer that has really learnt: it knows its attribute, and an adapter balances it."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.training.data.dataset import ImageSet
from comfyui_ddm.training.data.group_images import Grouper
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.loop.settings import TrainSettings
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.objectives.ddm_run import Run
from comfyui_ddm.training.objectives.h_space_classifier import make_head
from comfyui_ddm.training.sampling.generate import generate_batches
from comfyui_ddm.training.sampling.guidance import SamplingGuidance

from .transformers import make_flow

ROLES, WORDS = ("doctor", "judge"), ("man", "woman")
WOMEN = np.array([0.2, 0.75])  # of each role: the world leans both ways
COUNT, STEPS = 200, 500


def planted(seed):
    """Latents of two roles, of which and of whom they are, and the direction that tells a woman from a man."""
    rng = np.random.default_rng(0)
    roles, way = rng.normal(size=(len(ROLES), 16, 8, 8)), rng.normal(size=(16, 8, 8))
    draw = np.random.default_rng(seed)
    role = draw.integers(len(ROLES), size=COUNT)
    woman = draw.random(COUNT) < WOMEN[role]
    noise = 0.3 * draw.normal(size=(COUNT, 16, 8, 8))
    latents = 0.5 * roles[role] + np.where(woman, 0.7, -0.7)[:, None, None, None] * way + noise
    return torch.tensor(latents, dtype=torch.float32), role, woman, torch.tensor(way.ravel(), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Z-Image that was trained on such latents, half of them under a caption that says who is in them."""
    path = make_flow(tmp_path_factory.mktemp("flow") / "z_image", "z_image")
    base = load_base(path)
    latents, role, woman, _ = planted(1)
    said = ["", *(f"a {one}" for one in ROLES), *(f"a {word} {one}" for one in ROLES for word in WORDS)]
    table, rng = base.encode_text(said), np.random.default_rng(0)
    base.denoiser.requires_grad_(True)
    optimizer = torch.optim.AdamW(base.denoiser.parameters(), lr=2e-3)
    noises = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        rows = rng.integers(COUNT, size=32)
        text = np.where(rng.random(32) < 0.5, 1 + role[rows], 1 + len(ROLES) + 2 * role[rows] + woman[rows])
        text = np.where(rng.random(32) < 0.1, 0, text)
        t = torch.tensor(base.family.timesteps(base, rng.random(32)))
        noise = torch.randn(32, 16, 8, 8, generator=noises)
        answer = base.run_denoiser(base.noisy(latents[rows], noise, t), t, table[text.tolist()])
        loss = (answer - base.target(latents[rows], noise, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        optimizer.step()
    base.denoiser.save_pretrained(path / "transformer")
    return path


@pytest.fixture(scope="module")
def images():
    """A set of such latents, who is a woman in it, and the direction that tells."""
    latents, role, woman, way = planted(2)
    latents = Latents.of(latents)
    return ImageSet(latents, latents, [f"a {ROLES[one]}" for one in role], "planted"), woman, way


def area(score, truth):
    """How often one of two images, a woman and a man, has the higher score as it should (area under the curve)."""
    women, men = score[truth], score[~truth]
    return float((women[:, None] > men).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("source", "least"), [("words:man|woman", 0.95), ("discovered", 0.65)])
def test_it_tells_who_is_in_an_image_by_words_and_better_than_chance_without(folder, images, source, least):
    given, woman, _ = images
    (groups,) = Grouper(load_base(folder), given.squares, given.captions).group(source).groups
    found = area(groups.membership[:, 0], woman)
    print(f"{source}: area under the curve {max(found, 1 - found):.2f}")
    assert max(found, 1 - found) > least


def distance(base, way, alpha=0.0, **more):
    """FD by prompt: how far the share of women is from one half, on average over the roles."""
    prompts = [f"a {one}" for one in ROLES for _ in range(100)]
    options = {"alpha": alpha, "steps": 12, "guidance_scale": 1.0, "decode": False} | more
    made = torch.cat([batch.latents for batch in generate_batches(base, prompts, range(len(prompts)), **options)])
    women = (made.flatten(1) @ way > 0).float().view(len(ROLES), -1).mean(1)
    print(f"α {alpha} {', '.join(more)}: share of women {women.tolist()}")
    return float((women - 0.5).abs().mean())


@pytest.mark.slow
def test_an_adapter_balances_each_role(folder, images, tmp_path):
    given, _, way = images
    base = load_base(folder)
    settings = TrainSettings(steps=200, batch_size=32, rank=4, calibrate=80)
    assert Run(base, given, tmp_path / "fair.safetensors", groups="words:man|woman", settings=settings).train()
    before, half, after = (distance(base, way, alpha) for alpha in (0.0, 0.5, 1.0))
    assert before > 0.2
    assert after < half < before
    assert after < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["queue", "batch"])
def test_distribution_guidance_balances_each_role(folder, images, mode):
    given, _, way = images
    base = load_base(folder)
    head = make_head(base, given, "words:man|woman")
    print(f"accuracy of the head {head.accuracy}")
    guided = distance(base, way, steering=SamplingGuidance([Guidance(head, mode=mode)]))
    assert guided < 0.1 < distance(base, way)
