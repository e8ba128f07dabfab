"""What a host keeps between queued reports: collections that grow with their images, and with nothing else."""

import gc
import tracemalloc

import numpy as np
import torch
from comfyui_ddm.debias.evaluation.accumulator import ImageMeta
from comfyui_ddm.debias.evaluation.compare import Evaluation
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.probe_network import ProbeNetwork
from comfyui_ddm.debias.rendering.panel import report_panel
from comfyui_ddm.debias.rendering.report_html import render_report
from comfyui_ddm.hosts.session_store import KEPT, SessionStore
from PIL import Image

MADE = tuple((f"setting {number}", "value") for number in range(20))


def probe():
    torch.manual_seed(0)  # the same each time: another one begins another collection
    return Probe(("man", "woman"), "gender", torch.nn.Linear(8, 2), ProbeNetwork(8))


def report(store, seeds, owner="page"):
    """One queued run, with everything that a host makes of it."""
    kept = store.get(owner, [probe()], "uniform")
    pixels = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in seeds]
    origins = [ImageMeta("a doctor", 1.0, seed, made=MADE) for seed in seeds]
    kept.collection.add([probe()], [Image.fromarray(one) for one in pixels], origins)
    made = Evaluation.of(kept.collection.records()).report
    return render_report(made), made.to_json(images=False), report_panel(made)


def grown(runs):
    """Bytes that are kept after some runs."""
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for run in runs:
        run()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def test_a_long_session_keeps_little_of_each_image_and_nothing_of_a_run():
    store = SessionStore()
    report(store, range(2))
    tracemalloc.start()
    try:
        report(store, range(2))
        again = grown([lambda: report(store, range(2))] * 3)
        more = grown([lambda first=first: report(store, range(first, first + 4)) for first in range(10, 22, 4)])
    finally:
        tracemalloc.stop()
    assert again < 3 * 20_000  # a page alone is larger
    assert more < 12 * 20_000


def test_the_collection_that_was_used_longest_ago_is_forgotten():
    store, one = SessionStore(), probe()
    first = store.get(0, [one], "uniform")
    for owner in range(1, KEPT):
        store.get(owner, [one], "uniform")
    assert store.get(0, [one], "uniform") is first
    store.get(KEPT, [one], "uniform")
    assert store.get(0, [one], "uniform") is first and len(store._kept) == KEPT
