"""The hash of weight files. That of big ones is remembered, so that a checkpoint of 7 GB is read through only once."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...debias.core.error import DDMError
from ...debias.core.io import user_cache, write_text

# Smaller files are hashed in less than a second.
REMEMBERED = 256 << 20
ENTRIES = 500


def hash_files(files: Sequence[Path]) -> str:
    """sha256 (hex) over the bytes of the files, in the given order.

    Of 256 MiB or more it is kept in `remembered_hashes`, and holds as long as no file's place, size, time of last
    change or inode is another.
    """
    states = [path.stat() for path in files]
    if sum(state.st_size for state in states) < REMEMBERED:
        return _digest(files)
    facts = [
        [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ino]
        for path, state in zip(files, states, strict=True)
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    known = _read(remembered_hashes())
    if key not in known:
        known[key] = _digest(files)
        with suppress(DDMError):  # then it is computed again next time
            write_text(remembered_hashes(), json.dumps(dict(list(known.items())[-ENTRIES:]), indent=1))
    return known[key]


def remembered_hashes() -> Path:
    """Where hashes are kept, in the user's cache."""
    return user_cache() / "hashes.json"


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
