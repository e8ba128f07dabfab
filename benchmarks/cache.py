"""What a large folder takes: the first pass over it, the pass after a kill, and the start of a second run."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ..debias.core.error import DDMError
from ..training.embedded.imbalance import METADATA
from .package import ROOT
from .result import Figure

IMAGES, FEW, ROLES = 10_000, 1_000, 20
# One step of a run on labels, without calibration: what is left is the start.
TRAIN = ("--groups", "labels:gender", "--steps", "1", "--batch-size", "4", "--rank", "2", "--calibrate", "0")
# Time of the process so far, and its peak memory, when the first step begins.
STARTED = """
import resource, sys, time
began = time.time()
sys.path.insert(0, "benchmarks")
from package import load_package
load_package()
from comfyui_ddm.training.loop.training import Training
from comfyui_ddm.training.commands.app import app
advance = Training.advance
def first(self, stop=None):
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(time.time() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    return advance(self, stop)
Training.advance = first
app(sys.argv[1:])
"""
# A cache as Stable Diffusion 1.5 fills it: memory in MiB before and after drawing from it, seconds of a batch.
DRAWN = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
from package import load_package
load_package()
import numpy as np, torch
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.data.cache import TensorCache, settle
count, steps, rng = int(sys.argv[2]), 200, np.random.default_rng(0)
def cache():
    return TensorCache(Path(sys.argv[1]), "latents", "", ("mean", "deviation"))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
store = cache()
for start in range(0, count, 8):
    store.add([str(start + row) for row in range(8)], torch.randn(2, 8, 4, 64, 64).unbind())
store.flush()
store, before = cache(), peak()
rows = settle([store[str(row)] for row in range(count)])
latents, none = Latents(torch.device("cpu"), rows, [None] * count, [None] * count), np.zeros(32, dtype=bool)
began = time.process_time()
for _ in range(steps):
    latents.fetch(rng.integers(count, size=32), none)
print(before, peak(), (time.process_time() - began) / steps)
"""


def cache_costs(base: Path) -> list[Figure]:
    """Run `ddm train` on images of 64 pixels in processes of their own, up to the first step.

    Raises:
        DDMError: a run failed.
    """
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = {count: _images(root / str(count), count) for count in (FEW, IMAGES)}
        time.sleep(3)  # files younger than two seconds are looked at again
        _, _, small = _start(base, folders[FEW])
        first = _killed(base, folders[IMAGES])
        kept = len(_shards(folders[IMAGES]))
        began = {shard: shard.stat().st_mtime_ns for shard in _shards(folders[IMAGES])}
        seconds, _, large = _start(base, folders[IMAGES])
        same = kept > 0 and all(shard.stat().st_mtime_ns == stamp for shard, stamp in began.items())
        wall, processor, _ = _start(base, folders[IMAGES])
        size = sum(file.stat().st_size for file in (folders[IMAGES] / ".ddm_cache").iterdir()) / 2**20
        before, after, batch = _run(DRAWN, root / "large", IMAGES)
    return [
        Figure(f"first run on {IMAGES:,} images, killed and run again, to the first step", first + seconds, unit="s"),
        Figure("what was encoded before the kill was kept", same, 1),
        Figure("second run, from its start to the first step", wall, at_most=10.0, unit="s"),
        Figure("of which processor time", processor, unit="s"),
        Figure(f"peak memory, {FEW:,} images", small, unit="MiB"),
        Figure(f"peak memory, {IMAGES:,} images", large, at_most=small + 200, unit="MiB"),
        Figure("size of the cache", size, unit="MiB"),
        Figure(
            f"memory that drawing from {IMAGES:,} images of 512 pixels adds to that of filling their cache",
            after - before,
            at_most=100.0,
            unit="MiB",
        ),
        Figure("processor time to fetch a batch of 32 of them", batch, unit="s"),
    ]


def _images(root: Path, count: int) -> Path:
    from PIL import Image

    root.mkdir()
    rng = np.random.default_rng(count)
    rows = []
    for number in range(count):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(root / f"{number}.png")
        gender = ("man", "man", "woman")[number % 3]
        rows.append({"file_name": f"{number}.png", "text": f"a person at work {number % ROLES}", "gender": gender})
    (root / METADATA).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return root


def _command(base: Path, folder: Path) -> list[str]:
    out = folder.parent / f"{folder.name}.safetensors"
    arguments = ["train", folder, "--base", base, "--out", out, "--device", "cpu", "--restart", *TRAIN]
    return [sys.executable, "-c", STARTED, *map(str, arguments)]


def _start(base: Path, folder: Path) -> tuple[float, float, float]:
    """Seconds and processor seconds to the first step, and peak memory in MiB."""
    return _run(*_command(base, folder)[2:])


def _run(*arguments: object) -> tuple[float, float, float]:
    """The three figures that a script prints first."""
    command = [sys.executable, "-c", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DDMError(f"A measured process failed: {done.stderr[-500:]}")
    first, second, third = map(float, done.stdout.split()[:3])
    return first, second, third


def _killed(base: Path, folder: Path) -> float:
    """Seconds until the first shard is written, at which the run is killed."""
    began = time.monotonic()
    process = subprocess.Popen(_command(base, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not _shards(folder) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    return time.monotonic() - began


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / ".ddm_cache").glob("latents-*.safetensors"))
