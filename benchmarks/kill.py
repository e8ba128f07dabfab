"""A training that is killed at random moments and gone on with: the file must be the same each time."""

import json
import multiprocessing
import shutil
import tempfile
import time
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from ..debias.core.error import DDMError
from ..debias.core.io import write_text
from ..training.commands.config import TrainConfig
from ..training.commands.job import Job
from ..training.data.image_folder import ImageFolder
from ..training.embedded.imbalance import METADATA
from ..training.loop.checkpoint import checkpoint_path
from .result import Figure

KILLS, IMAGES = 20, 24
# Small, so that as much time goes into writing as into learning; calibrated, so that this is interrupted too.
TRAIN = {"groups": "labels:gender", "steps": 16, "batch_size": 4, "rank": 4, "calibrate": 8, "checkpoint_every": 1}
# What takes longest to import is there when a process begins, so that the kills hit what they are meant for.
PRELOADED = ["__main__", "peft", "diffusers.models", "diffusers.schedulers", "transformers.models.clip", __name__]


def kill_survival(
    base: Path, images: ImageFolder, kills: int = KILLS, context: BaseContext | None = None
) -> list[Figure]:
    """Train once in peace; then kill −9 at moments drawn over that time, go on with --resume, and compare.

    Args:
        context: how processes begin; by default, by a server that has imported what takes long.

    Raises:
        DDMError: a run failed by itself.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if context is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOADED)
        folder = _few_images(images, root / "images")
        # Encodes the images, which is another case.
        _finish(context, base, folder, root / "cache" / "fair.safetensors")
        began = time.monotonic()
        whole = _finish(context, base, folder, root / "whole" / "fair.safetensors")
        seconds = time.monotonic() - began
        same, clean, unfinished = [], [], []
        for number, moment in enumerate(np.sort(rng.random(kills)) * seconds):
            out = root / str(number) / "fair.safetensors"
            process = _start(context, base, folder, out)
            time.sleep(moment)
            process.kill()
            process.join()
            unfinished.append(checkpoint_path(out).exists())
            same.append(_finish(context, base, folder, out) == whole)
            clean.append({path.suffix for path in out.parent.iterdir()} == {".safetensors", ".md"})
    return [
        Figure(f"of {kills} kills, how many ended in the same bytes", sum(same), at_least=kills),
        Figure("how many left no temporary file behind", sum(clean), at_least=kills),
        Figure("how many found a checkpoint to go on from", sum(unfinished)),
        Figure("the training in peace", seconds, unit="s"),
    ]


def _few_images(images: ImageFolder, folder: Path) -> Path:
    """Copy some of them, so that most of the time goes into what a kill can spoil."""
    folder.mkdir()
    rows = []
    for row in np.random.default_rng(0).permutation(len(images))[:IMAGES]:
        item = images.items[row]
        shutil.copyfile(item.path, folder / item.path.name)
        rows.append({"file_name": item.path.name, "text": item.caption, **item.labels})
    write_text(folder / METADATA, "\n".join(json.dumps(row) for row in rows))
    return folder


def _start(context: BaseContext, base: Path, folder: Path, out: Path) -> BaseProcess:
    process = context.Process(target=_train, args=(base, folder, out))
    process.start()
    return process


def _finish(context: BaseContext, base: Path, folder: Path, out: Path) -> bytes:
    process = _start(context, base, folder, out)
    process.join()
    if process.exitcode:
        raise DDMError(f"The training ended with code {process.exitcode}; see above.")
    return out.read_bytes()


def _train(base: Path, folder: Path, out: Path) -> None:
    import torch

    torch.set_num_threads(1)
    Job(TrainConfig(out=out, folder=folder, base=base, device="cpu", resume=True, **TRAIN)).run()
