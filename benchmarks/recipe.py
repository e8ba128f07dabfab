"""Adapters that the cases measure: which images, groups and target; each trained once, by a process of its own."""

import json
import multiprocessing
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..debias.core.error import DDMError
from ..debias.core.io import write_text
from ..training.data.image_folder import ImageFolder
from ..training.data.read_folder import read_folder
from ..training.embedded.tiny_people import Draw, caption
from .digits import PAIRS, draw_pair
from .faces import draw_photographs
from .imbalance import OCCUPATIONS, draw_imbalanced
from .package import ROOT
from .result import machine

PEOPLE = ROOT / "examples" / "people_emoji"
FACES = "photographs"
SKEWED = "skewed"  # a set with the base's own shares; see `draw_skewed`
UNSEEN = "gender both ways, every other occupation"  # the others are not in it


@dataclass(frozen=True)
class Recipe:
    """A training, as `ddm train` does it.

    Attributes:
        images: a key of `IMBALANCES` or `PAIRS`, or `SKEWED`.
        groups, target: as on the command line.
        style: learn the style too, so that α = 0 is base and style, with the set's own shares.
        ordinary: teach the style only, on the plain draw: an ordinary LoRA, to compare with.
    """

    images: str
    groups: str
    target: str = "uniform"
    style: bool = False
    ordinary: bool = False

    @property
    def name(self) -> str:
        """A name for its files."""
        parts = [self.images, *self.groups.replace("|", "-").split(":")]
        parts += [] if self.target == "uniform" else [self.target.replace("=", "").replace(",", "-")]
        parts += ["style"] if self.style else []
        return "-".join(parts + (["ordinary"] if self.ordinary else []))


@dataclass(frozen=True)
class Trained:
    """The files of a training and what it took.

    Attributes:
        adapter, style: the files; None where there is none to use.
        facts: seconds in all and of finding groups, peak memory in MiB, steps, group shares and ESS.
    """

    adapter: Path | None
    style: Path | None
    facts: Mapping[str, Any]


def image_folders(name: str, work: Path) -> ImageFolder:
    """Draw a set, if it is not there, and read it."""
    folder = work / "sets" / name
    if not (folder / "metadata.jsonl").exists():
        if name in PAIRS:
            draw_pair(PAIRS[name], folder)
        elif name.startswith(FACES):
            draw_photographs(folder, name.endswith("sharpened"))
        elif name == SKEWED:
            draw_skewed(folder)
        elif name == UNSEEN:
            draw_imbalanced(PEOPLE, name.partition(",")[0], folder)
            _leave_out(OCCUPATIONS[1::2], folder)
        else:
            draw_imbalanced(PEOPLE, name, folder)
    return read_folder(folder)


def _leave_out(roles: Sequence[str], folder: Path) -> None:
    """Take the images of some roles out of a set."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        if row["role"] in roles:
            (folder / row["file_name"]).unlink()
    kept = [json.dumps(row) for row in rows if row["role"] not in roles]
    write_text(folder / "metadata.jsonl", "\n".join(kept) + "\n")


def draw_skewed(out: Path, count: int = 864) -> Path:
    """Copy images with the shares that the base was trained on: men 80%, light tones more often than dark ones.

    The draw is with replacement and systematic (one random start, equal steps over the sorted set), so that every role
    has its shares as exactly as whole images allow. Without a style α = 0 is the base itself, so the set's shares
    must be the base's.
    """
    people = read_folder(PEOPLE)
    cumulative = np.cumsum(Draw.of(people, one_way=True).weights)
    start = np.random.default_rng(0).random()
    chosen = np.searchsorted(cumulative, (np.arange(count) + start) / count * cumulative[-1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rows = []
    for number, item in enumerate(people.items[index] for index in chosen):
        name = f"{number:04}{item.path.suffix}"
        shutil.copyfile(item.path, out / name)
        rows.append({**item.labels, "file_name": name, "text": caption(item.labels["role"])})
    write_text(out / "metadata.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n")
    return out


def train(
    recipe: Recipe, base: Path, work: Path, folder: Path, steps: int | None, threads: int, device: str
) -> Trained:
    """Train a recipe, if its files are not there.

    Args:
        base: of the model.
        work: where the sets are.
        folder: for the files.
        steps: optimizer steps; None for the command's own.
        threads: of torch.
        device: "cpu" or "cuda".

    Raises:
        DDMError: the training ended with an error, which it has printed.
    """
    facts = folder / f"{recipe.name}.json"
    if not facts.exists():
        request = (asdict(recipe), base, work, folder, steps, threads, device)
        # A fresh process, so that its peak memory is that of the training alone.
        process = multiprocessing.get_context("spawn").Process(target=_train, args=request)
        process.start()
        process.join()
        if process.exitcode:
            raise DDMError(f"The training {recipe.name} ended with code {process.exitcode}; see above.")
    adapter, style = (folder / f"{recipe.name}{end}.safetensors" for end in ("", ".style"))
    return Trained(
        None if recipe.ordinary else adapter,
        style if recipe.style or recipe.ordinary else None,
        json.loads(facts.read_text("utf-8")),
    )


def _train(
    given: Mapping[str, Any], base: Path, work: Path, folder: Path, steps: int | None, threads: int, device: str
) -> None:
    import torch

    from ..training.data.dataset import folder_set
    from ..training.loop.progress_bars import image_progress, steps_progress
    from ..training.loop.settings import TrainSettings
    from ..training.models.load_base import load_base
    from ..training.objectives.ddm_run import Run

    torch.set_num_threads(threads)
    recipe = Recipe(**given)
    images = image_folders(recipe.images, work)
    changed = {"steps": steps} if steps else {}
    changed |= {"style_share": 1.0} if recipe.ordinary else {}
    out = folder / f"{recipe.name}.safetensors"
    style = out.with_suffix(".style.safetensors") if recipe.style or recipe.ordinary else None
    # As the command does; what it keeps for the next run does not help this one.
    cache = folder / f"{recipe.name}.cache"
    shutil.rmtree(cache, ignore_errors=True)
    began = time.monotonic()
    model = load_base(base, device)
    encoded = folder_set(model, images, cache=cache)
    grouped = time.monotonic()
    with image_progress(f"{recipe.name}: groups") as report:
        run = Run(
            model,
            encoded,
            out,
            style,
            recipe.groups,
            recipe.target,
            TrainSettings(**changed),
            report=lambda _, done, total: report(done, total),
        )
    grouped = time.monotonic() - grouped
    run.checkpoint.unlink(missing_ok=True)
    with steps_progress(f"{recipe.name}: training") as report:
        run.train(report)
    seconds = time.monotonic() - began
    shutil.rmtree(cache)
    found = run.grouping
    facts = {
        "seconds": round(seconds, 1),
        "grouping_seconds": round(grouped, 1),
        "peak_mib": peak_mib(),
        "ess": found.weighting.effective_share(1.0),
        "groups": {part.source: dict(zip(part.names, part.shares.tolist(), strict=True)) for part in found.groups},
        "settings": run.settings.as_dict(),
        "machine": machine(threads, device),
    }
    write_text(folder / f"{recipe.name}.json", json.dumps(facts, indent=1) + "\n")


def peak_mib() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: a child of a large process inherits its parent's peak there.
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return round(int(found[0].split()[1]) / 1024, 1)
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)
