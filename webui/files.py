"""Adapters and probes by the names that the page lists, and the files behind them."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import check_tensors, read_metadata
from ..debias.probes.probe import Probe
from ..hosts.image_text_folders import is_image_text
from . import host

NONE = "None"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "probes"
# Folders of CLIP models, below models/.
CLIP_FOLDERS = ("ddm", "CLIP", "clip_vision")


def chosen(name: str | None) -> bool:
    """Whether something is chosen in a list that begins with `NONE`."""
    return name not in (NONE, "", None)


def adapter_names() -> list[str]:
    """None, and the adapters of this project in the host's folders of LoRAs."""
    return [NONE, *(name for name, path in _loras().items() if _is_adapter(path))]


def adapter_path(name: str) -> Path:
    """The file behind a name of `adapter_names`; no other name leads anywhere.

    Raises:
        DDMError: it is not there, no whole file, or was not made by this project.
    """
    path = _loras().get(name.removesuffix(".safetensors"))
    if path is None:
        check_tensors_name(name)
        raise DDMError(f"There is no adapter called {name!r} in models/Lora. Refresh the list, and choose another.")
    if AdapterCard.from_metadata(read_metadata(path)) is None:
        raise DDMError(
            f"{name} was not made by ComfyUI-DDM, so nothing is known of its fairness. Use it as any LoRA: "
            f"<lora:{path.stem}:1>."
        )
    return path


def check_tensors_name(name: str) -> None:
    """Refuse the name of a pickle."""
    if Path(name).suffix.lower() not in ("", ".safetensors"):
        check_tensors(Path(name).name)


def probe_names() -> list[str]:
    """None, the probes in models/ddm, and those that come along."""
    return [NONE, *_probes()]


def probe_path(name: str) -> Path:
    """The file behind a name of `probe_names`.

    Raises:
        DDMError: it is not there.
    """
    path = _probes().get(name)
    if path is None:
        raise DDMError(f"There is no probe called {name!r} in models/ddm. Refresh the list, and choose another.")
    return path


def classes_of(name: str) -> Sequence[str]:
    """The classes of a probe; none if it cannot be read, which is said when it is used."""
    try:
        return Probe.load(probe_path(name)).names
    except DDMError:
        return ()


def open_probe(name: str) -> Probe:
    """The probe behind a name of `probe_names`; one that reads CLIP features comes with its model.

    Raises:
        DDMError: it is not there, is broken, or its CLIP model is not found.
    """
    path = probe_path(name)
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(4)
def _open(path: Path, changed: int) -> Probe:
    probe = Probe.load(path)
    if probe.network is not None:
        return probe
    from ..training.models.clip import ClipImages

    return Probe.load(path, ClipImages(clip_folder(probe.identity), host.device()))


def clip_names() -> list[str]:
    """The folders of CLIP and SigLIP models that read words too, in models/ddm and where the host keeps its own."""
    return [name for name, folder in _clips().items() if is_image_text(folder)]


def clip_path(name: str | None) -> Path:
    """The folder behind a name of `clip_names`.

    Raises:
        DDMError: it is not there.
    """
    path = _clips().get(name or "")
    if path is None:
        raise DDMError(
            "No CLIP model is chosen. Put the folder of one (with its config.json) into models/ddm, and refresh the "
            "list."
        )
    return path


def clip_folder(identity: str) -> Path:
    """The folder of the CLIP model that probes call by this name.

    Raises:
        DDMError: it is not there.
    """
    found = re.fullmatch(r"CLIP (.+) \([0-9a-f]+\)", identity)
    path = _clips().get(found[1]) if found else None
    if path is None:
        raise DDMError(
            f"The probe reads the features of {identity}, which is not there. Put the folder of this model (with its "
            "config.json) into models/ddm."
        )
    return path


def _clips() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for parent in reversed(CLIP_FOLDERS):
        folder = host.models_folder() / parent
        found |= {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
    return found


def head_names() -> list[str]:
    """The heads of distribution guidance in models/ddm."""
    return list(_heads())


def head_path(name: str) -> Path:
    """The file behind a name of `head_names`.

    Raises:
        DDMError: it is not there.
    """
    path = _heads().get(name)
    if path is None:
        raise DDMError(
            f"There is no head called {name!r} in models/ddm. Refresh the list and choose another, or make one in the "
            "tab DDM under Guidance head."
        )
    return path


def _loras() -> dict[str, Path]:
    """A file in an earlier folder hides one of the same name in a later one."""
    found: dict[str, Path] = {}
    for folder in host.lora_folders():
        found = _files(folder) | found
    return found


def _heads() -> dict[str, Path]:
    return _of_kind("head", _files(host.models_folder() / "ddm"))


def _probes() -> dict[str, Path]:
    """A file of the user's hides one of ours with the same name."""
    return _of_kind("probe", _files(EXAMPLES)) | _of_kind("probe", _files(host.models_folder() / "ddm"))


def _of_kind(kind: str, found: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in found.items() if _metadata(path).get("ddm.kind") == kind}


def _files(folder: Path) -> dict[str, Path]:
    """The safetensors files in and below a folder, by their place in it, without the ending."""
    paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _is_adapter(path: Path) -> bool:
    try:
        card = AdapterCard.from_metadata(_metadata(path))
    except DDMError:
        return False
    return card is not None and card.objective != "style"


def _metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; nothing if it cannot be read."""
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_size)
    except (DDMError, OSError):
        return {}


@lru_cache(4096)
def _read(path: Path, changed: int, size: int) -> dict[str, str]:
    return read_metadata(path)
