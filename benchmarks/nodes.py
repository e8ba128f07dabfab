"""What the nodes take in a ComfyUI server: to a verdict, the sampling aside, and how soon they end on cancel."""

import json
import tempfile
import time
from pathlib import Path

from ..debias.core.error import DDMError
from ..tests.comfy import graphs
from ..tests.comfy.listener import Listener
from ..tests.comfy.server import PACK, Server, find_host
from ..tests.comfy.workflow import to_graph
from .host import processor_seconds
from .result import Figure

TEMPLATE, VERDICTS = "Measure my model", ("fair", "unfair")
IMAGES, SIZE = 200, 512
COUNT, STEPS, WAIT = 64, 100, 3.0
TRAININGS = 5


def node_costs() -> list[Figure]:
    """A report on images that are there, the first and a later one; how soon sweep and training end on cancel.

    Raises:
        DDMError: there is no ComfyUI here.
    """
    try:
        host = find_host()
    except FileNotFoundError as error:
        raise DDMError(f"This is measured inside of ComfyUI: {error}.") from error
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        first, later = _report_seconds(server)
        cancelled = _cancel_seconds(server)
        stopped = max(_stop_seconds(server, f"run {number}") for number in range(TRAININGS))
    images = f"{IMAGES} images of {SIZE} pixels"
    return [
        Figure(f"the first report on {images}", first, at_most=5.0, unit="s"),
        Figure(f"a later report on {images}", later, at_most=5.0, unit="s"),
        Figure("from cancel to the end of a sweep", cancelled, at_most=1.0, unit="s"),
        Figure(f"from cancel to the end of a training, the longest of {TRAININGS}", stopped, at_most=1.0, unit="s"),
    ]


def verdict_costs() -> list[Figure]:
    """From opening the template *Measure my model* in a server that has just begun to its verdict, the model's opening
    included; on the clock, and of the server's processor time, which other work on the machine hardly changes.

    Raises:
        DDMError: there is no ComfyUI here, or no verdict.
    """
    try:
        host = find_host()
    except FileNotFoundError as error:
        raise DDMError(f"This is measured inside of ComfyUI: {error}.") from error
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        began, before = time.monotonic(), processor_seconds(server.process.pid)
        workflow = json.loads((PACK / "example_workflows" / f"{TEMPLATE}.json").read_text(encoding="utf-8"))
        outputs = server.run(to_graph(workflow, server.get("/object_info")), timeout=1800)
        seconds, busy = time.monotonic() - began, processor_seconds(server.process.pid) - before
    (panel,) = (one["ddm_panel"][0] for one in outputs.values() if "ddm_panel" in one)
    if panel["verdict"]["tone"] not in VERDICTS:
        raise DDMError(f"The template came to no verdict: {panel['verdict']['text']}.")
    what = f"*{TEMPLATE}*, from opening it to a verdict on {len(panel['prompts'])} prompts, {panel['n']} images"
    return [
        Figure(what, seconds, at_most=90.0, unit="s"),
        Figure("of which processor time", busy, unit="s"),
    ]


def _report_seconds(server: Server) -> list[float]:
    graph = graphs.load() | graphs.probe() | graphs.sample(batch_size=IMAGES, steps=4)
    del graph["latent"], graph["image"]
    scaled = {"image": ["decoder", 0], "upscale_method": "bicubic", "width": SIZE, "height": SIZE, "crop": "disabled"}
    graph["large"] = {"class_type": "ImageScale", "inputs": scaled}
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["large", 0]}}
    server.run(graph, 600)
    # The images come from the host's cache now.
    return [
        _seconds(server, graph | graphs.report("report", ("large", 0), prompt=prompt, collection=prompt))
        for prompt in ("a firefighter", "a doctor")
    ]


def _cancel_seconds(server: Server) -> float:
    server.run(graphs.sweep("0", count=1))  # loads what is to be loaded
    prompt = server.queue(graphs.sweep(count=COUNT, steps=STEPS))
    time.sleep(WAIT)  # well into the sampling
    began = time.monotonic()
    server.request("/interrupt", {})
    try:
        server.wait(prompt)
    except InterruptedError:
        return time.monotonic() - began
    raise DDMError(f"The sweep was done before it was cancelled, in {WAIT:g} s. Make it longer.")


def _stop_seconds(server: Server, name: str) -> float:
    """Of a training with the trainer's own settings on the example set; its state is kept by then."""
    folder = server.options("DDMTrain", "folder")[0]
    graph = graphs.train(folder, name=name, groups="labels:gender", caption="a {role}", steps=400, rank=8)
    with Listener(server) as listener:
        prompt = server.queue(graph)
        next(
            message
            for message in listener.messages()
            if message["type"] == "ddm.train" and message["data"]["panel"]["phase"] == "training"
        )
    began = time.monotonic()
    server.request("/interrupt", {})
    try:
        server.wait(prompt)
    except InterruptedError:
        ended = time.monotonic()
        if not (server.base / "output" / "ddm" / f"{name}.checkpoint.safetensors").exists():
            raise DDMError("The training has kept no state.") from None
        return ended - began
    raise DDMError("The training was done before it was cancelled. Give it more steps.")


def _seconds(server: Server, graph: dict) -> float:
    prompt = server.queue(graph)
    server.wait(prompt)
    messages = dict(server.get(f"/history/{prompt}")[prompt]["status"]["messages"])
    return (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
