"""README and the pages of docs/ show only commands, options, nodes, files and figures that exist."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from comfyui_ddm import install
from comfyui_ddm.debias.core.option import settings_of
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.other_trainers import OTHERWISE

ROOT = Path(install.__file__).parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path: path.read_text("utf-8") for path in PAGES}
COMMANDS = typer.main.get_command(app).commands
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def lines(path):
    blocks = re.findall(r"```sh\n(.*?)```", TEXT[path], re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


OURS = [line for path in PAGES for line in lines(path) if line[0] == "ddm"]
# Options of other programs and of benchmarks, which our commands do not have.
FOREIGN = {"--no-deps", "--table", "--task", "--venv", "--cfgs"}


def options():
    known = {name for command in COMMANDS.values() for one in command.params for name in one.opts + one.secondary_opts}
    theirs = {name for setting in settings_of(TrainConfig).values() for name in setting.option.names} | set(OTHERWISE)
    return known | FOREIGN | {f"--{name.replace('-', '_')}" for name in theirs}


def test_readme_is_two_screens():
    assert len(README.read_bytes()) <= 8000


def test_every_command_is_shown_but_the_one_that_trains_the_embedded_model():
    assert {name for name in COMMANDS if any(f"ddm {name}" in text for text in TEXT.values())} >= set(COMMANDS) - {
        "base",
        "demo",
    }


@pytest.mark.parametrize("line", OURS, ids=" ".join)
def test_a_command_is_understood_as_it_is_shown(line):
    COMMANDS[line[1]].make_context(line[1], line[2:])


@page
def test_every_option_that_a_page_names_exists(path):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", TEXT[path]))
    named -= {
        word for match in re.findall(r"`(?:pip|python benchmarks|comfy)[^`]*`", TEXT[path]) for word in match.split()
    }
    assert named - options() - {"--help", "--device"} == set()


@page
def test_a_script_that_a_page_runs_is_there(path):
    for script in re.findall(r"python (\w+/\w+\.py|install\.py)", TEXT[path]):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (tests\.[\w.]+)", TEXT[path]):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_the_installer_knows_the_faces_that_are_shown():
    faces = {line[2] for path in PAGES for line in lines(path) if line[:2] == ["python", "install.py"]}
    assert faces == {"demo", "test"}


@page
def test_what_is_linked_is_there(path):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT[path]) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []


@page
def test_a_file_that_a_page_names_is_there(path):
    named = re.findall(r"`((?:debias|training|hosts|nodes|webui|web|tests|benchmarks|examples)/[\w./-]*)`", TEXT[path])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_reached_from_readme():
    linked = {link for path in PAGES for link in re.findall(r"(\w+\.md)\)", TEXT[path])}
    assert {path.name for path in PAGES} - {"README.md"} <= linked


@page
def test_a_node_that_a_page_names_exists_and_readme_names_all(path):
    known = {
        entry["display_name"]
        for entry in json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8")).values()
    }
    table = re.findall(r"^\| (DDM [^|]*?) \|", TEXT[path], re.MULTILINE)
    listed = {name for row in table for name in row.split(", ")}
    assert listed <= known
    assert listed == known or path != README
    assert set(re.findall(r"\*(DDM (?:[A-Z]\w+ ?)+)\*", TEXT[path])) <= known


def figure(case, name):
    result = json.loads((ROOT / "benchmarks" / "results" / f"{case}.json").read_text("utf-8"))
    return next(one["value"] for one in result["figures"] if one["name"] == name)


@pytest.mark.parametrize(
    ("case", "row"),
    [
        ("discovered-men", "| `discovered`, six men to one woman |"),
        ("words-men", "| `words:man\\|woman`, the same |"),
        ("labels-gender", "| `labels:gender`, the same |"),
        ("auto-men", "| `auto`, the same |"),
    ],
)
def test_the_shares_in_the_results_are_those_that_were_measured(case, row):
    (line,) = (line for line in TEXT[ROOT / "docs" / "results.md"].splitlines() if line.startswith(row))
    shown = [int(share) for share in re.findall(r"(\d+)%", line)]
    assert shown[0] == round(100 * figure(case, "men at α 0"))
    assert int(re.search(r"\*\*(\d+)%", line).group(1)) == round(100 * figure(case, "men at α 1"))


def test_the_figures_in_readme_are_those_that_were_measured():
    text = " ".join(TEXT[README].split())
    before, after = (round(100 * figure("discovered-men", f"men at α {alpha}")) for alpha in (0, 1))
    labelled = round(100 * figure("labels-gender", "men at α 1"))
    assert f"men go from {before}% to {after}% at α = 1 without labels, and from {before}% to {labelled}%" in text
    table = (ROOT / "benchmarks" / "results" / "systems" / "gender" / "README.md").read_text("utf-8").splitlines()
    rows = {cells[1].strip(): cells[5].split()[0] for cells in (line.split("|") for line in table) if len(cells) > 10}
    shown = [rows[name] for name in ("the base as it is", "ddm, discovered", "distribution guidance, queue")]
    assert "from {} to {} only, and with guidance to {}.".format(*shown) in text


def test_a_page_names_the_oldest_comfyui_and_python_that_the_project_names():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    oldest = setup["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert f"{oldest} or newer" in TEXT[README] and f"{oldest} or newer" in TEXT[ROOT / "docs" / "comfyui.md"]
    assert f"Python {setup['project']['requires-python'].removeprefix('>=')} to" in TEXT[README]
    assert f"`{setup['project']['name']}`" in TEXT[ROOT / "docs" / "comfyui.md"]  # the folder's name after an install
