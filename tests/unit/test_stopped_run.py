"""What a host says of a stopped run that it finds under the name of a new one."""

from pathlib import Path

import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.hosts.stopped_run import check_same_run
from comfyui_ddm.hosts.trainer_process import toml_of
from comfyui_ddm.training.commands.config_file import write_config


@pytest.fixture
def began(tmp_path):
    """What a stopped run was asked for; its file is there."""
    config = {"folder": tmp_path / "images", "base": tmp_path / "base", "out": tmp_path / "fair.safetensors"}
    config |= {"checkpoint": tmp_path / "fair.checkpoint.safetensors", "steps": 60, "groups": "discovered"}
    config |= {"probe": [tmp_path / "gender.safetensors"], "resume": False, "restart": False}
    toml_of(config["checkpoint"]).write_text(write_config(config), "utf-8")
    return config | {"resume": True}


def test_a_run_that_asks_for_the_same_goes_on_whatever_is_measured_afterwards(began):
    check_same_run(began)
    check_same_run(began | {"probe": None, "measure": 60, "calibrate": 0, "overwrite": True})
    check_same_run(began | {"rank": 8})  # what it is without being given
    check_same_run(began | {"steps": 80})


@pytest.mark.parametrize(
    ("asked", "said", "options"),
    [
        ({"steps": 80, "by_prompt": 16}, "began with by prompt 0. Give", ("by_prompt", "restart")),
        ({"folder": Path("/elsewhere/others")}, "began with folder images.", ("folder", "restart")),
        ({"caption": "a man"}, "began with caption left open.", ("caption", "restart")),
        (
            {"flip": True, "rank": 4, "seed": 1, "groups": "auto"},
            ", …. Give this again",
            ("groups", "rank", "seed", "flip", "restart"),
        ),
    ],
)
def test_what_differs_is_named_with_what_the_stopped_run_had(began, asked, said, options):
    with pytest.raises(DDMError) as raised:
        check_same_run(began | asked)
    assert said in str(raised.value) and set(raised.value.options) == set(options)


def test_a_run_that_begins_anew_may_ask_for_anything(began):
    check_same_run(began | {"rank": 4, "restart": True})
    check_same_run(began | {"rank": 4, "resume": False})
    toml_of(began["checkpoint"]).write_text("steps = 'many'", "utf-8")
    check_same_run(began | {"rank": 4})  # a file that cannot be read says nothing
