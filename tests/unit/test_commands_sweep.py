"""`ddm sweep`: which α is recommended, and what is kept in the adapter file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, content_hash, load_adapter, save_adapter
from comfyui_ddm.debias.evaluation.evaluate import build_report
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.records import Attribute, Condition, EvaluationData
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.evaluation.alpha_sweep import measured_card
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import add_lora, export_lora, lora_parameters
from typer.testing import CliRunner

from .runs import write_probe
from .test_guidance import random_head

IMAGES = 80


def measured(
    shares: dict[tuple[float, float], float], recognised: dict[float, float] | None = None, target=True, apart=0.0
):
    """A report of two prompts whose shares of men at (α, CFG) are the given one ± apart, with a probe for the subject
    if asked."""
    seen, subject, prompts, conditions, seeds = [], [], [], [], []
    for (alpha, cfg), share in shares.items():
        for prompt, role in enumerate(("a doctor", "a pilot")):
            for i in range(IMAGES):
                men = share + (apart if prompt else -apart)
                seen.append([1, 0] if i < round(men * IMAGES) else [0, 1])
                right = i < (recognised or {}).get(alpha, 1) * IMAGES
                subject.append([1, 0] if right == (prompt == 0) else [0, 1])
                prompts.append(role)
                conditions.append(Condition(alpha, cfg))
                seeds.append(prompt * IMAGES + i)
    attributes = [
        Attribute(
            "gender", ("man", "woman"), np.array(seen, float), Target.uniform(("man", "woman")) if target else None
        )
    ]
    if recognised:
        attributes.append(Attribute("role", ("doctor", "pilot"), np.array(subject, float)))
    return build_report(EvaluationData.of(prompts, attributes, conditions, seeds), resamples=100, clusters=0, sheets=0)


def recommended_alpha(report, cfg):
    return report.recommendation(cfg).alpha


def test_the_smallest_fair_alpha_is_recommended():
    report = measured({(0.0, 3.0): 0.85, (0.5, 3.0): 0.7, (0.75, 3.0): 0.52, (1.0, 3.0): 0.5})
    assert recommended_alpha(report, 3.0) == 0.75


def test_without_a_fair_alpha_the_best_one_is_recommended():
    report = measured({(0.0, 3.0): 0.95, (0.5, 3.0): 0.9, (1.0, 3.0): 0.7})
    assert recommended_alpha(report, 3.0) == 1.0


def test_prompts_that_differ_do_not_make_a_weaker_alpha_as_good():
    report = measured({(0.0, 3.0): 0.8, (0.5, 3.0): 0.74, (1.0, 3.0): 0.55}, apart=0.12)
    assert recommended_alpha(report, 3.0) == 1.0


def test_an_alpha_that_costs_the_subject_is_left_out():
    shares = {(0.0, 3.0): 0.85, (0.5, 3.0): 0.7, (1.0, 3.0): 0.5}
    assert recommended_alpha(measured(shares, {0.0: 0.95, 0.5: 0.95, 1.0: 0.95}), 3.0) == 1.0
    assert recommended_alpha(measured(shares, {0.0: 0.95, 0.5: 0.95, 1.0: 0.8}), 3.0) == 0.5


def test_each_guidance_scale_is_judged_alone():
    report = measured({(0.0, 1.0): 0.7, (1.0, 1.0): 0.5, (0.0, 5.0): 0.9, (1.0, 5.0): 0.8, (1.5, 5.0): 0.5})
    assert recommended_alpha(report, 1.0) == 1.0
    assert recommended_alpha(report, 5.0) == 1.5
    assert [point["alpha"] for point in measured_card(report, 5.0, 20)["points"]] == [0.0, 1.0, 1.5]


def test_without_a_target_nothing_is_recommended():
    assert recommended_alpha(measured({(0.0, 3.0): 0.85, (1.0, 3.0): 0.5}, target=False), 3.0) is None


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    base = load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    with torch.no_grad():
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.add_(0.1)
    card = AdapterCard(base_hash=base.hash, recommended_alpha=9.0)
    save_adapter(folder / "fair.safetensors", export_lora(base.denoiser, "debias"), card)
    return folder / "fair.safetensors", write_probe(folder / "gender.safetensors")


@pytest.fixture
def sweep(tiny_base, tmp_path, files):
    def run(*arguments: object, code: int = 0):
        given = ["sweep", files[0], "--probe", files[1], "--base", tiny_base, "--out", tmp_path / "out", "--steps", 1]
        given += ["--prompts", "a doctor;a pilot", "--per-prompt", 3, "--device", "cpu", *arguments]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_sweep_measures_every_alpha_and_scale_and_keeps_the_card(sweep, files, tmp_path):
    before, hashed = load_adapter(files[0]).card, content_hash(files[0])
    facts = json.loads(sweep("--alpha", "0,1,1.5", "--cfg", "3,1", "--save-card", "--json").stdout)
    assert [point["alpha"] for point in facts["points"]] == [0.0, 1.0, 1.5]
    assert all(point["images"] == 6 for point in facts["points"])
    assert (facts["cfg"], facts["target"]) == (3.0, [0.5, 0.5])
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 2 * 3 * 2 * 3
    assert all(Path(path).is_file() for path in facts["files"].values())
    card = load_adapter(files[0]).card
    # Three images of each prompt are too few to recommend anything, so the card keeps what it had.
    assert facts["recommended_alpha"] is None and "too few images" in facts["reason"]
    assert card.recommended_alpha == before.recommended_alpha
    assert card.measured["points"] == facts["points"]
    assert replace(card, measured=None, recommended_alpha=before.recommended_alpha) == before
    assert content_hash(files[0]) == hashed
    # The rewritten card does not make the images those of another adapter.
    assert "No α is recommended" in sweep("--alpha", "0,1,1.5", "--cfg", "3,1").stdout


def test_a_sweep_can_be_guided_and_then_says_nothing_of_the_adapter(sweep, tiny_base, tmp_path):
    head = tmp_path / "head.safetensors"
    random_head(base_hash=load_base(tiny_base).hash).save(head)
    sweep("--alpha", "0,1", "--guide", head)
    kept = [json.loads(line) for line in (tmp_path / "out" / "images" / "metadata.jsonl").read_text().splitlines()]
    assert len(kept) == 12 and all("counted" in row for row in kept)
    assert "would say so of it" in sweep("--alpha", "0,1", "--guide", head, "--save-card", code=2).stderr


def test_a_sweep_needs_alpha_0(sweep):
    assert "Put 0 among" in sweep("--alpha", "0.5,1", code=2).stderr


def test_a_target_over_other_classes_is_refused_before_sampling(sweep, tmp_path):
    assert "cat" in sweep("--target", "cat=.5,dog=.5", code=2).stderr
    assert not (tmp_path / "out").exists()
