"""An option that does nothing beside the others is said, and one that does something is not."""

from dataclasses import fields
from pathlib import Path

import pytest
from comfyui_ddm.debias.adapter.lora_file import content_hash
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.idle_options import NEEDS, NOT_PUBLISHED, idle_options
from comfyui_ddm.training.objectives.ddm_paper import DDMPaperRun
from typer.testing import CliRunner

PAPER = {"objective": "ddm-paper", "groups": "labels:gender"}


def said(given=(), **values):
    return [
        sentence
        for sentence, *_ in idle_options(
            TrainConfig(**{"out": Path("fair.safetensors"), "folder": Path("set")} | values), given
        )
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"measure": 60}, "measure has no effect without probe."),
        ({"clip": Path("clip")}, "clip has no effect without probe."),
        ({"sample_every": 5}, "sample every has no effect without sample dir."),
        ({"keep_tokens": 2}, "keep tokens has no effect without shuffle caption."),
        ({"prior_count": 5}, "prior count has no effect without prior prompts."),
        ({"paper_alpha": 0.1}, "paper alpha has no effect without the objective ddm-paper."),
        ({"trigger": "sks", "folder": None, "prior_prompts": "a"}, "trigger has no effect without folder."),
        ({"buckets": False, **PAPER}, "buckets has no effect with the objective ddm-paper."),
        ({"min_snr_gamma": 5.0, **PAPER}, "min snr gamma has no effect with the objective ddm-paper."),
        ({"flip": True, **PAPER}, "flip has no effect with the objective ddm-paper."),
    ],
)
def test_an_option_without_effect_is_said(values, sentence):
    (found,) = said(**values)
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"measure": 60, "probe": [Path("gender.safetensors")]},
        {"keep_tokens": 2, "shuffle_caption": True},
        {"buckets": False, "flip": True, "min_snr_gamma": 5.0},
        {"paper_alpha": 0.1, **PAPER},
        PAPER,
    ],
)
def test_what_has_an_effect_is_not(values):
    assert said(**values) == []


def test_an_option_with_its_usual_value_counts_where_the_command_line_names_it():
    assert said({"measure"}) == ["measure has no effect without probe."]


def test_every_option_is_one():
    assert {*NEEDS, *NEEDS.values(), *NOT_PUBLISHED} <= {field.name for field in fields(TrainConfig)}


def test_the_command_says_it(tiny_base, folder, tmp_path):
    given = ["train", folder, "--base", tiny_base, "--out", tmp_path / "fair.safetensors", "--groups", "labels:gender"]
    given += ["--steps", 1, "--batch-size", 2, "--rank", 1, "--calibrate", 0, "--device", "cpu", "--measure", 16]
    result = CliRunner().invoke(app, [str(one) for one in given])
    assert result.exit_code == 0 and "measure has no effect without probe (--measure, --probe)." in result.stderr


def test_the_published_objective_learns_squares_as_they_are(prepared):
    plain = prepared("plain", kind=DDMPaperRun, changes={"objective": "ddm-paper"})
    changes = {"objective": "ddm-paper", "min_snr_gamma": 5.0, "caption_dropout_rate": 0.5}
    other = prepared("other", kind=DDMPaperRun, changes=changes)
    assert plain.train() and other.train()
    assert content_hash(plain.out) == content_hash(other.out)
    assert plain.objective.latents is plain.images.squares
