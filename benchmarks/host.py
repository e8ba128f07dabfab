"""What the adapter and the pack cost a ComfyUI server."""

import os
import re
import tempfile
from pathlib import Path
from statistics import median

from ..debias.core.error import DDMError
from ..tests.comfy import graphs
from ..tests.comfy.server import Server, find_host
from .result import Figure

ROUNDS, STEPS, BATCH = 16, 30, 8


def host_costs() -> list[Figure]:
    """Sampling in a real ComfyUI with and without the adapter, in turn; and the start's share that is ours.

    A round is a whole run of the sampler, so it holds what the host does once to put the adapter on the model. What
    counts is the server's processor time, which other work on the machine hardly changes.

    Raises:
        DDMError: there is no ComfyUI here, or no Linux.
    """
    if not Path("/proc/self/stat").is_file():
        raise DDMError("Processor times are read from /proc: this case needs Linux.")
    try:
        host = find_host()
    except FileNotFoundError as error:
        raise DDMError(f"This is measured inside of ComfyUI: {error}.") from error
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        plain, fair = [], []
        for seed in range(ROUNDS + 1):
            pair = [(0.0, plain), (1.0, fair)]
            for alpha, seconds in pair if seed % 2 else reversed(pair):
                seconds.append(_sampling_seconds(server, alpha, seed))
        starts = re.findall(r"([\d.]+) seconds: .*ComfyUI-DDM", server.log())
    # The first round loads the model. Neighbours in time share what else the machine does.
    extra = [with_it / without - 1 for without, with_it in zip(plain[1:], fair[1:], strict=True)]
    return [
        Figure("time added by the adapter, share of the sampling", median(extra), at_most=0.02),
        Figure(f"{STEPS} steps of {BATCH} images without it, processor time", median(plain[1:]), unit="s"),
        Figure("seconds that the pack adds to the start", float(starts[0]), at_most=0.3),
    ]


def _sampling_seconds(server: Server, alpha: float, seed: int) -> float:
    graph = graphs.load() | graphs.adapter(alpha)
    graph |= graphs.sample("adapter", steps=STEPS, batch_size=BATCH, seed=seed)
    before = processor_seconds(server.process.pid)
    server.run({name: node for name, node in graph.items() if name not in ("decoder", "image")})
    return processor_seconds(server.process.pid) - before


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far (see man proc_pid_stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
