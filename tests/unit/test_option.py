"""Options are declared once: what every face makes of the same declaration."""

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from comfyui_ddm import install
from comfyui_ddm.debias.core.error import DDMError, named
from comfyui_ddm.debias.core.option import SECTIONS, option, settings_of
from comfyui_ddm.hosts.train_inputs import NOT_ASKED, asked, explained, train_config
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.options import as_given
from comfyui_ddm.training.commands.other_trainers import OTHERWISE, as_ours, our_name
from typer.testing import CliRunner

ROOT = Path(install.__file__).parent
DECLARED = settings_of(TrainConfig)


@dataclass
class Example:
    steps: int = option(3, "Steps.", least=1)
    rate: float | None = option(None, "Rate.", unset="the usual one")
    names: list[str] | None = option(None, "Names.", "Images")
    hidden: int = 5


def test_a_declaration_says_kind_default_and_section_and_a_field_without_one_is_no_option():
    found = settings_of(Example)
    assert list(found) == ["names", "steps", "rate"]
    assert [(one.kind, one.several, one.default) for one in found.values()] == [
        (str, True, None),
        (int, False, 3),
        (float, False, None),
    ]
    assert explained(found["rate"]) == "Rate. 0: the usual one."


def test_every_option_of_a_training_has_a_section_and_a_sentence_that_holds_on_every_face():
    for setting in DECLARED.values():
        assert setting.option.section in SECTIONS
        assert setting.option.help.endswith((".", ").")) and "--" not in setting.option.help


def test_pages_ask_for_every_option_but_those_that_they_have_other_places_for():
    assert {one.name for one in asked()} | NOT_ASKED == set(DECLARED)
    expert = [one.option.expert for one in asked() if not one.option.since]
    assert expert == sorted(expert)


def test_the_page_of_the_node_has_a_row_for_every_input():
    """`DDM_WRITE=1 pytest tests/unit/test_option.py` writes the tables anew."""
    page = ROOT / "web" / "docs" / "DDMTrain.md"
    begin, end = "<!-- inputs -->\n", "<!-- end of inputs -->\n"
    before, rest = page.read_text("utf-8").split(begin)
    shown, after = rest.split(end)
    tables = []
    for expert in (False, True):
        rows = [f"| `{one.name}` | {explained(one)} |" for one in asked() if one.option.expert == expert]
        tables.append(
            "\n".join(
                ["", "| Input | What it does |", "|---|---|", *(row.replace("man|w", "man\\|w") for row in rows), ""]
            )
        )
    if os.environ.get("DDM_WRITE"):
        page.write_text(before + begin + "".join(tables) + "\n" + end + after, encoding="utf-8")
    else:
        assert shown == "".join(tables) + "\n"


def test_the_first_choice_of_an_option_is_its_default():
    for setting in DECLARED.values():
        if setting.option.choices:
            assert setting.default in (None, setting.option.choices[0])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("network_dim", "rank"),
        ("max_train_steps", "steps"),
        ("pretrained_model_name_or_path", "base"),
        ("reg-data-dir", "reg-data"),
        ("learning_rate", "learning-rate"),
        ("sample_every_n_steps", "sample-every"),
    ],
)
def test_the_names_of_other_trainers_are_known(name, ours):
    assert our_name(name) == ours
    assert as_ours([f"--{name}", "7"]) == [f"--{ours}", "7"] and as_ours([f"--{name}=7"]) == [f"--{ours}=7"]


def test_the_folder_of_images_may_be_named_as_elsewhere():
    assert as_ours(["--train_data_dir", "images", "--rank", "4"]) == ["images", "--rank", "4"]
    assert as_ours(["--instance_data_dir=images"]) == ["images"]


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_what_means_something_else_elsewhere_is_answered_with_a_sentence(name):
    assert name not in DECLARED
    with pytest.raises(DDMError, match=re.escape(OTHERWISE[name])):
        our_name(name)
    refused = CliRunner().invoke(app, ["train", "images", f"--{name.replace('-', '_')}=8"])
    assert refused.exit_code == 2 and OTHERWISE[name][:30] in " ".join(refused.stderr.split())


def test_other_trainers_names_stand_in_no_help():
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "400"}).stdout
    assert "--rank" in shown and "network-dim" not in shown


def test_a_page_gives_what_is_filled_in_and_nothing_for_what_is_not(tmp_path):
    given = {
        "learning_rate": 0.0,
        "prediction": "auto",
        "resolution": 0,
        "by_prompt": 0,
        "trigger": "  ",
        "caption": " a portrait ",
        "prior_prompts": "roles.txt",
        "sample_prompts": "roles.txt",
        "probe": [],
        "reg_data": None,
    }
    places = {"checkpoint": tmp_path / "kept", "sample_dir": tmp_path, "device": "privateuse", "style": True}
    config = train_config(tmp_path, tmp_path, tmp_path / "fair.safetensors", overwrite=False, **places, **given)
    assert {"learning_rate", "prediction", "resolution", "trigger", "probe", "reg_data"}.isdisjoint(config)
    assert (config["by_prompt"], config["caption"], config["device"]) == (0, "a portrait", "auto")
    assert config["prior_prompts"] == config["sample_prompts"] == "roles.txt;"  # a list of prompts, and never a file
    assert config["style"] == tmp_path / "fair_style.safetensors" and not config["resume"]
    (tmp_path / "kept").touch()
    again = train_config(tmp_path, tmp_path, tmp_path / "fair.safetensors", overwrite=True, **places)
    assert again["resume"] and again["restart"]


def test_a_face_says_options_in_its_own_words_and_leaves_out_what_it_does_not_have():
    assert named("Choose a lower rank.", ["rank", "folder"], as_given) == "Choose a lower rank (--rank, FOLDER)."
    assert named("Choose a lower rank.", ["rank"], lambda name: None) == "Choose a lower rank."


def sentences(path):
    """All texts of a module that have several words, without docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    silent = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for part in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


def test_no_sentence_names_an_option_but_on_the_command_line_itself():
    modules = [path for part in ("debias", "training", "hosts", "nodes") for path in (ROOT / part).rglob("*.py")]
    modules = [path for path in modules if path.parent.name != "commands" and path.name != "trainer_process.py"]
    assert len(modules) > 100
    texts = [text for path in modules for text in sentences(path) if len(text.split()) > 2]
    assert [text for text in texts if re.search(r"--[a-z]", re.sub("`[^`]*`?", "", text))] == []
