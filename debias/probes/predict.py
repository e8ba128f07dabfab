"""What probes say of images, wherever the images come from: every image is looked at once, a batch at a time."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..core.error import DDMError
from ..core.image import FLAT
from .records import Attribute

if TYPE_CHECKING:
    from ..groups.target import Target
    from .probe import Probe

BATCH = 128
NETWORK_SIDE = 64
EXTRACTOR_SIDE = 224
# Two images are one, saved twice, if no cell of a grid of so many by so many differs by more, of 255.
CELLS, SAME = 16, 1
LISTED = 8  # names in a remark


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was read from N images.

    Attributes:
        probabilities: [N, K] of every probe. Zeros where an image shows nothing, NaN where it is unlike those that the
            probe was made for: either counts as undetermined.
        blank: [N] whether an image shows nothing: black, as where a model's answer was not finite, or of one colour.
        coarse: uint8 [N, CELLS·CELLS·3], the image in coarse cells (see `repeated`).
        features: [N, D] of one probe, or None.
    """

    probabilities: Sequence[np.ndarray]
    blank: np.ndarray
    coarse: np.ndarray
    features: np.ndarray | None = None


def side_for(probes: "Iterable[Probe]") -> int:
    """Side in pixels of the squares that these probes read: that of the one that wants the largest."""
    return max(map(_side, probes), default=NETWORK_SIDE)


def _side(probe: "Probe") -> int:
    return NETWORK_SIDE if probe.network is not None else getattr(probe.extractor, "size", EXTRACTOR_SIDE)


def read_images(
    images: Iterable[np.ndarray],
    probes: "Sequence[Probe]",
    features_from: "Probe | None" = None,
    progress: Callable[[int], None] | None = None,
    prompts: Iterable[str] | None = None,
) -> Predictions:
    """Let every probe look at every image.

    Args:
        images: uint8 [S, S, 3] each, squares of one size (see `side_for`).
        probes: any number of them.
        features_from: the probe whose features to keep; None for none.
        progress: called with the images done.
        prompts: one for each image, what it was asked to show; None where that is not known.

    Raises:
        DDMError: a probe cannot read images, for want of its extractor.
    """
    everyone = list(probes) + ([features_from] if features_from is not None and features_from not in probes else [])
    found: list[list[np.ndarray]] = [[] for _ in probes]
    blank: list[np.ndarray] = []
    coarse: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    images, asked, done = iter(images), None if prompts is None else iter(prompts), 0
    while part := list(islice(images, BATCH)):
        batch, own = np.stack(part), None if asked is None else list(islice(asked, len(part)))
        seen = {id(probe): probe.look(batch, own) for probe in everyone}
        blank.append(np.ptp(batch, axis=(1, 2)).max(1) < FLAT)
        coarse.append(_coarse(batch))
        for probabilities, probe in zip(found, probes, strict=True):
            features, described = seen[id(probe)]
            rows = probe.predict_features(features)
            rows[probe.unlike(described)] = np.nan
            rows[blank[-1]] = 0
            probabilities.append(rows)
        if features_from is not None:
            kept.append(seen[id(features_from)][0])
        done += len(part)
        if progress is not None:
            progress(done)
    features = np.concatenate(kept) if kept else None
    return Predictions([np.concatenate(one) for one in found], np.concatenate(blank), np.concatenate(coarse), features)


def _coarse(batch: np.ndarray) -> np.ndarray:
    """Means over the cells of images uint8 [N, S, S, 3], as uint8 [N, CELLS·CELLS·3]."""
    side = batch.shape[1]
    edges = np.arange(CELLS) * side // CELLS
    width = np.maximum(np.diff([*edges, side]), 1)
    total = np.add.reduceat(np.add.reduceat(batch, edges, 1, dtype=np.uint32), edges, 2)
    return (total / np.outer(width, width)[None, :, :, None]).round().astype(np.uint8).reshape(len(batch), -1)


def repeated(coarse: np.ndarray, kind: Sequence[Hashable]) -> np.ndarray:
    """Which images [N] are nearly the same as an earlier one of their kind: an image that was saved twice.

    Args:
        coarse: as in `Predictions`.
        kind: [N] what images have to have in common: a prompt and how they were made.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, own in enumerate(kind):
        rows.setdefault(own, []).append(row)
    again = np.zeros(len(coarse), dtype=bool)
    for own in rows.values():
        cells = coarse[own].astype(np.int16)
        mean = cells.mean(1)
        for place in range(1, len(own)):
            # Few are alike in their mean, and only these are compared.
            near = cells[:place][np.abs(mean[:place] - mean[place]) <= SAME]
            again[own[place]] = (np.abs(near - cells[place]).max(1, initial=0) <= SAME).any()
    return again


def not_counted(
    names: Sequence[str], blank: np.ndarray, coarse: np.ndarray, kind: Sequence[Hashable]
) -> tuple[np.ndarray, list[str]]:
    """Which images [N] are undetermined because they show nothing or were seen before, and remarks that name them."""
    again = repeated(coarse, kind) & ~blank
    notes, nothing = [], "show nothing (one colour, or pixels that are not finite)"
    for which, why in ((blank, nothing), (again, "are nearly the same as another")):
        rows = np.flatnonzero(which)
        more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
        if len(rows):
            listed = ", ".join(names[row] for row in rows[:LISTED])
            notes.append(f"Undetermined, because they {why}: {listed}{more}.")
    return blank | again, notes


def attributes_of(
    probes: "Sequence[Probe]", targets: "Sequence[Target | None]", probabilities: Sequence[np.ndarray]
) -> list[Attribute]:
    """One attribute for each probe, with what was measured of the probe itself."""
    return [
        Attribute(
            probe.attribute,
            probe.names,
            given,
            target,
            float(probe.accuracy) if math.isfinite(probe.accuracy) else None,
            probe.confusion if np.all(np.isfinite(probe.confusion)) else None,
            probe.made_for,
        )
        for probe, target, given in zip(probes, targets, probabilities, strict=True)
    ]


def check_probes(probes: "Sequence[Probe]", targets: "Sequence[Target | None]") -> None:
    """Refuse two probes for one attribute, and a target over other classes than its probe's."""
    names = [probe.attribute for probe in probes]
    if len(set(names)) < len(names):
        raise DDMError(f"Two of the probes are for one attribute ({', '.join(names)}). Give one probe for each.")
    for probe, target in zip(probes, targets, strict=True):
        if target is not None:
            target.ordered_as(probe.names)


def quality_probe(probes: "Sequence[Probe]", targets: "Sequence[Target | None]") -> "Probe":
    """The probe whose features measure quality: the first without a target, if there is one.

    A probe that was trained to see the very attribute that is being changed would call the change a loss of quality.
    """
    return next((one for one, asked in zip(probes, targets, strict=True) if asked is None), probes[0])
