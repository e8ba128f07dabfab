"""A training in one TOML file: what it may say, and what is said of mistakes in it."""

import json
import math
from pathlib import Path

import pytest
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import read_metadata
from comfyui_ddm.debias.core.option import settings_of
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.config_file import read_config, write_config
from typer.testing import CliRunner

from .runs import write_folder

pytest.importorskip("tomllib", reason="reading TOML needs Python 3.11, or tomli")


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_printed_configuration_gives_the_same_one_again(written, tmp_path):
    config = TrainConfig(
        out=tmp_path / "fair.safetensors",
        folder=tmp_path / "my “images”\\and more",
        trigger='sks "quoted"',
        groups="words:man|woman",
        learning_rate=1e-05,
        no_cache=True,
        overwrite=False,
        sample_every=7,
        probe=[tmp_path / "gender.safetensors", tmp_path / "tone.safetensors"],
    )
    assert TrainConfig(**read_config(written(write_config(vars(config))))) == config


def test_every_option_of_the_command_is_printed_under_its_name_even_if_it_is_not_set(tmp_path):
    lines = write_config(vars(TrainConfig(out=tmp_path / "fair.safetensors", folder=tmp_path))).splitlines()
    keys = [setting.key for setting in settings_of(TrainConfig).values()]
    assert [line.removeprefix("# ").partition(" =")[0] for line in lines[3::3]] == keys
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "400"}).stdout
    assert [key for key in keys if f"--{key} " not in shown] == ["folder"]


def test_a_configuration_is_printed_whatever_is_given_and_what_is_not_is_a_remark(written, tmp_path):
    bare = CliRunner().invoke(app, ["train", "--print-config"])
    assert bare.exit_code == 0 and "# out =" in bare.stdout.splitlines() and "# folder =" in bare.stdout.splitlines()
    assert read_config(written(bare.stdout))["steps"] == 300
    some = CliRunner().invoke(app, ["train", str(tmp_path), "--steps", "7", "--print-config"])
    found = read_config(written(some.stdout))
    assert (found["folder"], found["steps"]) == (tmp_path, 7) and "out" not in found
    refused = CliRunner().invoke(app, ["train", str(tmp_path)])
    assert refused.exit_code == 2 and "such as fair.safetensors (--out)." in " ".join(refused.stderr.split())


def test_paths_in_a_file_begin_at_its_folder(written, tmp_path):
    found = read_config(written('folder = "images"\nout = "made/fair.safetensors"'))
    assert found == {"folder": tmp_path / "images", "out": tmp_path / "made" / "fair.safetensors"}
    assert read_config(written('probe = ["a.safetensors", "b.safetensors"]'))["probe"] == [
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    ]


def test_one_value_will_do_where_there_may_be_several(written, tmp_path):
    assert read_config(written('probe = "a.safetensors"')) == {"probe": [tmp_path / "a.safetensors"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rnak = 8", "rnak. Did you mean rank?"),
        ("colour = 8", "There are caption-dropout-rate, prior-loss-weight, folder"),
        ('rank = "8"', "rank is '8'. Give a whole number."),
        ("rank = 8.5", "rank is 8.5. Give a whole number."),
        ("rank = true", "rank is True. Give a whole number."),
        ("rank = 0", "rank is 0. It must be at least 1."),
        ("caption-dropout-rate = 0.95", "caption-dropout-rate is 0.95. It must be at least 0 and at most 0.9."),
        ("resume = 1", "resume is 1. Give true or false."),
        ("out = 3", "out is 3. Give a path in quotes."),
        ("out = ['a', 'b']", "Give a path in quotes."),
        ("probe = ['a', 3]", "Give a path in quotes, or several in brackets."),
        ("rank =", "cannot be read as TOML"),
    ],
)
def test_mistakes_in_a_file_are_said_with_file_and_key(written, text, words):
    with pytest.raises(DDMError) as raised:
        read_config(written(text))
    assert "run.toml" in str(raised.value) and words in str(raised.value)


def test_a_whole_number_will_do_where_any_number_does(written):
    rate = read_config(written("learning-rate = 1"))["learning_rate"]
    assert rate == 1.0 and isinstance(rate, float)


@pytest.mark.parametrize(
    ("given", "size", "rate"),
    [
        ({}, 4_000_000, 3e-3),
        ({}, 860_000_000, 3e-4),
        ({"learning_rate": 1e-5}, 860_000_000, 1e-5),
        ({"optimizer": "prodigy"}, 860_000_000, 1.0),
    ],
)
def test_the_rate_is_the_usual_one_for_the_size_of_the_base_unless_it_is_given(given, size, rate):
    config = TrainConfig(out=Path("fair.safetensors"), folder=Path("set"), **given)
    assert config.settings(size).learning_rate == rate


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "sgd"}, "'sgd' is not possible. Give adamw or"),
        ({"rank": 0}, "0 is not possible. It must be at least 1."),
        ({"caption_dropout_rate": 0.95}, "It must be at least 0 and at most 0.9."),
        ({"learning_rate": math.nan}, "It must be at least 0."),
    ],
)
def test_a_configuration_that_is_made_in_python_keeps_to_choices_and_bounds_too(given, said):
    with pytest.raises(DDMError) as raised:
        TrainConfig(out=Path("fair.safetensors"), folder=Path("set"), **given)
    assert said in str(raised.value) and raised.value.options == tuple(given)


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(written, tiny_base, tmp_path):
    write_folder(tmp_path / "set")
    lines = ['folder = "set"', 'out = "fair.safetensors"', f"base = {json.dumps(str(tiny_base))}"]
    lines += ['groups = "labels:gender"', "steps = 2", "batch-size = 4", "rank = 2", "calibrate = 0"]
    given = ["train", str(written("\n".join(lines))), "--rank", "3", "--json"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 2
    card = load_adapter(tmp_path / "fair.safetensors").card
    assert (card.training["steps"], card.training["rank"], card.training["learning_rate"]) == (2, 3, 0.003)
    assert read_metadata(tmp_path / "fair.safetensors")["ss_learning_rate"] == "0.003"
    refused = CliRunner().invoke(app, ["train", str(written("out = 'fair.pt'\nfolder = 'set'"))])
    assert refused.exit_code == 2 and "Name it fair.safetensors" in " ".join(refused.stderr.split())
