"""Files on disk: atomic writes, and safetensors with readable errors."""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .error import DDMError

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

LONGEST = 80  # characters of a file's name that a user gives
# A temporary file of which this many seconds have passed belongs to nobody any more.
ABANDONED = 3600.0
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is fsynced and replaces `path`.

    On any error the temporary file is removed and an existing `path` stays as it was.

    Raises:
        DDMError: when the file system refuses (disk full, no permission), naming the file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise DDMError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another place."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise DDMError(
            f"Could not save {path}: {error.strerror or error}. What was there before is untouched; "
            "free some space and try again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: str | os.PathLike, name: str, age: float = 0.0) -> None:
    """Remove the temporary files that `atomic_path` left in a folder when its process was killed.

    Args:
        name: pattern of the names of the files that were to be written.
        age: only those that nobody has written to for so many seconds; another process may be about to finish others.
    """
    latest = time.time() - age
    for temporary in Path(folder).glob(f".{name}.*.tmp"):
        with suppress(OSError):  # gone by itself, or another user's
            if temporary.stat().st_mtime <= latest:
                temporary.unlink()


def free_space(folder: str | os.PathLike) -> int:
    """Bytes that are free where a folder is, or will be."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def save_tensors(
    path: str | os.PathLike, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically. The same tensors and metadata always give the same bytes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(path, _canonical(save(tensors, dict(metadata or {}))))


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors by name (on the CPU) and the metadata (empty if the file has none).

    Raises:
        DDMError: no such file; a pickle format; truncated or otherwise not safetensors.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


@contextmanager
def open_tensors(path: str | os.PathLike) -> "Iterator[safe_open]":
    """Open a safetensors file to read a part of it (it is no mapping: it has only keys()); errors as `load_tensors`."""
    from safetensors import safe_open

    path = check_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise _broken(path, error) from error


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Read only the metadata of a safetensors file; errors as in `load_tensors`."""
    from safetensors import safe_open

    path = check_tensors(path)
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _broken(path, error) from error


def check_tensors(path: str | os.PathLike) -> Path:
    """Refuse what is no safetensors file by its name, before it is opened."""
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise DDMError(
            f"{path} is a pickle file ({path.suffix}), which can run code when it is opened, so it is refused. "
            "Convert it to .safetensors first (for instance with diffusers' conversion scripts) and load that."
        )
    if not path.is_file():
        raise DDMError(f"There is no file {path}. Check the name and the folder.")
    return path


def kind_of(path: str | os.PathLike) -> str | None:
    """What one of our files is: "head", "probe", "invariant", or "adapter" (a LoRA or an embedding).

    None for what somebody else wrote, what is broken, or not there.
    """
    try:
        metadata = read_metadata(path)
    except DDMError:
        return None
    return metadata.get("ddm.kind") or ("adapter" if "ddm.format_version" in metadata else None)


def check_suffix(path: Path) -> None:
    """Refuse the name of a result that is no safetensors file."""
    if path.suffix.lower() != ".safetensors":
        raise DDMError(f"Results are .safetensors files, and {path.name} is none. Name it {path.stem}.safetensors.")


def check_output(path: Path, kind: str, advice: str = "Choose another name.") -> None:
    """Refuse to write a result in a file that is none of ours of the same kind, before anything is done.

    Args:
        kind: as of `kind_of`.
        advice: what can be done where such a file is there.

    Raises:
        DDMError: no name of a safetensors file; or another file of that name is there.
    """
    check_suffix(path)
    if path.exists() and kind_of(path) != kind:
        raise DDMError(f"There is a file {path} already, and it is no {kind} that ddm wrote. {advice}")


def named_file(folder: str | os.PathLike, name: str, what: str = "an adapter") -> Path:
    """The safetensors file that a user's name for `what` stands for in a folder.

    Raises:
        DDMError: the name is none that a file can have, or leads out of the folder.
    """
    stem, root = name.strip().removesuffix(".safetensors"), Path(folder).resolve()
    if not stem or len(stem) > LONGEST or stem.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', stem):
        raise DDMError(
            f"{name!r} is no name for {what}. Use letters, digits, blanks and hyphens, without a folder: it is saved "
            f"in {root.name}."
        )
    file = (root / f"{stem}.safetensors").resolve()
    if file.parent != root:
        raise DDMError(f"{name!r} leads out of {root.name}. Choose another name.")
    return file


def _canonical(data: bytes) -> bytes:
    """The same safetensors file with a sorted header: the library writes the metadata in random order."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def _broken(path: Path, error: Exception) -> DDMError:
    return DDMError(
        f"{path} is not a complete safetensors file ({error}). It may be truncated: copy or download it again."
    )
