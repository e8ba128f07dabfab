"""A gallery: generated images in a folder, by guidance scale, α, prompt and seed, with metadata.jsonl.

Layout: [cfg_<c>/]alpha_<a>/<prompt>/<seed>.png. Making it again keeps the images that are there already.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...debias.core.error import DDMError
from ...debias.core.io import write_bytes, write_text
from ...debias.core.strict_json import read_json
from ..models.model import Model
from .generate import generate_batches
from .guidance import SamplingGuidance
from .prompts import slugs

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class ImageJob:
    """One image to make."""

    file_name: str
    prompt: str
    seed: int
    alpha: float
    cfg: float


@dataclass(frozen=True)
class Made:
    """How many images were made, and how many were there already."""

    made: int
    kept: int


def plan_jobs(
    prompts: Sequence[str], per_prompt: int, alphas: Sequence[float], cfgs: Sequence[float], seed: int
) -> list[ImageJob]:
    """All images of a gallery. Prompt p has the seeds `seed` + p·per_prompt + i, the same at every α and scale."""
    names = slugs(prompts)
    return [
        ImageJob(
            f"{f'cfg_{cfg:g}/' if len(cfgs) > 1 else ''}alpha_{alpha:g}/{names[prompt]}/{number}.png",
            prompt,
            number,
            alpha,
            cfg,
        )
        for cfg in cfgs
        for alpha in alphas
        for place, prompt in enumerate(prompts)
        for number in range(seed + place * per_prompt, seed + (place + 1) * per_prompt)
    ]


def write_images(
    model: Model,
    folder: str | Path,
    shots: Sequence[ImageJob],
    *,
    steps: int = 20,
    negative: str = "",
    resolution: int | None = None,
    batch_size: int | None = None,
    bf16: bool = False,
    steering: SamplingGuidance | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Make the images that are missing. When stopped, whole images and their metadata remain.

    Args:
        folder: made if it is not there. Images in it must have been made with the same settings.
        steering: guidance without an adapter. Its tallies count anew for each α and guidance scale; images that are
            kept count as what they were counted as when they were made.
        overwrite: remove images that were made with other settings.
        progress: called with (images done, images in all); within a batch the first is a fraction.

    Raises:
        DDMError: the folder holds images of other settings; settings out of range; the disk refuses.
    """
    folder, steering = Path(folder), steering or SamplingGuidance()
    rows = {
        shot.file_name: {
            "file_name": shot.file_name,
            "prompt": shot.prompt,
            "seed": shot.seed,
            "alpha": shot.alpha,
            "cfg": shot.cfg,
            "steps": steps,
            "resolution": resolution or model.base.image_size,
            "negative": negative,
            "base": model.base.identity,
            # At α = 0 the adapter is off, so the image is the base's own.
            "adapter": model.adapter if shot.alpha else None,
            "style": model.style,
            **steering.facts,
            **steering.left_alone(shot.prompt),
        }
        for shot in shots
    }
    done = _settle(folder, read_metadata_rows(folder), rows, overwrite)
    missing = [shot for shot in shots if shot.file_name not in done]
    kept = len(shots) - len(missing)
    finished = kept
    for (alpha, cfg), group in groupby(missing, key=lambda shot: (shot.alpha, shot.cfg)):
        part = list(group)
        steering.recount(row for row in done.values() if (row["alpha"], row["cfg"]) == (alpha, cfg))
        before = finished
        for batch in generate_batches(
            model.base,
            [shot.prompt for shot in part],
            [shot.seed for shot in part],
            alpha=alpha,
            steps=steps,
            guidance_scale=cfg,
            negative=negative,
            resolution=resolution,
            batch_size=batch_size,
            bf16=bf16,
            steering=steering,
            progress=progress
            and (lambda step, total, before=before, n=len(part): progress(before + n * step / total, len(shots))),
        ):
            written = [rows[shot.file_name] for shot in part[batch.start : batch.start + len(batch.images)]]
            for row, counted in zip(written, batch.counted, strict=False):
                row["counted"] = counted
            for row, image in zip(written, batch.images, strict=True):
                write_bytes(folder / row["file_name"], _png(image))
            _append(folder, written)
            done.update((row["file_name"], row) for row in written)
            finished += len(written)
    ordered = [*(done[name] for name in rows), *(row for name, row in done.items() if name not in rows)]
    write_text(folder / METADATA, _lines(ordered))
    return Made(finished - kept, kept)


def read_metadata_rows(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of a folder's metadata.jsonl; lines cut short by a crash are left out. Empty without the file."""
    path = Path(folder) / METADATA
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = read_json(line, str(path))
        except DDMError:
            continue
        if isinstance(row, dict) and isinstance(row.get("file_name"), str):
            rows.append(row)
    return rows


def _settle(
    folder: Path, present: list[dict[str, Any]], rows: dict[str, dict[str, Any]], overwrite: bool
) -> dict[str, dict[str, Any]]:
    """Rows of images that are there and may stay; refuses those of other settings, or removes them."""
    if folder.exists() and not folder.is_dir():
        raise DDMError(f"{folder} is a file. Give a folder for the images.")
    wanted = next(iter(rows.values()), {})
    adapter = {row["adapter"] for row in rows.values()} - {None}
    settings = ("steps", "resolution", "negative", "base", "style", "guides", "invariant")
    root = folder.resolve()
    kept: dict[str, dict[str, Any]] = {}
    foreign = []
    for row in present:
        path = (folder / row["file_name"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        name = row["file_name"]
        same = all(row.get(key) == wanted.get(key) for key in settings) and _planned(rows.get(name, row)) == _planned(
            row
        )
        if same and (row.get("adapter") is None or not adapter or row["adapter"] in adapter):
            kept[name] = row
        else:
            foreign.append(path)
    if foreign and not overwrite:
        raise DDMError(
            f"{folder} holds {len(foreign)} images that were made with another base, adapter or other settings, for "
            f"instance {foreign[0].relative_to(root)}. Choose another folder, or replace them.",
            "out",
            "overwrite",
        )
    for path in foreign:
        path.unlink(missing_ok=True)
    return kept


def _planned(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what is known only once the image is made."""
    return {key: value for key, value in row.items() if key != "counted"}


def _append(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / METADATA
    try:
        with open(path, "ab+") as file:
            # A line that a crash cut short must not swallow the next one.
            if file.tell() and not _ends_in_newline(path):
                file.write(b"\n")
            file.write(_lines(rows).encode())
    except OSError as error:
        raise DDMError(f"Cannot write {path}: {error.strerror or error}. Free some space and try again.") from error


def _ends_in_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, io.SEEK_END)
        return file.read() == b"\n"


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
