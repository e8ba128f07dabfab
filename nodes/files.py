"""Names in the nodes' file lists, and the files behind them.

A name from a graph is only ever looked up in the list that the host made by walking its folders, so no name leads out
of them; nothing is joined to a path that was not found there.
"""

import os
import re
from pathlib import Path

import folder_paths

from ..debias.core.error import DDMError
from ..debias.core.image import SUFFIXES
from ..debias.core.io import check_tensors, named_file, read_metadata

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EMBEDDED = "tiny_people (comes with ComfyUI-DDM)"
# Which of the host's folders: what it holds, where it is below models/.
ADAPTERS, CHECKPOINTS, DDM, DATASETS = "loras", "checkpoints", "ddm", "ddm_datasets"
DIFFUSION_MODELS, TEXT_ENCODERS = "diffusion_models", "text_encoders"
WRITTEN = {ADAPTERS: "an adapter", DDM: "a probe"}
CALLED = {"head": "a head for distribution guidance", "invariant": "a module for invariant guidance"}
MAKERS = {"head": "DDM Train Guidance Head", "invariant": "DDM Train (objective invariant)"}
KINDS = {ADAPTERS: "adapter", CHECKPOINTS: "checkpoint", DDM: "DDM file", DIFFUSION_MODELS: "diffusion model"}


def register_folders() -> None:
    """Make models/ddm and the roots of data sets known to the host, and show what comes with the pack in its lists."""
    _register(DDM, {".safetensors"}, EXAMPLES / "probes", EXAMPLES / "guidance")
    _register(DATASETS, set(SUFFIXES))
    folder_paths.add_model_folder_path(ADAPTERS, str(EXAMPLES / "adapters"))


def _register(folder: str, suffixes: set[str], *more: Path) -> None:
    """Make a folder below models/ known, after those of extra_model_paths.yaml, and others that it shall show.

    The suffixes are explicit: a folder that is only added shows every file.
    """
    given = folder_paths.folder_names_and_paths.get(folder, ([], set()))[0]
    paths = [*given, str(Path(folder_paths.models_dir) / folder), *map(str, more)]
    folder_paths.folder_names_and_paths[folder] = (list(dict.fromkeys(paths)), suffixes)


def names(folder: str, kind: str | None = None) -> list[str]:
    """The safetensors files of one of the host's folders, as its own lists name them.

    Args:
        kind: leave out files of which it is known that they are of another kind (`ddm.kind` in their metadata).
    """
    found = [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(".safetensors")]
    return found if kind is None else [name for name in found if _kind(folder, name) in (kind, None)]


def check_kind(name: str | None, kind: str) -> bool | str:
    """A sentence when a file of models/ddm is not there or is of another kind, else True; only its header is read."""
    try:
        if name is not None and read_metadata(resolve(DDM, name)).get("ddm.kind") != kind:
            return f"{name} is not {CALLED[kind]}. Choose another file, or make one with {MAKERS[kind]}."
    except DDMError as error:
        return str(error)
    return True


def _kind(folder: str, name: str) -> str | None:
    try:
        return read_metadata(resolve(folder, name)).get("ddm.kind")
    except DDMError:
        return None


def resolve(folder: str, name: str) -> Path:
    """The file behind a name of `names`.

    Raises:
        DDMError: the name is not (or no longer) in the list, or is that of a pickle.
    """
    known = folder_paths.get_filename_list(folder)
    if name not in known:
        shown = KINDS[folder]
        asked = Path(str(name))  # None comes over a wire
        if asked.suffix and asked.suffix.lower() != ".safetensors":
            check_tensors(asked.name)  # says so, if it is a pickle
        raise DDMError(
            f"There is no {shown} called {name!r} in models/{folder}. It may have been moved or renamed: put it back, "
            "or press R to read the folders again and choose another one."
        )
    path = Path(folder_paths.get_full_path(folder, name) or name)
    return check_tensors(path)


def new_file(folder: str, name: str) -> Path:
    """The safetensors file that a user's name, such as `people/fair`, stands for in the first of a kind's folders.

    Raises:
        DDMError: the name is none that a file can have, or leads out of the folder.
    """
    *subfolders, last = re.split(r"[/\\]", name)
    place = Path(folder_paths.get_folder_paths(folder)[0])
    for part in subfolders:
        place = named_file(place, part, "a folder").with_suffix("")
    return named_file(place, last, WRITTEN[folder])


def by_name(text: str) -> str:
    """A sentence without the places of the host's folders on this machine: `loras/fair.safetensors`."""
    roots = [Path(root) for paths, _ in folder_paths.folder_names_and_paths.values() for root in paths]
    roots += [EXAMPLES, *map(Path, (folder_paths.get_input_directory(), folder_paths.get_output_directory()))]
    places = {*roots, *(root.resolve() for root in roots)}
    for root in sorted(places, key=lambda one: len(str(one)), reverse=True):
        text = text.replace(f"{root}{os.sep}", f"{root.name}{os.sep}")
    return text


def list_name(folder: str, path: Path) -> str:
    """What the host's lists call a file below the first of its folders of a kind."""
    return str(path.relative_to(Path(folder_paths.get_folder_paths(folder)[0]).resolve()))


def weights_names() -> list[str]:
    """The models there are: the embedded one, folders in diffusers layout, checkpoints."""
    return [EMBEDDED, *_diffusers_folders(), *names(CHECKPOINTS)]


def bases_names() -> list[str]:
    """The models that can be trained for: diffusion models that are kept apart from their other parts as well."""
    return list(dict.fromkeys([*weights_names(), *names(DIFFUSION_MODELS)]))


def resolve_weights(name: str) -> Path:
    """The folder in diffusers layout, the checkpoint or the diffusion model, behind a name of `bases_names`.

    Raises:
        DDMError: as in `resolve`.
    """
    if name == EMBEDDED:
        return EXAMPLES / "tiny_people"
    if folder := _diffusers_folders().get(name):
        return folder
    apart = name not in names(CHECKPOINTS) and name in names(DIFFUSION_MODELS)
    return resolve(DIFFUSION_MODELS if apart else CHECKPOINTS, name)


def beside_weights(path: Path) -> dict[str, object]:
    """Where the trainer finds what the file of a model does not hold: text encoders, and the host's own tokenizers."""
    import comfy

    if path.is_dir():
        return {}
    texts = [Path(folder) for folder in folder_paths.get_folder_paths(TEXT_ENCODERS)]
    return {
        "text_encoder_file": [folder for folder in texts if folder.is_dir()],
        "tokenizer": Path(next(iter(comfy.__path__))).parent,
    }


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
