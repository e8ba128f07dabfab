"""Names in the nodes' file lists, and the files behind them.

A name from a graph is only ever looked up in the list that the host made by walking its folders, so no name leads out
of them; nothing is joined to a path that was not found there.
"""

import os
import re
from pathlib import Path

import folder_paths

from ..debias.error import DDMError
from ..debias.storage import check_tensors

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EMBEDDED = "tiny_people (comes with ComfyUI-DDM)"
# Which of the host's folders: what it holds, where it is below models/.
ADAPTERS, CHECKPOINTS, DDM = "loras", "checkpoints", "ddm"
WRITTEN = {ADAPTERS: "an adapter", DDM: "a probe"}
LONGEST = 80
KINDS = {ADAPTERS: "adapter", CHECKPOINTS: "checkpoint", DDM: "DDM file"}


def register_folders() -> None:
    """Make models/ddm known to the host, and show the pack's own probes and adapter in its lists."""
    paths = folder_paths.folder_names_and_paths.get(DDM, ([], set()))[0]  # from extra_model_paths.yaml, if there
    ours = [str(Path(folder_paths.models_dir) / DDM), str(EXAMPLES / "probes")]
    # An explicit extension: a folder that is only added shows every file.
    folder_paths.folder_names_and_paths[DDM] = (list(dict.fromkeys([*paths, *ours])), {".safetensors"})
    folder_paths.add_model_folder_path(ADAPTERS, str(EXAMPLES / "adapters"))


def names(folder: str) -> list[str]:
    """The safetensors files of one of the host's folders, as its own lists name them."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(".safetensors")]


def resolve(folder: str, name: str) -> Path:
    """The file behind a name of `names`.

    Raises:
        DDMError: the name is not (or no longer) in the list, or is that of a pickle.
    """
    known = folder_paths.get_filename_list(folder)
    if name not in known:
        shown = KINDS[folder]
        if Path(name).suffix and Path(name).suffix.lower() != ".safetensors":
            check_tensors(Path(name).name)  # says so, if it is a pickle
        raise DDMError(
            f"There is no {shown} called {name!r} in models/{folder}. It may have been moved or renamed: put it back, "
            "or press R to read the folders again and choose another one."
        )
    path = Path(folder_paths.get_full_path(folder, name) or name)
    return check_tensors(path)


def new_file(folder: str, name: str) -> Path:
    """The safetensors file that a user's name stands for in the first of the host's folders of a kind.

    Raises:
        DDMError: the name is none that a file can have, or leads out of the folder.
    """
    stem = name.strip().removesuffix(".safetensors")
    if not stem or len(stem) > LONGEST or stem.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', stem):
        raise DDMError(
            f"{name!r} is no name for {WRITTEN[folder]}. Use letters, digits, blanks and hyphens, without a folder: it "
            f"is saved in models/{folder}."
        )
    root = Path(folder_paths.get_folder_paths(folder)[0]).resolve()
    target = (root / f"{stem}.safetensors").resolve()
    if target.parent != root:
        raise DDMError(f"{name!r} leads out of models/{folder}. Choose another name.")
    return target


def weights_names() -> list[str]:
    """What DDM Load Weights offers: the embedded model, folders in diffusers layout, checkpoints."""
    return [*diffusers_names(), *names(CHECKPOINTS)]


def diffusers_names() -> list[str]:
    """The embedded model, and folders in diffusers layout."""
    return [EMBEDDED, *_diffusers_folders()]


def resolve_weights(name: str) -> Path:
    """The folder in diffusers layout, or the checkpoint file, behind a name of `weights_names`.

    Raises:
        DDMError: as in `resolve`.
    """
    if name == EMBEDDED:
        return EXAMPLES / "tiny_people"
    return _diffusers_folders().get(name) or resolve(CHECKPOINTS, name)


def _diffusers_folders() -> dict[str, Path]:
    """Folders below models/diffusers that hold a model_index.json, by their name relative to it."""
    found = {}
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder, subfolders, files in os.walk(root, followlinks=True):
            if "model_index.json" in files:
                found.setdefault(Path(folder).relative_to(root).as_posix(), Path(folder))
                subfolders.clear()
    return dict(sorted(found.items()))


def stamp(path: Path) -> str:
    """Changes when the file or the folder's model_index.json is another one: what `fingerprint_inputs` returns."""
    path = path / "model_index.json" if path.is_dir() else path
    status = path.stat()
    return f"{path} {status.st_mtime_ns} {status.st_size}"
