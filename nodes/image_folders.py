"""Folders of images, by name: those below the host's input/ and its roots of data sets, and the example sets."""

import os
from pathlib import Path
from threading import Lock

import folder_paths

from ..debias.core.error import DDMError
from .files import DATASETS, EXAMPLES

EXAMPLE = "people_emoji (comes with ComfyUI-DDM)"
BIASED = "people_emoji, six men to one woman, without labels (comes with ComfyUI-DDM)"

_drawing = Lock()


def names() -> list[str]:
    """The example sets, every folder below input/, and those below the roots of data sets, which say so."""
    return [EXAMPLE, BIASED, *_folders()]


def resolve(name: str) -> Path:
    """The folder behind a name of `names`; no other name leads anywhere.

    Raises:
        DDMError: the name is not (or no longer) in the list.
    """
    if name == EXAMPLE:
        return EXAMPLES / "people_emoji"
    if name == BIASED:
        return _biased()
    folder = _folders().get(name)
    if folder is None:
        raise DDMError(
            f"There is no folder {name!r} below ComfyUI's input folder, nor below {DATASETS}. Put your folder of "
            "images there, press R to read the folders again, and choose it."
        )
    return folder


def _folders() -> dict[str, Path]:
    """The host's folders by their names in the list; of two data sets of one name, the first root's."""
    found = _below(Path(folder_paths.get_input_directory()))
    for root in folder_paths.get_folder_paths(DATASETS):
        for name, folder in _below(Path(root)).items():
            found.setdefault(f"{name} (in {DATASETS})", folder)
    return found


def _below(root: Path) -> dict[str, Path]:
    """All folders below a root by their paths relative to it, without hidden ones such as the trainer's cache.

    Links are followed after all else, and each folder is listed once, so that links in a circle come to an end.
    """
    found, seen, starts = {}, set(), [root]
    for start in starts:
        for path, folders, _ in os.walk(start):
            folder = Path(path)
            real = folder.resolve()
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            found[folder.relative_to(root).as_posix()] = folder
            folders[:] = [one for one in folders if not one.startswith(".")]
            starts += [folder / one for one in folders if (folder / one).resolve() != real / one]
    found.pop(".", None)
    return dict(sorted(found.items()))


def _biased() -> Path:
    """The biased set, drawn from the other one into the host's temporary folder, which it empties when it starts."""
    from ..training.embedded.imbalance import draw_unlabelled

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
