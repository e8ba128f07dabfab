"""The α sweep on a real server: what it makes, what it recommends, how it is stopped."""

import io
import json
import shutil
import time

import numpy as np
import pytest
from comfyui_ddm.debias.core.image import fit
from PIL import Image

from . import graphs
from .server import ADAPTER, PACK, Failed, Refused


def panel(outputs, node="sweep"):
    (made,) = outputs[node]["ddm_panel"]
    return made


def saved(server, outputs, node):
    (file,) = outputs[node]["images"]
    return Image.open(io.BytesIO(server.view(file))).convert("RGB")


@pytest.fixture(scope="module")
def swept(server):
    return server.run(graphs.sweep())


def test_every_strength_is_measured_on_the_same_seeds(server, swept):
    made = panel(swept)
    assert [one["alpha"] for one in made["points"]] == [0.0, 0.5, 1.0]
    assert [one["n"] for one in made["points"]] == [6, 6, 6]
    assert made["recommended_alpha"] is None  # three images of each prompt are too few to say
    assert {one["prompt"] for one in made["prompts"]} == {"a firefighter", "a doctor"}
    figures = json.loads(server.view(made["files"]["json"]))
    assert [one["paired_images"] for one in figures["quality"]] == [0, 6, 6]
    assert made["points"][0]["quality"] == 0 < made["points"][1]["quality"] < made["points"][2]["quality"]


def test_the_adapter_is_applied_without_a_key_left_over(server):
    before = len(server.log())
    server.run(graphs.sweep(prompts="a pilot", count=1))
    assert "not loaded" not in server.log()[before:].lower()


def test_grid_and_chart_are_images(server, swept):
    grid, chart = saved(server, swept, "grid"), saved(server, swept, "chart")
    assert grid.height > 3 * 128
    assert chart.width > chart.height > 300


def first_tile(grid):
    """The first image of a grid with one prompt: below margin, title and column head."""
    return np.asarray(grid.crop((28, 120, 28 + 128, 120 + 128)), dtype=float)


@pytest.mark.parametrize(("alphas", "first"), [("0", 0.0), ("-1, 0", -1.0)])
def test_its_images_are_those_that_a_graph_makes_of_the_same_seed(server, alphas, first):
    outputs = server.run(graphs.sweep(alphas, "a firefighter", count=1, steps=6, seed=5))
    sheets = json.loads(server.view(panel(outputs)["files"]["json"]))["sheets"]
    seed = int(sheets[0]["images"][0][0]["caption"].removeprefix("seed ").split(":")[0])
    graph = graphs.load() | graphs.adapter(first) | graphs.sample("adapter", seed=seed, batch=1, steps=6)
    alone = np.asarray(fit(saved(server, server.run(graph), "image"), 128), dtype=float)
    # The host cuts off where it saves and ours rounds: one step of 255, and a little more after scaling.
    difference = np.abs(first_tile(saved(server, outputs, "grid")) - alone)
    assert difference.mean() < 1
    assert difference.max() <= 4


def test_images_that_are_there_are_not_generated_again(server):
    server.run(graphs.measured("a lawyer", count=2))  # at α = 0 they are those of the sweep
    files = server.base / "output" / "ddm" / "images"
    before = set(files.rglob("a-lawyer*/*.png"))
    assert len(before) == 2
    server.run(graphs.sweep("0, 1", "a lawyer", count=2))
    swept = set(files.rglob("a-lawyer*/*.png"))
    assert len(swept - before) == 2
    server.run(graphs.sweep("0, 1", "a lawyer", count=3))
    assert len(set(files.rglob("a-lawyer*/*.png")) - swept) == 2


def test_a_conditioning_will_do_in_place_of_prompts_and_clip(server):
    graph = graphs.sweep("0, 1", prompts="my own words", count=2)
    parts = graphs.sample()
    graph |= {name: parts[name] for name in ("yes", "no")}
    del graph["sweep"]["inputs"]["clip"]
    graph["sweep"]["inputs"] |= {"positive": ["yes", 0], "negative": ["no", 0]}
    made = panel(server.run(graph))
    assert [one["prompt"] for one in made["prompts"]] == ["my own words"]
    del graph["sweep"]["inputs"]["negative"]
    with pytest.raises(Failed, match="Connect negative"):
        server.run(graph)
    del graph["sweep"]["inputs"]["positive"]
    with pytest.raises(Failed, match="connect clip and write prompts"):
        server.run(graph)


@pytest.mark.parametrize(
    ("alphas", "said"),
    [
        ("a, b", "Give numbers"),
        ("", "Give numbers"),
        ("0, nan", "Give numbers"),
        ("0, inf", "Give numbers"),
        ("0.5, 1", "Put 0 among the strengths"),
        ("0, 100", "between -2 and 3"),
        ("0," + ",".join(f".{i:02}" for i in range(1, 20)), "at most 12"),
    ],
)
def test_strengths_that_are_none_are_refused_before_anything_runs(server, alphas, said):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.sweep(alphas))
    assert said in str(refused.value.node_errors["sweep"])


def test_strengths_are_taken_once_and_in_order(server):
    made = panel(server.run(graphs.sweep("1, 0, -0, 1,", "a firefighter", count=1)))
    assert [one["alpha"] for one in made["points"]] == [0.0, 1.0]


@pytest.mark.parametrize("prompts", ["", " \n ; "])
def test_without_a_prompt_there_is_a_sentence(server, prompts):
    with pytest.raises(Failed, match="no prompt"):
        server.run(graphs.sweep(prompts=prompts))


def test_an_adapter_for_another_kind_of_model_is_a_sentence(server):
    own = server.base / "models" / "loras" / "no lora.safetensors"
    shutil.copy(PACK / "examples" / "probes" / "gender.safetensors", own)
    with pytest.raises(Failed, match="changes no layer of this model"):
        server.run(graphs.sweep(adapter=own.name))
    own.unlink()
    with pytest.raises(Refused) as refused:
        server.queue(graphs.sweep(adapter=own.name))
    assert "There is no adapter" in str(refused.value)


def test_a_changed_adapter_is_measured_again(server):
    own = server.base / "models" / "loras" / "mine.safetensors"
    shutil.copy(PACK / "examples" / "adapters" / ADAPTER, own)
    graph = graphs.sweep("0, 1", "a firefighter", count=1, adapter=own.name)
    first = panel(server.run(graph))["files"]
    assert panel(server.run(graph))["files"] == first  # from the cache
    shutil.copy(PACK / "examples" / "adapters" / ADAPTER, own)
    assert panel(server.run(graph))["files"] != first


def test_a_cancelled_sweep_ends_at_once_and_leaves_the_server_well(server):
    server.run(graphs.sweep("0", "a firefighter", count=1))  # loads what is to be loaded
    prompt_id = server.queue(graphs.sweep(count=64, steps=200))
    time.sleep(2)  # well into the sampling
    began = time.monotonic()
    server.request("/interrupt", {})
    with pytest.raises(InterruptedError):
        server.wait(prompt_id, 30)
    # Loose, since the machines of tests are busy.
    assert time.monotonic() - began < 10
    assert panel(server.run(graphs.sweep("0, 1", "a firefighter", count=1)))["n"] == 2
