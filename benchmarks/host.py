"""What the adapter and the pack cost a ComfyUI server."""

import re
import tempfile
from pathlib import Path
from statistics import median

from ..debias.error import DDMError
from ..tests.comfy import graphs
from ..tests.comfy.server import Server, find_host
from .result import Figure

ROUNDS, STEPS, BATCH = 12, 30, 16


def host_costs() -> list[Figure]:
    """Sampling in a real ComfyUI with and without the adapter, in turn; and the start's share that is ours.

    A round is a whole run of the sampler, so it holds what the host does once to put the adapter on the model.

    Raises:
        DDMError: there is no ComfyUI here.
    """
    try:
        host = find_host()
    except FileNotFoundError as error:
        raise DDMError(f"This is measured inside of ComfyUI: {error}.") from error
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        plain, fair = [], []
        for seed in range(ROUNDS + 1):
            for alpha, seconds in ((0.0, plain), (1.0, fair)):
                seconds.append(_sampling_seconds(server, alpha, seed))
        starts = re.findall(r"([\d.]+) seconds: .*ComfyUI-DDM", server.log())
    # The first round loads the model. Neighbours in time share what else the machine does.
    extra = [with_it / without - 1 for without, with_it in zip(plain[1:], fair[1:], strict=True)]
    return [
        Figure("time added by the adapter, share of the sampling", median(extra), at_most=0.02),
        Figure(f"{STEPS} steps of {BATCH} pictures without it", median(plain[1:]), unit="s"),
        Figure("the pack's share of the start", float(starts[0]), at_most=0.3, unit="s"),
    ]


def _sampling_seconds(server: Server, alpha: float, seed: int) -> float:
    graph = graphs.load() | graphs.adapter(alpha)
    graph |= graphs.sample("adapter", steps=STEPS, batch=BATCH, seed=seed)
    prompt = server.queue({name: node for name, node in graph.items() if name not in ("decoder", "picture")})
    server.wait(prompt)
    messages = dict(server.get(f"/history/{prompt}")[prompt]["status"]["messages"])
    return (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
