"""What the ComfyUI registry and the extension manager see of the pack."""

import ast
import fnmatch
import json
import re
import subprocess
import sys
import zipfile

import pytest
from comfyui_ddm import install
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.core.io import read_metadata
from comfyui_ddm.hosts.adapter_card import LoadedCard
from PIL import Image

ROOT = install.ROOT
MB = 1_000_000


def toml():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def published():
    """The tracked files that .comfyignore does not leave out: its lines are folders, ending in a slash, and files."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if line and not line.startswith("#")]
    return [
        name
        for name in tracked()
        if not any(name.startswith(line) if line.endswith("/") else fnmatch.fnmatch(name, line) for line in left_out)
    ]


def published_sources():
    return [
        (name, ast.parse((ROOT / name).read_text(encoding="utf-8"))) for name in published() if name.endswith(".py")
    ]


def scanned(tree):
    """The extension manager's rule: in a class that inherits ComfyNode, `Schema(node_id="…")` within define_schema."""
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef) or "ComfyNode" not in {ast.unparse(base)[-9:] for base in kind.bases}:
            continue
        for method in kind.body:
            if isinstance(method, ast.FunctionDef) and method.name == "define_schema":
                for call in ast.walk(method):
                    if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "Schema":
                        yield from (
                            word.value.value
                            for word in call.keywords
                            if word.arg == "node_id" and isinstance(word.value, ast.Constant)
                        )


def test_the_extension_manager_finds_every_node_under_its_id():
    found = [node for _, tree in published_sources() for node in scanned(tree)]
    translated = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(translated)
    listed = ast.parse((ROOT / "nodes" / "extension.py").read_text(encoding="utf-8"))
    (nodes,) = (one.value for one in listed.body if isinstance(one, ast.AnnAssign) and one.target.id == "NODES")
    assert len(found) == len(nodes.elts)


def test_what_is_published_starts_a_process_in_one_file_and_goes_to_no_network():
    found = {}
    for name, tree in published_sources():
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in modules:
                found.setdefault(module.split(".")[0], set()).add(name)
    assert found["subprocess"] == {"hosts/trainer_process.py"}
    network = {"socket", "urllib", "requests", "httpx", "aiohttp", "http", "ftplib", "multiprocessing", "ctypes"}
    assert {module: places for module, places in found.items() if module in network} == {}


def test_what_is_published_uses_no_shell_no_eval_no_pip_and_leaves_the_environment_alone():
    found = []
    for name, tree in published_sources():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Assign | ast.Delete) else ""
            if re.match(r"(eval|exec|compile|__import__|os\.(system|popen|exec\w*|spawn\w*|putenv))\(", text):
                found.append(f"{name}: {text}")
            if re.match(r"(os\.environ(\[[^]]*\] =|\.(update|setdefault|pop|clear)\()|del os\.environ)", text):
                found.append(f"{name}: {text}")
            if "shell=True" in text or "'pip'" in text:
                found.append(f"{name}: {text}")
    assert found == []


def test_every_address_that_nodes_add_to_the_hosts_server_is_in_security():
    text = "".join(ast.unparse(tree) for name, tree in published_sources() if name.startswith("nodes/"))
    added = re.findall(r"routes\.(?:get|post|put|delete|patch)\('([^']+)'\)", text)
    named = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert added and [address for address in added if f"`{address}`" not in named] == []
    assert not re.search(r"\.(?:add_route|add_get|add_post|add_api_route|add_static)\(", text)


def test_the_search_path_for_modules_is_changed_at_the_trainers_door_only():
    uses = {name for name, tree in published_sources() if "sys.path" in ast.unparse(tree)}
    assert uses == {"training/__main__.py"}


def test_nodes_and_trainer_run_without_what_is_not_published():
    names = set(published())
    missing = []
    for name, tree in published_sources():
        here = name.split("/")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                asked = "/".join([*here[: len(here) - node.level], *(node.module or "").split(".")]).rstrip("/")
                if not any(one == f"{asked}.py" or one.startswith(f"{asked}/") for one in names) and asked:
                    missing.append(f"{name} imports {asked}")
    assert missing == []


def nodes_of(graph):
    """The nodes of a workflow, also within its subgraphs."""
    yield from graph["nodes"]
    for inner in graph.get("definitions", {}).get("subgraphs", ()):
        yield from nodes_of(inner)


@pytest.mark.parametrize("folder", ["example_workflows", "subgraphs"])
def test_every_workflow_names_the_pack_and_its_version(folder):
    project, ours = toml()["project"], []
    for path in (ROOT / folder).glob("*.json"):
        for node in nodes_of(json.loads(path.read_text(encoding="utf-8"))):
            named = node["properties"].get("cnr_id"), node["properties"].get("ver")
            if node["type"].startswith("DDM"):
                ours.append(node["type"])
                assert named == (project["name"], project["version"]), (path.name, node["type"])
            else:
                assert named[0] in ("comfy-core", None), (path.name, node["type"])
    assert ours


def test_everything_that_an_example_workflow_names_is_published():
    names = {name.rsplit("/", 1)[-1] for name in published()}
    for path in (ROOT / "example_workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        values = [value for node in nodes if node["type"].startswith("DDM") for value in node.get("widgets_values", [])]
        files = {value for value in values if isinstance(value, str) and value.endswith(".safetensors")}
        assert files <= names, path.name


def test_the_archive_and_a_clone_are_small(tmp_path):
    archive = tmp_path / "node.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in published():
            file.write(ROOT / name, name)
    assert archive.stat().st_size <= 25 * MB
    assert sum((ROOT / name).stat().st_size for name in tracked()) <= 40 * MB


def test_the_registry_reads_links_classifiers_icon_and_banner():
    project, comfy = toml()["project"], toml()["tool"]["comfy"]
    assert set(project["urls"]) == {"Repository", "Documentation", "Issues"}
    accelerators = {"GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "GPU :: Apple Metal"}
    environments = {line[len("Environment :: ") :] for line in project["classifiers"] if line.startswith("Environment")}
    assert environments <= accelerators
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    sizes = {}
    for key in ("Icon", "Banner"):
        start = project["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
        assert comfy[key].startswith(start)
        with Image.open(ROOT / comfy[key].removeprefix(start)) as image:
            sizes[key] = image.size
    assert sizes["Icon"][0] == sizes["Icon"][1] <= 400
    assert sizes["Banner"][0] * 9 == sizes["Banner"][1] * 21


def test_a_version_is_published_when_it_is_tagged():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert 'tags: ["v*"]' in text and "node validate" in text and "node publish" in text and "CHANGELOG.md" in text
    assert f"## [{toml()['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_card_of_the_adapter_that_comes_along_can_be_shown():
    adapter = ROOT / "examples" / "adapters" / "tiny_people_fair.safetensors"
    card = AdapterCard.from_metadata(read_metadata(adapter))
    panel = LoadedCard(adapter.name, 1.0, card, None).panel()
    assert panel["n"] > 0 and panel["measured"] and len(panel["points"]) > 2
