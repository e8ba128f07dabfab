"""Trainings belong to the server: in the background, for every page, stopped from anywhere."""

import time
import urllib.error
import urllib.request

import pytest

from . import graphs
from .server import PACK, Failed, run_in_host
from .test_train import training, watch


def state(server, title):
    """The panel of a training, as the server tells it."""
    (found,) = [one["panel"] for one in server.get("/ddm/trainings") if one["panel"]["title"] == title]
    return found


def until(server, title, phases, timeout=120):
    """The panel of a training, once it is in one of some phases."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (panel := state(server, title))["phase"] in phases:
            return panel
        time.sleep(0.1)
    raise AssertionError(panel)


def stop(server, node="train"):
    return server.request("/ddm/trainings/stop", {"workflow": None, "node": node})


def test_in_the_background_the_queue_goes_on_and_a_second_training_is_refused(server, folder):
    graph = graphs.train(folder, name="aside", steps=4000, background=True)
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["train", 0]}}
    outputs = server.run(graph | {"after": shown})
    assert "after" not in outputs  # there is no adapter yet
    assert "GB of memory are free" in until(server, "aside", ["training"])["remarks"][0]
    assert server.run(graphs.load() | graphs.sample(steps=1))["image"]["images"]
    with pytest.raises(Failed, match="aside is still being trained"):
        server.run({"second": graphs.train(folder, name="second")["train"]})
    assert state(server, "aside")["phase"] == "training"
    stop(server)
    assert "What was trained is kept" in until(server, "aside", ["stopped"])["summary"]
    assert (server.base / "output" / "ddm" / "aside.checkpoint.safetensors").exists()


def test_a_training_that_the_queue_waits_for_is_stopped_from_elsewhere_too(server, folder):
    prompt, _ = watch(server, graphs.train(folder, name="elsewhere", steps=4000), training)
    stop(server)
    with pytest.raises(InterruptedError):
        server.wait(prompt)
    assert until(server, "elsewhere", ["stopped"])


@pytest.mark.parametrize(("data", "code"), [({"node": "nothing"}, 404), ({}, 400), ([], 400)])
def test_only_a_training_that_is_known_can_be_stopped(server, data, code):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.request("/ddm/trainings/stop", data)
    assert refused.value.code == code


@pytest.mark.parametrize("path", ["/ddm/trainings/stop", "/ddm/guidance/reset"])
def test_a_form_of_another_page_changes_nothing(server, path):
    request = urllib.request.Request(
        server.url + path, b"node=train", {"Content-Type": "application/x-www-form-urlencoded"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 415


MEMORY = """
import importlib.util, sys
from pathlib import Path
from comfy.cli_args import args
args.cpu = True
import comfy.model_management
pack = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.debias.core.error import DDMError
from pack.nodes import trainings
comfy.model_management.get_free_memory = lambda device: 1e8
try:
    trainings.check_memory(Path(pack) / "examples" / "tiny_people")
except DDMError as error:
    print(error)
"""


def test_where_memory_is_short_a_training_beside_the_hosts_models_is_refused(host):
    said = run_in_host(host, MEMORY, str(PACK)).splitlines()[-1]
    assert "0.1 GB of memory are free" in said and "Switch background off" in said
