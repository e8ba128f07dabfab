"""What the report and sweep nodes take in a ComfyUI server, the sampling aside."""

import tempfile
import time
from pathlib import Path

from ..debias.error import DDMError
from ..tests.comfy import graphs
from ..tests.comfy.server import Server, find_host
from .result import Figure

PICTURES, SIZE = 200, 512
COUNT, STEPS, WAIT = 64, 100, 3.0


def node_costs() -> list[Figure]:
    """A report on pictures that are there already, the first and a later one; and how soon a sweep ends on cancel.

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
    pictures = f"{PICTURES} pictures of {SIZE} pixels"
    return [
        Figure(f"the first report on {pictures}", first, at_most=5.0, unit="s"),
        Figure(f"a later report on {pictures}", later, at_most=5.0, unit="s"),
        Figure("from cancel to the end of a sweep", cancelled, at_most=1.0, unit="s"),
    ]


def _report_seconds(server: Server) -> list[float]:
    graph = graphs.load() | graphs.probe() | graphs.sample(batch=PICTURES, steps=4)
    del graph["latent"], graph["picture"]
    scaled = {"image": ["decoder", 0], "upscale_method": "bicubic", "width": SIZE, "height": SIZE, "crop": "disabled"}
    graph["large"] = {"class_type": "ImageScale", "inputs": scaled}
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["large", 0]}}
    server.run(graph, 600)
    # The pictures come from the host's cache now.
    return [
        _seconds(server, graph | graphs.report("report", ("large", 0), prompt=prompt, collection=prompt))
        for prompt in ("a firefighter", "a doctor")
    ]


def _cancel_seconds(server: Server) -> float:
    prompt = server.queue(graphs.sweep(count=COUNT, steps=STEPS))
    time.sleep(WAIT)  # well into the sampling
    began = time.monotonic()
    server.request("/interrupt", {})
    try:
        server.wait(prompt)
    except InterruptedError:
        return time.monotonic() - began
    raise DDMError(f"The sweep was done before it was cancelled, in {WAIT:g} s. Make it longer.")


def _seconds(server: Server, graph: dict) -> float:
    prompt = server.queue(graph)
    server.wait(prompt)
    messages = dict(server.get(f"/history/{prompt}")[prompt]["status"]["messages"])
    return (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
