"""Latents of images, encoded once: mean and std are kept, and every draw samples them anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...debias.core.image import open_image
from ..models.base import VAE_PIXELS
from .buckets import Size
from .cache import Memory, Row, TensorCache, gather, read, settle, shape_of, weights_hash
from .loss_masks import loss_weight

if TYPE_CHECKING:
    import torch

    from ..models.base import Base
    from .image_folder import ImageFolder, Item

Progress = Callable[[int, int], None]
# A CPU works on so much less at a time: what stays in its caches is encoded 1.4 times as fast.
CPU_PART = 8


@dataclass(frozen=True)
class View:
    """One way to encode an image.

    Attributes:
        item: the image.
        size: width and height in pixels that it is cropped and scaled to.
        flip: whether it is mirrored.
    """

    item: "Item"
    size: Size
    flip: bool = False

    @property
    def key(self) -> str:
        """What the cache finds it by."""
        return f"{self.item.digest} {self.size[0]}x{self.size[1]}{' flip' if self.flip else ''}"

    def pixels(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]."""
        pixels = np.asarray(open_image(self.item.path, self.size))
        return pixels[:, ::-1] if self.flip else pixels


class Moments(NamedTuple):
    """What a batch of B images is drawn from.

    Attributes:
        mean, std: [B, C, h, w] of the scaled latents.
        weight: [B, 1, h, w] of the latents' cells in the loss, with mean 1 for each image; None where all is 1.
    """

    mean: "torch.Tensor"
    std: "torch.Tensor"
    weight: "torch.Tensor | None"


@dataclass(frozen=True)
class Latents:
    """Latents of N images, of one shape or several, in memory or on disk.

    Attributes:
        device: where batches are brought to.
        rows: [N] mean and std [C, h, w] of each, multiplied by the VAE's scaling factor.
        mirrors: [N] those of its mirror image, or None where there is none.
        masks: [N] its mask uint8 [h, w], or None where all of it counts.
    """

    device: "torch.device"
    rows: Sequence[Row]
    mirrors: Sequence[Row | None]
    masks: Sequence[Row | None]

    @classmethod
    def of(cls, mean: "torch.Tensor", std: "torch.Tensor | None" = None) -> "Latents":
        """Latents [N, C, h, w] that are at hand; without standard deviations, always the same."""
        std = mean.new_zeros(mean.shape) if std is None else std
        rows = list(zip(mean.cpu(), std.cpu(), strict=True))
        return cls(mean.device, rows, [None] * len(rows), [None] * len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: "Latents") -> "Latents":
        parts = zip((self.rows, self.mirrors, self.masks), (other.rows, other.mirrors, other.masks), strict=True)
        return Latents(self.device, *([*one, *two] for one, two in parts))

    def take(self, rows: Sequence[int]) -> "Latents":
        """Those of some images, each as often as it is named."""
        return Latents(self.device, *([part[row] for row in rows] for part in (self.rows, self.mirrors, self.masks)))

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """[N] height and width of each, in latent cells."""
        return [shape_of(row)[1:] for row in self.rows]

    @cached_property
    def mirrored(self) -> np.ndarray:
        """[N] which images have a mirror image."""
        return np.array([row is not None for row in self.mirrors])

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, h, w] of latents that are all of one shape."""
        return (len(self), *shape_of(self.rows[0]))

    def __getitem__(self, rows: "torch.Tensor") -> "torch.Tensor":
        """Means [B, C, h, w] of some images, all of one shape."""
        return gather([self.rows[row] for row in rows.tolist()], self.device)[0]

    def fetch(self, rows: np.ndarray, flip: np.ndarray) -> Moments:
        """What B images of one shape are drawn from.

        Args:
            rows: [B] which images.
            flip: [B] whether the mirror image is wanted, where there is one.
        """
        flip = flip & self.mirrored[rows]
        chosen = [(self.mirrors if mirror else self.rows)[row] for row, mirror in zip(rows, flip, strict=True)]
        return Moments(*gather(chosen, self.device), self._weight(rows, flip))

    def _weight(self, rows: np.ndarray, flip: np.ndarray) -> "torch.Tensor | None":
        import torch

        if all(self.masks[row] is None for row in rows):
            return None
        plain = torch.full(self.sizes[rows[0]], 255, dtype=torch.uint8)
        masks = [plain if self.masks[row] is None else read(self.masks[row])[0] for row in rows]
        masks = [(mask.flip(-1) if mirror else mask,) for mask, mirror in zip(masks, flip, strict=True)]
        return loss_weight(*gather(masks, self.device))


class Encoder:
    """Encodes images by a base's VAE, with a cache on disk or without.

    While it works, one shard of the cache is in memory; a stopped pass goes on where it was, in the same batches.

    Args:
        cache: a folder that keeps the latents; what is there already is not encoded again.
        batch_size: images at a time; None: what the VAE has room for.
    """

    def __init__(self, base: "Base", cache: Path | None = None, batch_size: int | None = None):
        self.base, self.batch_size = base, batch_size
        self.store = Memory()
        if cache:
            maker = weights_hash(base.vae, base.vae.config.get("scaling_factor"))
            self.store = TensorCache(cache, "latents", maker, ("mean", "deviation"))

    def rows(self, views: Sequence[View], progress: Progress | None = None) -> list[Row]:
        """Means and standard deviations [C, h, w] of each view, multiplied by the VAE's scaling factor.

        Args:
            progress: called with (views done, views).

        Raises:
            DDMError: an image that was readable no longer is; or the cache has no room or may not be written.
        """
        distinct = {view.key: view for view in views}  # equal files are encoded once
        missing = [view for key, view in distinct.items() if key not in self.store]
        cell = 8 * self.base.latent_channels / self.base.vae_factor**2
        self.store.check_room(sum(cell * view.size[0] * view.size[1] for view in missing))
        done = len(views) - len(missing)
        try:
            for part in self._batches(missing):
                self.store.add([view.key for view in part], self._encode(np.stack([view.pixels() for view in part])))
                done += len(part)
                if progress:
                    progress(done, len(views))
        finally:
            self.store.flush()
        return settle([self.store[view.key] for view in views])

    def _batches(self, views: Sequence[View]) -> list[list[View]]:
        """Views of one size together, as many as the VAE has room for."""
        room = VAE_PIXELS // (CPU_PART if self.base.device.type == "cpu" else 1)
        batches = []
        for size, group in groupby(sorted(views, key=lambda view: view.size), lambda view: view.size):
            same, count = list(group), self.batch_size or max(1, room // (size[0] * size[1]))
            batches += [same[start : start + count] for start in range(0, len(same), count)]
        return batches

    def _encode(self, pixels: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
        import torch

        with torch.no_grad(), self.base.awake(self.base.vae):
            tensor = torch.as_tensor(pixels, device=self.base.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return self.base.family.posterior(self.base, tensor)


def square_latents(base: "Base", folder: "ImageFolder", progress: Progress | None = None) -> Latents:
    """A folder's images at the base's image size, cropped to the centre square; errors as in `Encoder.rows`."""
    side = (base.image_size, base.image_size)
    rows = Encoder(base).rows([View(item, side) for item in folder.items], progress)
    return Latents(base.device, rows, [None] * len(rows), [None] * len(rows))
