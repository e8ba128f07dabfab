"""What the pack costs a host at its start."""

import re
import subprocess

from .server import Server, environment

HEAVY = {"diffusers", "peft", "accelerate", "matplotlib", "sklearn", "jinja2.environment"}


def test_the_pack_adds_at_most_a_third_of_a_second_to_the_start(server):
    (seconds,) = re.findall(r"([\d.]+) seconds: .*ComfyUI-DDM", server.log())
    assert float(seconds) <= 0.3


def test_the_pack_starts_without_a_warning(server):
    start = server.log().partition("To see the GUI")[0]
    assert "IMPORT FAILED" not in re.findall(r".*custom_nodes.*", start)
    assert not [line for line in start.splitlines() if "ComfyUI-DDM" in line and "seconds:" not in line]


# The options of a training, which DDM Train takes its inputs from.
DECLARATIONS = {
    *("training.commands", "training.commands.config", "training.commands.idle_options"),
    *("training.models", "training.models.family"),
    *("training.loop", "training.loop.settings", "training.loop.optimizer"),
}


def test_the_start_imports_neither_diffusers_nor_the_trainer(host, tmp_path):
    server = Server(host, tmp_path)
    python, *rest = server.command("--quick-test-for-ci")
    command = [python, "-X", "importtime", *rest]
    done = subprocess.run(command, cwd=host, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.count("|") == 2}
    ours = {name.partition("ComfyUI-DDM.")[2] for name in names if "ComfyUI-DDM." in name}
    assert "nodes.extension" in ours
    assert {name for name in ours if name.startswith("training.")} <= DECLARATIONS
    before = imported_without_the_pack(host, tmp_path / "bare")
    assert not (names - before) & HEAVY


def imported_without_the_pack(host, base):
    server = Server(host, base)
    (base / "custom_nodes" / "ComfyUI-DDM").unlink()
    python, *rest = server.command("--quick-test-for-ci")
    command = [python, "-X", "importtime", *rest]
    done = subprocess.run(command, cwd=host, env=environment(), capture_output=True, text=True, timeout=300)
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.count("|") == 2}


def test_every_node_and_every_input_tells_what_it_is(server):
    nodes = {name: node for name, node in server.get("/object_info").items() if node["category"] == "DDM"}
    assert {"DDMLoadWeights", "DDMLoadAdapter", "DDMAlphaSchedule"} <= set(nodes)
    for name, node in nodes.items():
        assert name.startswith("DDM") and node["display_name"].startswith("DDM ") and node["description"], name
        for group in ("required", "optional"):
            for label, (_, *more) in node["input"].get(group, {}).items():
                assert more and more[0].get("tooltip"), f"{name}.{label}"
