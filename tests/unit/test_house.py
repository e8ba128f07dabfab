"""The rules of the house: who imports whom, what a start costs, what is declared where."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_ddm import install

ROOT = Path(install.__file__).parent
OURS = {"debias", "training", "hosts", "nodes", "webui", "scripts", "benchmarks", "tests", "install"}
# Folders of the project, and packages inside two of them: each may import from those before it, and from itself.
ORDER = {
    ".": ("debias", "training", "hosts", "nodes", "webui"),
    "debias": ("core", "adapter", "groups", "probes", "methods", "evaluation", "rendering"),
    "training": ("models", "sampling", "data", "evaluation", "loop", "objectives", "embedded", "commands"),
}
# Files that are no part of a package: the doors.
FLAT = {"debias": {"__init__.py"}, "training": {"__init__.py", "__main__.py"}}
HEAVY = {"diffusers", "transformers", "peft", "accelerate"}
HOSTS = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "modules", "modules_forge", "gradio"}
EXAMPLE = ROOT / "examples" / "people_emoji"


def sources(*folders):
    found = list(ROOT.glob("*.py")) if "." in folders else []
    return sorted(found + [path for folder in folders if folder != "." for path in (ROOT / folder).rglob("*.py")])


def imported(tree, inside_functions=True):
    """Return (line, first part of the module's name) of every absolute import; type-checking blocks do not count."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            yield child
            yield from walk(child)

    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module.split(".")[0]


def offenders(paths, forbidden, **options):
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), **options)
        if name in forbidden
    ]


def test_our_own_folders_are_only_imported_relatively_or_by_the_package_name():
    assert (
        offenders(sources(".", "debias", "training", "hosts", "nodes", "webui", "scripts", "benchmarks", "tests"), OURS)
        == []
    )


def test_inside_the_package_even_the_package_name_is_not_used():
    doors = {ROOT / "training" / "__main__.py"}  # run as `python -m training`, it loads the root under its name
    inside = [path for path in sources(".", "debias", "training", "hosts", "nodes", "webui") if path not in doors]
    assert offenders(inside, {"comfyui_ddm"}) == []


def test_the_library_imports_neither_the_trainers_packages_nor_a_host():
    assert offenders(sources("debias"), HEAVY | HOSTS) == []


def place(folder, parts):
    """The position of a module in a folder's order; None outside of it."""
    parts = parts if folder == "." else parts[1:] if parts[0] == folder else ()
    return ORDER[folder].index(parts[0]) if parts and parts[0] in ORDER[folder] else None


@pytest.mark.parametrize("folder", ORDER)
def test_packages_import_only_from_those_before_them(folder):
    upwards = []
    for path in sources(*ORDER["."]):
        parts = path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                asked = [*parts[: -node.level], *(node.module.split(".") if node.module else ())]
                here, there = place(folder, parts), place(folder, asked or [node.names[0].name])
                if None not in (here, there) and there > here:
                    upwards.append(f"{'/'.join(parts)}:{node.lineno} imports {'.'.join(asked)}")
    assert upwards == []


def names_in(module):
    """What can be imported from one of our modules or packages, by its path without an ending."""
    found = {path.stem for path in module.iterdir()} if module.is_dir() else set()
    files = [file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_sentences_name_no_command_which_may_not_be_on_the_path_of_a_host():
    said = []
    for path in sources(*ORDER["."]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "func", None)
            told = isinstance(node, ast.Call) and getattr(name, "id", getattr(name, "attr", "")) in ("DDMError", "note")
            if told and "`ddm " in ast.unparse(node):
                said.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert said == []


def test_what_is_imported_from_our_own_modules_is_there_also_where_only_a_host_would_import_it():
    missing = []
    for path in sources(*ORDER["."], "benchmarks", "tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                module = path.parents[node.level - 1].joinpath(*parts)
            elif parts[0] == "comfyui_ddm":
                module = ROOT.joinpath(*parts[1:])
            else:
                continue
            absent = {alias.name for alias in node.names} - names_in(module)
            missing += [f"{path.relative_to(ROOT)}:{node.lineno} imports {name}" for name in sorted(absent)]
    assert missing == []


@pytest.mark.parametrize("folder", FLAT)
def test_every_file_is_in_the_package_that_it_belongs_to(folder):
    assert {path.name for path in (ROOT / folder).glob("*.py")} == FLAT[folder]
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert packages == set(ORDER[folder])


def test_the_trainer_imports_its_packages_only_when_it_needs_them():
    assert offenders(sources("training"), HEAVY, inside_functions=False) == []


def test_neither_the_trainer_nor_what_hosts_share_knows_a_host():
    assert offenders(sources("training", "hosts"), HOSTS) == []


def test_no_pickle_is_ever_read():
    forbidden = {"torch.load", "torch.save", "joblib.load", "np.load", "numpy.load", "eval", "exec"}
    found = []
    for path in sources(".", "debias", "training", "hosts", "nodes", "webui", "scripts", "benchmarks"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(ROOT)}:{line}" for line, name in imported(tree) if name in {"pickle", "dill"}]
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node.func)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in forbidden
            and not any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in node.keywords)
        ]
    assert found == []


LOAD_ROOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", "__init__.py", submodule_search_locations=["."])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(sorted({name.split(".")[0] for name in sys.modules}))
"""


def loaded_by(*command):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_loading_the_package_as_a_host_does_brings_in_nothing_heavy():
    names = set(ast.literal_eval(loaded_by("-c", LOAD_ROOT).stdout))
    assert not names & (HEAVY | {"torch", "numpy", "PIL", "scipy"})


def test_the_help_of_the_command_line_brings_in_nothing_heavy():
    log = loaded_by("-X", "importtime", "-m", "training", "--help").stderr
    names = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in log.splitlines() if line.count("|") == 2}
    assert "typer" in names
    assert not names & (HEAVY | {"torch", "scipy", "sklearn", "matplotlib"})


def test_pip_installs_what_hosts_install_and_torch_is_left_to_the_host():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "dependencies" in setup["project"]["dynamic"]
    assert setup["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    hosts = set(install.requirement_names(ROOT / "requirements.txt"))
    assert "accelerate" in hosts and not hosts & {"torch", "torchvision", "torchaudio"}


def test_every_package_folder_is_in_the_list_for_pip():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {"comfyui_ddm"} | {
        ".".join(("comfyui_ddm", *path.parent.relative_to(ROOT).parts))
        for folder in ("debias", "training", "hosts", "nodes")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(listed) == there


def test_the_version_is_the_same_everywhere():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    door = re.search(r'__version__ = "(.+)"', (ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert project["version"] == door.group(1)


def test_everything_that_hosts_install_is_pinned_for_the_tests_on_every_python():
    pinned = (ROOT / "requirements-test.txt").read_text(encoding="utf-8").splitlines()
    for name in [*install.requirement_names(ROOT / "requirements.txt"), "torch"]:
        lines = [line for line in pinned if line.lower().startswith(f"{name}==")]
        markers = sorted(line.partition(";")[2].strip() for line in lines)
        assert markers in ([""], ['python_version < "3.11"', 'python_version >= "3.11"']), name


def rows():
    return [json.loads(line) for line in (EXAMPLE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_example_set_lists_exactly_its_images():
    names = [row["file_name"] for row in rows()]
    there = {path.relative_to(EXAMPLE).as_posix() for path in (EXAMPLE / "images").iterdir()}
    assert len(names) == len(set(names)) == 864
    assert set(names) == there


def test_the_example_set_has_every_role_in_every_gender_tone_and_style():
    cells = {(row["role"], row["gender"], row["skin_tone"], row["art_style"]) for row in rows()}
    assert len(cells) == 36 * 2 * 6 * 2
    assert {cell[1] for cell in cells} == {"man", "woman"}
    assert {cell[3] for cell in cells} == {"noto", "twemoji"}


def test_the_example_set_names_its_authors_and_licences():
    text = (EXAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for part in ("Noto Emoji v2.048", "© Google", "Apache License 2.0", "Twemoji v16.0.1", "© X Corp.", "CC BY 4.0"):
        assert part in text
    assert "Apache License" in (EXAMPLE / "LICENSE-Apache-2.0.txt").read_text(encoding="utf-8")
