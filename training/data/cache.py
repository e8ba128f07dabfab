"""What was computed of images and texts, kept on disk and found by content, so that it is computed once."""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Union

from ...debias.core.error import DDMError
from ...debias.core.io import (
    ABANDONED,
    free_space,
    open_tensors,
    remove_temporaries,
    save_tensors,
    user_cache,
    write_text,
)

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

FOLDER = ".ddm_cache"
# A shard is written as soon as it has so many bytes, or after so many seconds: what a killed run loses at the most.
SHARD, SECONDS = 32 << 20, 20.0
# Rows of more bytes than this in all stay on disk while they are used: to read one takes a tenth of a millisecond.
MEMORY = 1 << 30

Tensors = tuple["torch.Tensor", ...]
Row = Union[Tensors, "Place"]
Progress = Callable[[float, int], None]


@dataclass(frozen=True)
class Place:
    """A row that is on disk.

    Attributes:
        shard: the file.
        row: which of its rows.
        parts: names of its tensors.
        shape: of the first of them.
        size: bytes of all of them.
    """

    shard: Path
    row: int
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    size: int

    def read(self) -> Tensors:
        """The tensors, on the CPU.

        Raises:
            DDMError: the shard is gone.
        """
        with open_tensors(self.shard) as file:
            return self.read_from(file)

    def read_from(self, file: "safe_open") -> Tensors:
        """The same, of the shard that is open already."""
        return tuple(file.get_slice(part)[self.row : self.row + 1][0].clone() for part in self.parts)


def shape_of(row: Row) -> tuple[int, ...]:
    """Shape of a row's first tensor."""
    return row.shape if isinstance(row, Place) else tuple(row[0].shape)


def read(row: Row) -> Tensors:
    """A row's tensors, wherever they are."""
    return row.read() if isinstance(row, Place) else row


def settle(rows: Sequence[Row]) -> list[Row]:
    """Bring rows into memory if they are small enough together; else leave them where they are."""
    places = {row for row in rows if isinstance(row, Place)}
    if sum(place.size for place in places) > MEMORY:
        return list(rows)
    loaded: dict[Place, Tensors] = {}
    for shard, some in groupby(sorted(places, key=lambda place: place.shard), lambda place: place.shard):
        with open_tensors(shard) as file:
            for place in some:
                loaded[place] = place.read_from(file)
    return [loaded[row] if isinstance(row, Place) else row for row in rows]


def gather(rows: Sequence[Row], device: "torch.device") -> Tensors:
    """Stack the tensors of N rows of one shape, each [N, ...], and bring them to a device; a GPU is not waited for."""
    import torch

    def moved(parts: Sequence["torch.Tensor"]) -> "torch.Tensor":
        stacked = torch.stack(parts)
        return stacked.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else stacked.to(device)

    return tuple(moved(parts) for parts in zip(*map(read, rows), strict=True))


class Memory(dict[str, Row]):
    """The same as `TensorCache` for those who want nothing on disk."""

    def add(self, keys: Sequence[str], tensors: Sequence["torch.Tensor"]) -> None:
        """Add rows; arguments as in `TensorCache.add`."""
        tensors = [part.cpu() for part in tensors]
        self.update({key: tuple(part[row] for part in tensors) for row, key in enumerate(keys)})

    def check_room(self, size: float) -> None:
        """There is nothing to check."""

    def flush(self) -> None:
        """There is nothing to write."""


def cache_folder(images: Path) -> Path:
    """Where is kept what is computed of a folder of images: in it, or in the user's cache if it may not be written."""
    own = images / FOLDER
    if os.access(own if own.is_dir() else images, os.W_OK):
        return own
    return user_cache() / "images" / hashlib.sha256(os.fsencode(images.resolve())).hexdigest()[:16]


@cache
def machine_key() -> bytes:
    """32 random bytes that this user has on this machine; those of this process if they cannot be kept."""
    path = user_cache() / "machine.key"
    with suppress(OSError, ValueError):
        key = bytes.fromhex(path.read_text("ascii"))
        if len(key) == 32:
            return key
    key = secrets.token_bytes(32)
    with suppress(DDMError, OSError):
        write_text(path, key.hex())
        path.chmod(0o600)
    return key


class TensorCache:
    """Rows of tensors in safetensors shards that are never rewritten.

    A shard that is damaged, of another kind or from another machine counts as not there: a set of images that was
    downloaded may bring any. Whoever deletes the folder loses time only.

    Args:
        folder: where the shards are; made when the first one is written.
        kind: what the rows are; begins the shards' names.
        maker: what they were made by, such as the hash of a model: rows of another maker are none.
        parts: names of a row's tensors.
    """

    def __init__(self, folder: Path, kind: str, maker: str, parts: Sequence[str]):
        self.folder, self.kind, self.parts = folder, kind, tuple(parts)
        mark = hmac.new(machine_key(), f"{kind} {maker}".encode(), "sha256").hexdigest()
        self.metadata = {"ddm.kind": kind, "ddm.maker": mark}
        self.pending: list[tuple[Sequence[str], Tensors]] = []
        self.size = 0  # bytes of what is pending
        self.written = time.monotonic()
        self.places: dict[str, Place] = {}
        remove_temporaries(folder, f"{kind}-*.safetensors", ABANDONED)
        for shard in sorted(folder.glob(f"{kind}-*.safetensors")):
            self.places = self._look(shard) | self.places

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __getitem__(self, key: str) -> Place:
        return self.places[key]

    def _look(self, shard: Path) -> dict[str, Place]:
        try:
            with open_tensors(shard) as file:
                metadata = dict(file.metadata() or {})
                if {name: metadata.get(name) for name in self.metadata} != self.metadata:
                    return {}
                keys = json.loads(metadata["ddm.keys"])
                shapes = [tuple(file.get_slice(part).get_shape()) for part in self.parts]
        except (DDMError, KeyError, ValueError):
            return {}
        if any(shape[0] != len(keys) for shape in shapes):
            return {}
        size = shard.stat().st_size // max(len(keys), 1)
        return {key: Place(shard, row, self.parts, shapes[0][1:], size) for row, key in enumerate(keys)}

    def add(self, keys: Sequence[str], tensors: Sequence["torch.Tensor"]) -> None:
        """Add rows. They are there once they are written, which `flush` sees to at the end.

        Args:
            keys: [N] what they are found by.
            tensors: for each of the parts [N, ...]. Rows of one shard have one shape.

        Raises:
            DDMError: the file system refuses.
        """
        tensors = tuple(part.cpu() for part in tensors)
        if self.pending and [part.shape[1:] for part in self.pending[0][1]] != [part.shape[1:] for part in tensors]:
            self.flush()
        self.pending.append((keys, tensors))
        self.size += sum(part.nbytes for part in tensors)
        if self.size >= SHARD or time.monotonic() - self.written > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; errors as in `add`."""
        import torch

        self.written, self.size = time.monotonic(), 0
        if not self.pending:
            return
        keys = [key for some, _ in self.pending for key in some]
        tensors = [torch.cat(parts) for parts in zip(*(parts for _, parts in self.pending), strict=True)]
        self.pending.clear()
        name = hashlib.sha256(json.dumps([self.metadata, *keys]).encode()).hexdigest()[:16]
        shard = self.folder / f"{self.kind}-{name}.safetensors"
        metadata = {**self.metadata, "ddm.keys": json.dumps(keys)}
        save_tensors(shard, dict(zip(self.parts, tensors, strict=True)), metadata)
        size = sum(part[0].nbytes for part in tensors)
        for row, key in enumerate(keys):
            self.places[key] = Place(shard, row, self.parts, tuple(tensors[0].shape[1:]), size)

    def check_room(self, size: float) -> None:
        """Make sure that there is room for so many bytes more.

        Raises:
            DDMError: there is not.
        """
        free = free_space(self.folder)
        if size * 1.05 > free:
            raise DDMError(
                f"The {self.kind} of this set need {size / 2**20:,.0f} MiB in {self.folder}, and only "
                f"{free / 2**20:,.0f} MiB are free. Free some space, or move the images to a larger disk, or "
                "keep these elsewhere, or nowhere.",
                "cache",
                "no_cache",
            )


def filled(
    store: Memory | TensorCache,
    keys: Sequence[str],
    compute: Callable[[list[int], Progress], Sequence["torch.Tensor"]],
    batch_size: int,
    progress: Progress | None = None,
) -> list[Row]:
    """N rows by their keys. Those that are missing are computed, some at a time, so that a stop loses few.

    Args:
        compute: gives the tensors [B, ...] of the rows at some places of `keys`, and tells how many of these are done.
        batch_size: how many are computed before they are put away.
        progress: called with (rows computed, rows to compute).

    Raises:
        DDMError: the cache has no room or may not be written.
    """
    told = progress or (lambda done, total: None)
    missing = list({key: place for place, key in enumerate(keys) if key not in store}.values())
    try:
        for start in range(0, len(missing), batch_size):
            some = missing[start : start + batch_size]
            tensors = compute(some, lambda done, _, start=start: told(start + done, len(missing)))
            if start == 0:
                store.check_room(len(missing) * sum(part[0].nbytes for part in tensors))
            store.add([keys[place] for place in some], tensors)
    finally:
        store.flush()
    return [store[key] for key in keys]


def weights_hash(model: "torch.nn.Module", *facts: object) -> str:
    """SHA-256 (hexadecimal) over a model's own weights, without LoRAs, and whatever else its answers depend on."""
    import torch

    digest = hashlib.sha256(repr(facts).encode())
    # peft puts a base_layer and lora_… in the place of a layer.
    own = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, value in sorted(own.items()):
        digest.update(f"\0{name}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
