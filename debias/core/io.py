"""Files on disk: atomic writes, and safetensors with readable errors."""

import codecs
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .error import DDMError, printable

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

LONGEST = 80  # characters of a file's name that a user gives
LONGEST_NAME = 200  # bytes of it, which file systems count; a temporary file's name is longer
LONGEST_PART, LONGEST_PATH = 255, 4095  # bytes of any part of a path, and of the whole
# Windows keeps these for devices, whatever the ending.
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
# A temporary file of which this many seconds have passed belongs to nobody any more.
ABANDONED = 3600.0
LONGEST_TEXT = 64 << 20  # bytes of a text file
LONGEST_METADATA = 32 << 20  # bytes that a safetensors file says of itself; quotes and the like may double them
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


def user_cache() -> Path:
    """The user's folder for what may be computed again: comfyui-ddm in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "comfyui-ddm"


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically; letters that UTF-8 does not have are written as `\\udce9`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_text(path: str | os.PathLike, longest: int = LONGEST_TEXT) -> str:
    """The text of a file that a person wrote, in whatever encoding (see `decode`).

    Raises:
        DDMError: it is not there, may not be read, or is longer than `longest` bytes.
    """
    return decode(read_bytes(path, longest))[0]


def read_bytes(path: str | os.PathLike, longest: int = LONGEST_TEXT) -> bytes:
    """What is in a file of limited length; errors as in `read_text`."""
    try:
        with open(path, "rb") as file:
            data = file.read(longest + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DDMError(f"{path} cannot be read ({reason}). Check its name and its permissions.") from error
    if len(data) > longest:
        most = f"{longest >> 20} MiB" if longest >> 20 else f"{longest >> 10} KiB"
        raise DDMError(f"{path} is longer than {most}, which no text of its kind is. Is it another file?")
    return data


def decode(data: bytes) -> tuple[str, str]:
    """Text, and the encoding that it was in: by its byte order mark, UTF-8, or what Windows wrote.

    UTF-16 without a mark is known by its zeros.
    """
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    guesses = [name for mark, name in marks.items() if data.startswith(mark)][:1] or ["utf-8", "cp1252"]
    zeros = [data[side:200:2].count(0) > len(data[side:200:2]) / 2 for side in (0, 1)]
    if any(zeros) and guesses[0] == "utf-8":
        guesses.insert(0, "utf-16-le" if zeros[1] else "utf-16-be")
    for encoding in guesses:
        try:
            return data.decode(encoding).replace("\0", ""), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1").replace("\0", ""), "latin-1"


def save_tensors(
    path: str | os.PathLike, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically. The same tensors and metadata always give the same bytes."""
    from safetensors.torch import save

    metadata = dict(metadata or {})
    if sum(len(text.encode("utf-8")) for text in metadata.values()) > LONGEST_METADATA:
        raise DDMError(
            f"{path} is not written: more than {LONGEST_METADATA >> 20} MiB would have to be said of it. Shorten the "
            "captions."
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(path, _canonical(save(tensors, metadata)))


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
    except DDMError:
        raise
    except Exception as error:
        raise _broken(path, error) from error


def check_finite(path: str | os.PathLike, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Refuse tensors of a file that are not finite: what is made with them shows nothing.

    Raises:
        DDMError: naming the file and the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise DDMError(
                f"{path} cannot be used: its {name} is not finite (NaN or infinite), so its training diverged or the "
                "file was damaged. Train it again with a lower learning rate, or use another file."
            )


def check_finite_files(paths: Iterable[str | os.PathLike]) -> None:
    """As `check_finite`, for all of some files; one tensor is in memory at a time."""
    for path in paths:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                check_finite(path, {name: file.get_tensor(name)})


def fill(path: str | os.PathLike, module: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Put a file's tensors into a module that was built on the device "meta", and so costs nothing before they fit.

    Raises:
        DDMError: names, shapes or kinds of numbers are not the module's, or a number is not finite.
    """
    wanted = {name: (tuple(one.shape), one.dtype) for name, one in module.state_dict().items()}
    given = {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
        raise DDMError(
            f"{path} is not complete: {len(wrong)} of its tensors are missing or of another shape ({wrong[0]}). "
            "Copy it again, or train it again."
        )
    check_finite(path, tensors)
    module.load_state_dict(dict(tensors), assign=True)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Read only the metadata of a safetensors file; errors as in `load_tensors`."""
    from safetensors import safe_open

    path = check_tensors(path)
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _broken(path, error) from error


def read_header(path: str | os.PathLike) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype (as safetensors names it) and shape of each tensor of a file; none is read. Errors as in `load_tensors`."""
    with open_tensors(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {key: (one.get_dtype(), tuple(one.get_shape())) for key, one in slices.items()}


def check_tensors(path: str | os.PathLike) -> Path:
    """Refuse what is no safetensors file by its name, before it is opened."""
    path = check_path(path)
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


def check_path(path: str | os.PathLike) -> Path:
    """A path that was given; asking a file system for one that it cannot have would be an error of its own.

    Raises:
        DDMError: it is longer than file systems take, or has a zero in it.
    """
    path = Path(path)
    sizes = [len(part.encode("utf-8", "replace")) for part in (*path.parts, str(path))]
    if max(sizes[:-1], default=0) > LONGEST_PART or sizes[-1] > LONGEST_PATH or "\0" in str(path):
        raise DDMError(f"{printable(path, 80)} is no name of a file: it is too long, or has a zero in it. Shorten it.")
    return path


def check_suffix(path: Path) -> None:
    """Refuse the name of a result that is no safetensors file."""
    if path.suffix.lower() != ".safetensors":
        raise DDMError(f"Results are .safetensors files, and {path.name} is none. Name it {path.stem}.safetensors.")


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before anything is computed for it.

    Raises:
        DDMError: its folder is none, or may not be written; or its name is too long.
    """
    if len(path.name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise DDMError(f"{printable(path.name, 80)} is longer than {LONGEST_NAME} bytes. Choose a shorter name.")
    check_path(path)
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise DDMError(f"{path} cannot be written: {place} is no folder, or closed to you. Choose another place.")


def check_output(path: Path, kind: str, advice: str = "Choose another name.", *options: str) -> None:
    """Refuse to write a result in a file that is none of ours of the same kind, before anything is done.

    Args:
        kind: as of `kind_of`.
        advice: what can be done where such a file is there, and by which `options`.

    Raises:
        DDMError: no name of a safetensors file, or no place for one; or another file of that name is there.
    """
    check_suffix(path)
    check_writable(path)
    if path.exists() and kind_of(path) != kind:
        raise DDMError(f"There is a file {path} already, and it is no {kind} that ddm wrote. {advice}", *options)


def named_file(folder: str | os.PathLike, name: str, what: str = "an adapter") -> Path:
    """The safetensors file that a user's name for `what` stands for in a folder.

    Raises:
        DDMError: the name is none that a file can have, or leads out of the folder.
    """
    stem, root = name.strip().removesuffix(".safetensors"), Path(folder).resolve()
    if (
        not stem
        or len(stem) > LONGEST
        or len(stem.encode("utf-8", "replace")) > LONGEST_NAME
        or stem.startswith(".")
        or stem.endswith(".")
        or re.search(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', stem)
        or RESERVED.fullmatch(stem.split(".")[0].strip())
    ):
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
