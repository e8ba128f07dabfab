"""Encoded pictures on disk, found by content: an unchanged picture is encoded once for each VAE and size."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..debias.error import DDMError
from ..debias.storage import load_tensors, read_metadata, save_tensors

if TYPE_CHECKING:
    import torch

    from .base import Base

KIND = "latents"
FOLDER = ".ddm_cache"


class LatentCache:
    """Means and deviations of pictures under one VAE at one size, in safetensors shards that are never rewritten.

    A shard that is damaged or of other shapes counts as not there. Whoever deletes the folder loses time only.

    Args:
        folder: where the shards are; made when the first one is written.
        base: its VAE makes the latents.
        size: side of the pictures in pixels.
    """

    def __init__(self, folder: Path, base: "Base", size: int):
        self.folder, self.size = folder, size
        self.cell = (base.latent_channels, size // base.vae_factor, size // base.vae_factor)
        self.kind = {"ddm.kind": KIND, "ddm.vae": vae_hash(base), "ddm.size": str(size)}
        self.places: dict[str, tuple[Path, int]] = {}
        for shard in sorted(folder.glob("latents-*.safetensors")):
            for row, key in enumerate(self._keys(shard)):
                self.places.setdefault(key, (shard, row))

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def _keys(self, shard: Path) -> list[str]:
        try:
            metadata = read_metadata(shard)
            if {name: metadata.get(name) for name in self.kind} != self.kind:
                return []
            keys = json.loads(metadata["ddm.keys"])
            tensors, _ = load_tensors(shard)
            shapes = {tuple(tensors[name].shape) for name in ("mean", "deviation")}
        except (DDMError, KeyError, ValueError, OSError):
            return []
        return keys if shapes == {(len(keys), *self.cell)} else []

    def write(self, keys: Sequence[str], mean: "torch.Tensor", deviation: "torch.Tensor") -> None:
        """Add pictures.

        Args:
            keys: what they are found by.
            mean, deviation: [N, C, h, w] of each, scaled.

        Raises:
            DDMError: the file system refuses.
        """
        name = hashlib.sha256(json.dumps([self.kind, *keys]).encode()).hexdigest()[:16]
        shard = self.folder / f"latents-{name}.safetensors"
        metadata = {**self.kind, "ddm.keys": json.dumps(list(keys))}
        save_tensors(shard, {"mean": mean, "deviation": deviation}, metadata)
        for row, key in enumerate(keys):
            self.places[key] = (shard, row)

    def read(self, keys: Sequence[str]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Means and deviations [N, C, h, w] of pictures that are there, on the CPU."""
        import torch

        mean, deviation = (torch.empty(len(keys), *self.cell) for _ in range(2))
        rows: dict[Path, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            shard, row = self.places[key]
            rows.setdefault(shard, []).append((number, row))
        for shard, pairs in rows.items():
            tensors, _ = load_tensors(shard)
            here, there = (torch.tensor(part) for part in zip(*pairs, strict=True))
            mean[here], deviation[here] = tensors["mean"][there], tensors["deviation"][there]
        return mean, deviation


def vae_hash(base: "Base") -> str:
    """SHA-256 (hexadecimal) over the VAE's weights and its scaling factor."""
    import torch

    digest = hashlib.sha256(repr(base.vae.config.scaling_factor).encode())
    for name, value in sorted(base.vae.state_dict().items()):
        digest.update(f"\0{name}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
