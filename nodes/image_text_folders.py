"""Names of CLIP and SigLIP models in the host's folders: they keep images and texts together, with a tokenizer."""

import os
from pathlib import Path

import folder_paths

from ..debias.core.error import DDMError
from ..hosts.image_text_folders import is_image_text

NONE = "none"
HOST = "clip_vision"


def names() -> list[str]:
    """What a node offers: no folder, and those that there are."""
    return [NONE, *_folders()]


def resolve(name: str) -> Path:
    """The folder behind a name of `names`.

    Raises:
        DDMError: there is no such folder.
    """
    found = _folders().get(name)
    if found is None:
        raise DDMError(
            f"There is no CLIP or SigLIP folder called {name!r} in models/{HOST}. Put it there, with config.json, its "
            "tokenizer and model.safetensors, or choose another one."
        )
    return found


def _folders() -> dict[str, Path]:
    found = {}
    for root in folder_paths.get_folder_paths(HOST):
        for folder, subfolders, files in os.walk(root, followlinks=True):
            if "config.json" in files and is_image_text(Path(folder)):
                found.setdefault(Path(folder).relative_to(root).as_posix(), Path(folder))
                subfolders.clear()
    return dict(sorted(found.items()))
