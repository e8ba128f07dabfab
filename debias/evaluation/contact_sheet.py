"""Contact sheets: the same seeds side by side, as thumbnails that travel inside the page."""

import base64
import io
import os
from typing import TYPE_CHECKING

import numpy as np

from ..core.error import DDMError
from ..probes.records import Attribute, EvaluationData
from .report import Sheet, Thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 96
COLUMNS = 10
ROWS = 3


def contact_sheets(
    records: EvaluationData, attribute: Attribute, confidence: float, prompts: int = 6
) -> tuple[list[Sheet], int]:
    """Sheets of the prompts that changed most, one row per condition and one column per seed.

    Returns:
        The sheets (none without paths or thumbnails), and how many images could not be opened.
    """
    if (records.paths is None and records.thumbnails is None) or prompts < 1:
        return [], 0
    decided = attribute.decided(confidence)
    base = records.conditions[records.base]
    chosen = [i for i, one in enumerate(records.conditions) if one.beside(base) or i == records.after]
    if len(chosen) > ROWS:
        chosen = sorted(
            {chosen[round(i)] for i in np.linspace(0, len(chosen) - 1, ROWS)} | {records.base, records.after}
        )
    pages = []
    for prompt in _most_changed(records, decided, prompts):
        here = np.asarray(records.prompt) == prompt
        seeds = [np.asarray(records.seed)[here & (records.condition == c)] for c in chosen]
        common = [int(seed) for seed in dict.fromkeys(seeds[0].tolist()) if all(seed in other for other in seeds[1:])]
        rows = []
        for condition, own in zip(chosen, seeds, strict=True):
            order = (common or own.tolist())[:COLUMNS]
            index = {int(records.seed[i]): i for i in np.flatnonzero(here & (records.condition == condition))[::-1]}
            rows.append([image(records, index[seed], attribute, decided) for seed in order])
        pages.append(Sheet(records.prompts[prompt], [records.conditions[c].label for c in chosen], rows))
    unreadable = sum(not one.uri for page in pages for row in page.images for one in row)
    return pages, unreadable


def image(records: EvaluationData, index: int, attribute: Attribute, decided: np.ndarray) -> Thumbnail:
    """The thumbnail of image `index`, captioned with its seed and perceived class."""
    said = attribute.classes[decided[index]] if decided[index] >= 0 else "undetermined"
    name = f"seed {records.seed[index]}" if records.names is None else records.names[index]
    return Thumbnail(uri(records, index), f"{name}: {said}")


def uri(records: EvaluationData, index: int) -> str:
    """The thumbnail that image `index` has, or one that is made of its file."""
    if records.thumbnails is not None:
        return records.thumbnails[index]
    return thumbnail(records.paths[index] if records.paths is not None else None)


def thumbnail(source: "str | os.PathLike | Image | None") -> str:
    """A JPEG data URI at most 96 pixels wide and high, of a file or an RGB image; empty if it cannot be opened."""
    from PIL.Image import Image

    from ..core.image import open_image

    if source is None:
        return ""
    try:
        image = source.copy() if isinstance(source, Image) else open_image(source)
        image.thumbnail((PIXELS, PIXELS))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=86)
    except (DDMError, OSError, ValueError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _most_changed(records: EvaluationData, decided: np.ndarray, count: int) -> list[int]:
    """Prompts in which most images changed class from the base's of the same seed; in the order given."""
    pairs = records.pairs(records.after)
    changed = np.zeros(len(records.prompts))
    if records.after != records.base and len(pairs):
        differs = decided[pairs[:, 0]] != decided[pairs[:, 1]]
        prompt = np.asarray(records.prompt)[pairs[:, 0]]
        made = np.bincount(prompt, minlength=len(changed))
        changed = np.bincount(prompt, differs, minlength=len(changed)) / np.maximum(made, 1)
    return sorted(np.argsort(-changed, kind="stable")[:count].tolist())
