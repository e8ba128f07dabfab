"""The images of a folder, with their captions and labels."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...debias.core.error import DDMError, printable
from ...debias.core.image import open_image

METADATA = "metadata.jsonl"
LISTED = 5  # names in one remark


@dataclass(frozen=True)
class Item:
    """A usable image.

    Attributes:
        path: the file.
        caption: what the image shows, in one line; may be empty.
        labels: what is known about it by column: the columns of metadata.jsonl, or "folder".
        repeats: how often the image counts (kohya's `N_name` folders).
        digest: SHA-256 (hexadecimal) of the file.
        size: width and height in pixels, as it is shown.
        mask: the file that says which part of it counts, if there is one; `mask_digest` is its SHA-256.
        others: further captions, where each line of a file is one.
    """

    path: Path
    caption: str
    labels: dict[str, str]
    repeats: int = 1
    digest: str = ""
    size: tuple[int, int] = (1, 1)
    mask: Path | None = None
    mask_digest: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why, in words."""

    path: Path
    reason: str


@dataclass
class ImageFolder:
    """The images of a folder in a fixed order.

    Attributes:
        root: the folder.
        items: the usable images, sorted by path (as metadata.jsonl has them where there is one).
        skipped: what is not used, and why.
        notes: remarks about what is used, such as captions of an odd encoding.
    """

    root: Path
    items: list[Item]
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def captions(self) -> list[str]:
        """The caption of every item."""
        return [item.caption for item in self.items]

    @property
    def columns(self) -> dict[str, list[str]]:
        """The label columns, each with its sorted distinct values."""
        found: dict[str, set[str]] = {}
        for item in self.items:
            for name, value in item.labels.items():
                found.setdefault(name, set()).add(value)
        return {name: sorted(values) for name, values in sorted(found.items())}

    def column(self, name: str) -> list[str | None]:
        """The value of a label column for every item; None where an item has none.

        Raises:
            DDMError: no item has this column; the sentence lists those there are.
        """
        values = [item.labels.get(name) for item in self.items]
        if all(value is None for value in values):
            there = ", ".join(self.columns) or "none"
            raise DDMError(
                f"{self.root} has no label column “{name}” (columns: {there}). Name one of these, or add the column to "
                f"{METADATA}."
            )
        return values

    def remarks(self, most: int = 10) -> list[str]:
        """The notes, and a line for each of the first skipped files, for a person to read."""
        lines = [f"Skipped {one.path.relative_to(self.root)}: {one.reason}" for one in self.skipped[:most]]
        if len(self.skipped) > most:
            lines.append(f"Skipped {len(self.skipped) - most} more.")
        return list(map(printable, [*self.notes, *lines]))

    def triggered(self, word: str) -> "ImageFolder":
        """The same images with a trigger word before every caption that does not begin with it already."""
        word = " ".join(word.split()).strip(",").strip()

        def said(caption: str) -> str:
            first = caption.split(",")[0].strip().lower()
            return caption if first == word.lower() else f"{word}, {caption}" if caption else word

        def changed(item: Item) -> Item:
            return replace(item, caption=said(item.caption), others=tuple(map(said, item.others)))

        return replace(self, items=list(map(changed, self.items))) if word else self

    def images(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield every item's index and its image as uint8 [size, size, 3], cropped to the centre square.

        Raises:
            DDMError: an image that was readable when the folder was read no longer is.
        """
        for index, item in enumerate(self.items):
            yield index, np.asarray(open_image(item.path, size))

    def array(self, size: int) -> np.ndarray:
        """All images as uint8 [N, size, size, 3]; errors as in `images`."""
        return np.stack([image for _, image in self.images(size)])

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over the name and content of every item; a copy of the folder has the same."""
        digest = hashlib.sha256()
        for item in self.items:
            name = item.path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{item.digest}\0".encode("utf-8", "replace"))
        return digest.hexdigest()


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
