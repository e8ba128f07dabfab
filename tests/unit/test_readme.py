"""README shows only commands that exist and images that are there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from comfyui_ddm import install
from comfyui_ddm.training.commands.app import app

ROOT = Path(install.__file__).parent
TEXT = (ROOT / "README.md").read_text("utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
OURS = [line for line in LINES if line.startswith("ddm ")]


def test_every_command_is_shown_but_the_one_that_trains_the_embedded_model():
    commands = set(typer.main.get_command(app).commands)
    assert {name for name in commands if f"ddm {name}" in TEXT} == commands - {"base"}


@pytest.mark.parametrize("line", OURS)
def test_a_command_is_understood_as_it_is_shown(line):
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, arguments)


def test_the_installer_knows_the_faces_that_are_shown():
    faces = {line.split()[2] for line in LINES if line.startswith("python install.py")}
    assert faces == {"demo", "test"}


def test_what_is_linked_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
