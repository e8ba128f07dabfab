"""From a folder of images and probes to the records of a report."""

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.error import printable
from ...debias.probes.predict import Predictions, attributes_of, check_probes, not_counted, read_images, side_for
from ...debias.probes.records import Condition, EvaluationData
from ..data.image_folder import ImageFolder, Item
from ..data.read_folder import read_folder

if TYPE_CHECKING:
    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe

LISTED = 8

Progress = Callable[[int, int], None]


def read_records(
    folder: str | os.PathLike,
    probes: "Sequence[Probe]",
    targets: "Sequence[Target | None]",
    features_from: "Probe | None" = None,
    progress: Progress | None = None,
) -> EvaluationData:
    """Read what `ddm sample` wrote, or any image folder (a subfolder is a prompt), and let every probe look at it.

    α, guidance scale, seed and prompt come from metadata.jsonl where it has them. Captions that are nearly all
    different are no prompts: such a folder counts as one.

    Args:
        folder: the folder.
        probes: one or more.
        targets: a target or None for each probe.
        features_from: the probe whose features the report measures quality with; None for no quality.
        progress: called as progress(images done, of how many).

    Raises:
        DDMError: no usable image, a target over other classes than its probe's, two probes for one attribute.
    """
    images = read_folder(folder)
    check_probes(probes, targets)
    prompts = [item.labels.get("prompt") or item.caption for item in images.items]
    reading = _look(images, probes, features_from, progress, prompts)
    notes = [*images.notes, *_skipped(images)]
    if "prompt" not in images.columns and len(set(prompts)) > len(prompts) / 2:
        prompts = [""] * len(prompts)
        notes.append("The captions are nearly all different, so the folder counts as one prompt.")
    conditions = _conditions(images.items)
    kinds = list(zip(prompts, conditions, strict=True))
    left_out, said = not_counted(
        [printable(item.path.name) for item in images.items], reading.blank, reading.coarse, kinds
    )
    return EvaluationData.of(
        prompts,
        attributes_of(probes, targets, [np.where(left_out[:, None], 0, given) for given in reading.probabilities]),
        conditions,
        _seeds(images.items),
        features=reading.features,
        paths=[item.path for item in images.items],
        notes=notes + said,
    )


def read_features(folder: str | os.PathLike, probe: "Probe", progress: Progress | None = None) -> np.ndarray:
    """Features [N, D] of the images in a reference folder; errors as in `read_folder`."""
    return _look(read_folder(folder), [], probe, progress).features


def _look(
    images: ImageFolder,
    probes: "Sequence[Probe]",
    features_from: "Probe | None",
    progress: Progress | None,
    prompts: Sequence[str] | None = None,
) -> Predictions:
    side = side_for([*probes, *filter(None, (features_from,))])
    return read_images(
        (image for _, image in images.images(side)),
        probes,
        features_from,
        progress and (lambda done: progress(done, len(images))),
        prompts,
    )


def _conditions(items: Sequence[Item]) -> list[Condition]:
    """α of each image, and the guidance scale if there are several."""
    scales = [_number(item.labels.get("cfg")) for item in items]
    several = len(set(scales)) > 1
    return [
        Condition(_number(item.labels.get("alpha")), scale if several else None)
        for item, scale in zip(items, scales, strict=True)
    ]


def _seeds(items: Sequence[Item]) -> list[int]:
    """Seeds as recorded; an image without one is its own, below zero so that it meets no other."""
    numbers = [_number(item.labels.get("seed")) for item in items]
    return [-1 - i if one is None else int(one) for i, one in enumerate(numbers)]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 2**62 else None


def _skipped(images: ImageFolder) -> list[str]:
    named = [printable(f"{one.path.name}: {one.reason}") for one in images.skipped[:LISTED]]
    more = len(images.skipped) - len(named)
    return [f"Skipped {line}" for line in named] + ([f"Skipped {more} more files."] if more else [])
