"""Nodes that read a folder below input/: audits and probes of one's own."""

import json

import pytest
from comfyui_ddm.debias.core.io import save_tensors
from comfyui_ddm.debias.probes.probe import Probe
from PIL import Image

from . import graphs
from .conftest import write_shades
from .server import PACK, Failed, Refused, run_in_host

EXAMPLE = "people_emoji (comes with ComfyUI-DDM)"


@pytest.fixture(scope="module")
def shades(server):
    """input/Ordner 灰/: 12 dark and 4 light images in subfolders."""
    root = server.base / "input" / "Ordner 灰"
    write_shades(root)
    return root


def test_an_audit_counts_the_groups_of_a_folder(server, shades):
    outputs = server.run(graphs.audit(shades.name))
    (made,) = outputs["audit"]["ddm_panel"]
    shares = {group["name"]: group["share"] for group in made["attributes"][0]["groups"]}
    assert (made["kind"], made["n"], shares) == ("audit", 16, {"dark": 0.75, "light": 0.25})
    assert made["verdict"]["tone"] == "unfair"
    assert made["points"][0]["alpha"] == 0
    assert b"<!doctype html>" in server.view(made["files"]["html"])


def test_an_audit_finds_what_is_rare_without_a_label(server, shades):
    (made,) = server.run(graphs.audit(shades.name, "discovered", caption="a shade"), 300)["audit"]["ddm_panel"]
    assert made["attributes"][0]["name"] == "discovered"
    assert "count as" in made["summary"]


def test_an_audit_is_made_again_when_an_image_is_added(server, shades):
    graph = graphs.audit(shades.name)
    before = server.run(graph)["audit"]["ddm_panel"][0]["n"]
    Image.new("RGB", (64, 64), "white").save(shades / "light" / "late.png")
    assert server.run(graph)["audit"]["ddm_panel"][0]["n"] == before + 1
    (shades / "light" / "late.png").unlink()


@pytest.mark.parametrize("name", ["../output", "..", "nowhere", "/etc"])
def test_a_folder_that_is_not_below_input_is_refused(server, name):
    for graph, node in ((graphs.audit(name), "audit"), (graphs.fit(name), "fit")):
        with pytest.raises(Refused) as refused:
            server.queue(graph)
        assert "There is no folder" in str(refused.value.node_errors[node])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"groups": "gender"}, "is not known"),
        ({"groups": "discovered", "target": "dark=.5,light=.5"}, "needs named groups"),
        ({"weights": "../../etc"}, "There is no"),
    ],
)
def test_settings_of_an_audit_are_checked_before_anything_runs(server, shades, inputs, said):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.audit(shades.name, **inputs))
    assert said in str(refused.value.node_errors["audit"])


def test_an_empty_folder_and_an_unknown_column_are_sentences(server, shades):
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    with pytest.raises(Failed, match="no images in it"):
        server.run(graphs.audit("empty"))
    with pytest.raises(Failed, match="no label column"):
        server.run(graphs.fit(shades.name, labels="age"))


def test_a_probe_is_fitted_saved_and_offered(server, shades):
    outputs = server.run(graphs.fit(shades.name, "hell und dunkel ☀", steps=40))
    assert "right on" in outputs["fit"]["text"][0]
    file = server.base / "models" / "ddm" / "hell und dunkel ☀.safetensors"
    assert Probe.load(file).names == ("dark", "light")
    assert file.name in server.options("DDMLoadProbe", "probe")
    graph = graphs.probe(file.name) | graphs.report()
    graph["decoder"] = {"class_type": "EmptyImage", "inputs": dict(width=64, height=64, batch_size=1, color=0x282828)}
    (made,) = server.run(graph)["report"]["ddm_panel"]
    assert made["attributes"][0]["name"] == "folder"


def test_a_probe_takes_the_place_of_no_other_file(server, shades):
    file = server.base / "models" / "ddm" / "taken.safetensors"
    save_tensors(file, {}, {"ddm.kind": "head"})
    before = file.read_bytes()
    with pytest.raises(Failed, match="it is no probe that ddm wrote"):
        server.run(graphs.fit(shades.name, "taken"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../gender", "a/", "..", ".hidden", "a\\..\\b", "x" * 200, "nul\0"])
def test_a_name_that_is_none_for_a_file_is_refused(server, shades, name):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.fit(shades.name, name))
    assert "is no name for a" in str(refused.value.node_errors["fit"])


def test_the_example_set_is_offered_first(server):
    for node in ("DDMAuditImages", "DDMFitProbe"):
        assert server.options(node, "folder")[0] == EXAMPLE


def fill(folder, level=40):
    """A folder with one image."""
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), (level, level, level)).save(folder / "one.png")
    return folder


def test_a_cache_and_what_else_is_hidden_is_not_offered(server, shades):
    (shades / ".ddm_cache" / "kept").mkdir(parents=True)
    offered = server.options("DDMTrain", "folder")
    assert shades.name in offered and f"{shades.name}/dark" in offered
    assert not [name for name in offered if "ddm_cache" in name]


def test_a_data_set_beside_the_models_is_offered_told_apart_and_read(server):
    fill(server.base / "models" / "ddm_datasets" / "Ordner 画" / "10_set", 200)
    fill(server.base / "input" / "Ordner 画")
    both = ["Ordner 画", "Ordner 画 (in ddm_datasets)", "Ordner 画/10_set (in ddm_datasets)"]
    for node in ("DDMTrain", "DDMAuditImages", "DDMFitProbe"):
        offered = server.options(node, "folder")
        assert [name for name in offered if "画" in name] == both
    with pytest.raises(Failed, match="no label column"):
        server.run(graphs.fit(both[2], labels="age"))


def test_a_linked_folder_is_offered_and_links_in_a_circle_come_to_an_end(server, tmp_path):
    elsewhere = fill(tmp_path / "elsewhere" / "set").parent
    root = server.base / "input" / "links"
    root.mkdir()
    (root / "far").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(root, target_is_directory=True)
    (root / "here").symlink_to(root, target_is_directory=True)
    assert [name for name in server.options("DDMTrain", "folder") if name.startswith("links")] == [
        "links",
        "links/far",
        "links/far/set",
    ]
    with pytest.raises(Failed, match="no label column"):
        server.run(graphs.fit("links/far/set", labels="age"))
    (root / "here").unlink()
    (root / "far").unlink()


CONFIGURED = """
import importlib.util, json, sys
from comfy.cli_args import args
args.cpu = True
import folder_paths
from utils.extra_config import load_extra_path_config
load_extra_path_config(sys.argv[2])
pack = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes import files, image_folders
files.register_folders()
files.register_folders()
roots, suffixes = folder_paths.folder_names_and_paths["ddm_datasets"]
names = [name for name in image_folders.names() if "ddm_datasets" in name]
print(json.dumps([roots, sorted(suffixes), {name: str(image_folders.resolve(name)) for name in names}]))
"""


def test_roots_of_data_sets_may_be_configured_and_show_images_only(host, tmp_path):
    first, second = fill(tmp_path / "a" / "set"), fill(tmp_path / "b" / "set")
    other = fill(tmp_path / "b" / "other")
    config = tmp_path / "paths.yaml"
    config.write_text(f"mine:\n    ddm_datasets: |\n        {tmp_path / 'a'}\n        {tmp_path / 'b'}\n", "utf-8")
    roots, suffixes, found = json.loads(run_in_host(host, CONFIGURED, str(PACK), str(config)).splitlines()[-1])
    assert roots[:2] == [str(tmp_path / "a"), str(tmp_path / "b")] and len(roots) == 3
    assert roots[2].endswith("ddm_datasets") and ".png" in suffixes and ".txt" not in suffixes
    assert found == {"set (in ddm_datasets)": str(first), "other (in ddm_datasets)": str(other)}
    assert second.is_dir()
