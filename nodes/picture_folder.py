"""Folders of pictures, by name: those below the host's input/, and the example set."""

import os
from pathlib import Path

import folder_paths

from ..debias.error import DDMError
from .files import EXAMPLES

EXAMPLE = "people_emoji (comes with ComfyUI-DDM)"


def names() -> list[str]:
    """The example set, and every folder below input/ as the host lists them."""
    return [EXAMPLE, *(name for name in folder_paths.get_input_subfolders() if not name.startswith("."))]


def resolve(name: str) -> Path:
    """The folder behind a name of `names`; no other name leads anywhere.

    Raises:
        DDMError: the name is not (or no longer) in the list.
    """
    if name == EXAMPLE:
        return EXAMPLES / "people_emoji"
    if name not in names():
        raise DDMError(
            f"There is no folder {name!r} below ComfyUI's input folder. Put your folder of pictures there, press R to "
            "read the folders again, and choose it."
        )
    return Path(folder_paths.get_input_directory()) / name


def stamp(name: str) -> str:
    """Changes when a file in the folder does; for `fingerprint_inputs`."""
    try:
        root = resolve(name)
    except DDMError:
        return name
    files = sorted(Path(folder) / file for folder, _, found in os.walk(root) for file in found)
    return repr([(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()])
