"""The images of a run as the model sees them: of a folder, or made by the base itself."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...debias.core.error import DDMError
from ..models.base import Base
from .buckets import Size, assign, bucket_sizes
from .cache import Row
from .image_folder import ImageFolder
from .latents import Encoder, Latents, View
from .loss_masks import read_masks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Preparation:
    """How images are shown to the model.

    Attributes:
        buckets: keep about the shape of each image, instead of cropping all to squares.
        flip: show every image mirrored as well, each as often.
        masks: let mask files say which part of an image counts.
        alpha_mask: let the opacity of images without a mask file say it.
    """

    buckets: bool = True
    flip: bool = False
    masks: bool = True
    alpha_mask: bool = False


@dataclass(frozen=True)
class ImageSet:
    """The images of a run.

    Attributes:
        latents: what is learnt from.
        squares: the same images as centre squares of the base's image size: groups and calibration compare all
            images with each other, and with what the base makes. If they were compared in their own shapes, the shape
            itself would be found to be common or rare.
        captions: [N].
        fingerprint: of all of this.
        folder: where they come from; None when the base made all of them.
        rows: which image of the folder each of the first ones is; an image with repeats comes more than once.
        cache: a folder that keeps what is computed of them, if there is one.
        notes: what a person should know of how they are shown to the model.
        others: further captions of the first images.
    """

    latents: Latents
    squares: Latents
    captions: Sequence[str]
    fingerprint: str
    folder: ImageFolder | None = None
    rows: Sequence[int] = ()
    cache: Path | None = None
    notes: Sequence[str] = ()
    others: Sequence[Sequence[str]] = ()

    def column(self, name: str) -> list[str | None]:
        """One label per image; images that the base made have none."""
        if self.folder is None:
            raise DDMError(
                "Images that the model made have no labels. Find their groups by auto or words:….",
                "groups",
                "prior_prompts",
            )
        column = self.folder.column(name)
        labels = [column[row] for row in self.rows]
        return labels + [None] * (len(self.captions) - len(labels))

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """Append images that are not to be grouped by labels: of the base, or of a regularisation set."""
        both = hashlib.sha256((self.fingerprint + other.fingerprint).encode()).hexdigest()
        return ImageSet(
            self.latents + other.latents,
            self.squares + other.squares,
            [*self.captions, *other.captions],
            both,
            self.folder,
            self.rows,
            self.cache,
            others=[*self.others, *[()] * (len(self.captions) - len(self.others)), *other.others],
        )


def folder_set(
    base: Base,
    folder: ImageFolder,
    progress: Progress | None = None,
    cache: Path | None = None,
    count: int | None = None,
    preparation: Preparation | None = None,
) -> ImageSet:
    """Encode a folder, each image as often as its repeats say.

    Args:
        cache: a folder that keeps latents and masks.
        count: how many images shall be used in all, as a regularisation set has as many as there are images to
            learn: more are left out (by a draw that is always the same), fewer are repeated.
    """
    how, items = preparation or Preparation(), folder.items
    rows = [row for row, item in enumerate(items) for _ in range(item.repeats)]
    if count is not None:
        rows = sorted(np.resize(np.random.default_rng(0).permutation(rows), count).tolist())
    square_size = (base.image_size, base.image_size)
    sizes = assign([item.size for item in items], bucket_sizes(base) if how.buckets else [square_size])
    views = [View(item, size) for item, size in zip(items, sizes, strict=True)]
    mirrors = [View(view.item, view.size, flip=True) for view in views] if how.flip else []
    squares = [View(item, square_size) for item in items]
    found = iter(Encoder(base, cache).rows([*views, *mirrors, *squares], progress))
    plain, flipped, square = ([next(found) for _ in part] for part in (views, mirrors, squares))
    none = [None] * len(items)
    masks = none
    if how.masks or how.alpha_mask:
        cells = [tuple(side // base.vae_factor for side in size) for size in sizes]
        masks = read_masks(items, cells, how.masks, how.alpha_mask, cache)
    captions = [items[row].caption for row in rows]
    facts = [folder.fingerprint(), captions, [view.key for view in (*views, *mirrors)], how.masks, how.alpha_mask]
    facts.append([item.mask_digest for item in items])
    others = [items[row].others for row in rows]
    facts += [others] if any(others) else []
    facts += _size(base)
    return ImageSet(
        Latents(base.device, plain, flipped or none, masks).take(rows),
        Latents(base.device, square, none, none).take(rows),
        captions,
        hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        folder,
        rows,
        cache,
        [*_caption_notes(base, folder), *_notes(sizes, masks)],
        others,
    )


def _caption_notes(base: Base, folder: ImageFolder) -> list[str]:
    name, count, captions, notes = folder.root.absolute().name, len(folder), folder.captions, []
    if bare := captions.count(""):
        notes.append(
            f"{bare} of {count} images in {name} have no caption; they are learnt without words. Give "
            "one for all (caption)."
        )
    distinct = list(dict.fromkeys(captions))
    cut = {caption for caption, is_cut in zip(distinct, base.cuts(distinct), strict=True) if is_cut}
    if long := sum(caption in cut for caption in captions):
        notes.append(
            f"{long} of {count} captions in {name} are longer than the {base.tokenizer.model_max_length} tokens that "
            "the text encoder reads, and are cut. Say what matters first, or shorten them."
        )
    return notes


def _size(base: Base) -> list[int]:
    """What a fingerprint says of the images' size: nothing for the native one, as before there was another."""
    return [base.size] if base.size else []


def _notes(sizes: Sequence[Size], masks: Sequence[Row | None]) -> list[str]:
    masked, shapes = sum(mask is not None for mask in masks), Counter(sizes)
    notes = [f"Masks: {masked} of {len(masks)} images have one."] if masked else []
    if len(shapes) > 1:
        listed = ", ".join(f"{width}×{height} ({count})" for (width, height), count in shapes.most_common())
        notes.append(f"Buckets, in pixels (and how many images): {listed}.")
    return notes


def self_set(
    base: Base, prompts: Sequence[str], per_prompt: int, seed: int, progress: Progress | None = None
) -> ImageSet:
    """Let the base make the set: `per_prompt` images of each prompt (prior preservation, or all there is)."""
    import torch

    from ..sampling.generate import generate_batches

    captions = [prompt for prompt in prompts for _ in range(per_prompt)]
    seeds = [1_000_000 + seed + number for number in range(len(captions))]
    made = torch.cat([batch.latents for batch in generate_batches(base, captions, seeds, progress=progress)])
    facts = [base.identity, list(prompts), per_prompt, seed, *_size(base)]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    latents = Latents.of(made)
    return ImageSet(latents, latents, captions, digest)
