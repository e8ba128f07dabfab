"""Folders of pictures, by name: those below the host's input/, and the example sets."""

import os
from pathlib import Path
from threading import Lock

import folder_paths

from ..debias.error import DDMError
from .files import EXAMPLES

EXAMPLE = "people_emoji (comes with ComfyUI-DDM)"
BIASED = "people_emoji, six men to one woman, without labels (comes with ComfyUI-DDM)"

_drawing = Lock()


def names() -> list[str]:
    """The example sets, and every folder below input/ as the host lists them."""
    return [EXAMPLE, BIASED, *(name for name in folder_paths.get_input_subfolders() if not name.startswith("."))]


def resolve(name: str) -> Path:
    """The folder behind a name of `names`; no other name leads anywhere.

    Raises:
        DDMError: the name is not (or no longer) in the list.
    """
    if name == EXAMPLE:
        return EXAMPLES / "people_emoji"
    if name == BIASED:
        return _biased()
    if name not in names():
        raise DDMError(
            f"There is no folder {name!r} below ComfyUI's input folder. Put your folder of pictures there, press R to "
            "read the folders again, and choose it."
        )
    return Path(folder_paths.get_input_directory()) / name


def _biased() -> Path:
    """The biased set, drawn from the other one into the host's temporary folder, which it empties when it starts."""
    from ..training.imbalance import draw_unlabelled

    place = Path(folder_paths.get_temp_directory()) / "ddm_example" / "six_men_to_one_woman"
    with _drawing:  # a graph is checked while another one runs
        if not place.is_dir():
            draw_unlabelled(EXAMPLES / "people_emoji", "men", place.with_suffix(".new")).rename(place)
    return place


def stamp(name: str) -> str:
    """Changes when a file in the folder does; for `fingerprint_inputs`."""
    try:
        root = resolve(name)
    except DDMError:
        return name
    files = []
    for folder, folders, found in os.walk(root):
        folders[:] = [one for one in folders if not one.startswith(".")]  # such as the trainer's cache
        files += [Path(folder) / file for file in found]
    return repr([(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files) if file.is_file()])
