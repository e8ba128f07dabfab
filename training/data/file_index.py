"""What is known of image files, content and size, remembered on disk so that unchanged ones are not read again."""

import hashlib
import json
import os
import time
from pathlib import Path

from ...debias.core.image import check_image
from ...debias.core.io import ABANDONED, remove_temporaries, write_text

# A file may change again within its time stamp's resolution: one as young as this is looked at again the next time.
YOUNG = 2_000_000_000  # nanoseconds
SAVE_EVERY = 20.0  # seconds


class FileIndex:
    """Digests and sizes of images by path.

    Args:
        path: a JSON file to remember them in; None remembers nothing.
        root: the folder of the images; the paths in the file are relative to it.
    """

    def __init__(self, path: Path | None = None, root: Path | None = None):
        self.path, self.root = path, root
        self.changed, self.saved = False, time.monotonic()
        self.entries: dict[str, list] = {}
        if path:
            remove_temporaries(path.parent, path.name, ABANDONED)
        if path and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                found = None  # it only saves time
            self.entries = {key: row for key, row in found.items() if _whole(row)} if isinstance(found, dict) else {}

    @classmethod
    def of(cls, root: Path, cache: Path | None) -> "FileIndex":
        """The index of a folder in a cache, which may hold those of other folders too; None remembers nothing."""
        name = hashlib.sha256(str(root.resolve()).encode("utf-8", "replace")).hexdigest()[:8]
        return cls(cache / f"images-{name}.json" if cache else None, root)

    def look(self, file: Path) -> tuple[str, int, int, bool]:
        """Make sure that an image can be read to its end.

        Returns:
            SHA-256 (hexadecimal) of its bytes, its width and height as it is shown, and whether it shows something.

        Raises:
            DDMError: as `check_image`.
        """
        if self.path is None:
            return _look(file)
        try:
            state = file.stat()
        except OSError:
            return _look(file)  # which says what is wrong
        key = os.path.relpath(file, self.root)
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        if (entry := self.entries.get(key)) and entry[:3] == stamp:
            return entry[3], entry[4], entry[5], entry[6]
        found = _look(file)
        if time.time_ns() - max(stamp[1:]) > YOUNG:
            self.entries[key] = [*stamp, *found]
            self.changed = True
            if time.monotonic() - self.saved > SAVE_EVERY:
                self.save()
        return found

    def save(self) -> None:
        """Write the file, if there is anything new."""
        if self.path and self.changed:
            write_text(self.path, json.dumps(self.entries, ensure_ascii=True))
            self.changed = False
        self.saved = time.monotonic()


def _look(file: Path) -> tuple[str, int, int, bool]:
    seen = check_image(file)
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest(), *seen


def _whole(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 7
        and isinstance(row[3], str)
        and all(isinstance(row[place], int) for place in (0, 1, 2, 4, 5, 6))
    )
