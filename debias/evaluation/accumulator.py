"""Images that are gathered over several runs, as a report on them needs them: what probes say, and a thumbnail."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ..core.error import printable
from ..core.image import fit
from ..probes.predict import attributes_of, check_probes, not_counted, quality_probe, read_images, side_for
from ..probes.records import Condition, EvaluationData
from .contact_sheet import thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..groups.target import Target
    from ..probes.probe import Probe


LONGEST_SETTING = 80  # characters of what a label says of a setting


@dataclass(frozen=True)
class ImageMeta:
    """Where an image comes from.

    Attributes:
        prompt: what it was asked to show.
        alpha: strength of the adapter, None if it does not apply.
        seed: of the noise of its batch, 0 or more; None if it is not known, and then the image stands alone.
        place: its place in the batch.
        adapter: which one, where α is not 0; at 0 all adapters are alike.
        made: name and value of everything else that changes the image: the checkpoint, the negative prompt, the size …
    """

    prompt: str
    alpha: float | None = None
    seed: int | None = None
    place: int = 0
    adapter: str = ""
    made: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Look:
    """What is kept of an image: probabilities [K] of every probe, features [D] for its quality, a thumbnail.

    `blank` and `coarse` tell whether it shows nothing, or what another one does (see `Predictions`).
    """

    probabilities: list[np.ndarray]
    features: np.ndarray
    thumbnail: str
    blank: bool
    coarse: np.ndarray


@dataclass(frozen=True)
class _Seen:
    origin: ImageMeta
    seed: int
    name: str
    look: Look


class Accumulator:
    """Images as probes saw them; neither the images nor the models behind the probes are kept.

    The same image of the same origin counts once, however often it is added.
    """

    def __init__(self, probes: "Sequence[Probe]", targets: "Sequence[Target | None]"):
        """Start an empty one.

        Args:
            probes: the first is for the attribute that the report is on.
            targets: a target or None for each probe.

        Raises:
            DDMError: two probes for one attribute, or a target over other classes than its probe's.
        """
        check_probes(probes, targets)
        self._probes, self._targets = tuple(_bare(probe) for probe in probes), tuple(targets)
        self._seen: dict[bytes, _Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(
        self,
        probes: "Sequence[Probe]",
        images: "Sequence[Image]",
        origins: Sequence[ImageMeta],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Look at RGB images [N] of the given origins [N], and return how many of them are new.

        Args:
            probes: those that the collection was started with, or the same ones opened again.
            images: of any size.
            origins: one for each image.
            progress: called with the new images done. If it raises, none of them is kept.

        Raises:
            DDMError: a probe cannot read images, for want of its extractor.
        """
        new: dict[bytes, tuple[Image, ImageMeta]] = {}
        for image, origin in zip(images, origins, strict=True):
            key = _digest(image, origin)
            if key not in self._seen:
                new[key] = (image, origin)
        if not new:
            return 0
        looks = self.look(
            probes, *zip(*((image, origin.prompt) for image, origin in new.values()), strict=True), progress
        )
        for row, ((key, (_, origin)), look) in enumerate(zip(new.items(), looks, strict=True)):
            self._seen[key] = _Seen(origin, _noise(origin, key), _name(origin, row), look)
        return len(new)

    def look(
        self,
        probes: "Sequence[Probe]",
        images: "Sequence[Image]",
        prompts: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[Look]:
        """What the probes say of RGB images [N] of any size and prompts [N]; else as in `add`."""
        side, eye = side_for(probes), quality_probe(probes, self._targets)
        read = read_images((np.asarray(fit(image, side)) for image in images), probes, eye, progress, prompts)
        return [
            Look(
                [given[row] for given in read.probabilities],
                read.features[row],
                thumbnail(image),
                bool(read.blank[row]),
                read.coarse[row],
            )
            for row, image in enumerate(images)
        ]

    def add_looks(self, looks: Sequence[Look], origins: Sequence[ImageMeta]) -> None:
        """Add images [N] of known seeds that were looked at before."""
        for look, origin in zip(looks, origins, strict=True):
            key = repr(origin).encode("utf-8", "surrogatepass")
            self._seen[key] = _Seen(origin, _noise(origin, key), _name(origin, 0), look)

    def records(self) -> EvaluationData:
        """Everything that was seen so far.

        Raises:
            DDMError: nothing was.
        """
        seen = list(self._seen.values())
        given = [np.array([one.look.probabilities[i] for one in seen]) for i in range(len(self._probes))]
        if not seen:
            given = [np.zeros((0, len(probe.names))) for probe in self._probes]
        names, kinds = [one.name for one in seen], [replace(one.origin, seed=None, place=0) for one in seen]
        blank, coarse = np.array([one.look.blank for one in seen], bool), np.array([one.look.coarse for one in seen])
        left_out, notes = not_counted(names, blank, coarse, kinds)
        differing, common = _settings([one.origin for one in seen])
        return EvaluationData.of(
            [one.origin.prompt for one in seen],
            attributes_of(self._probes, self._targets, [np.where(left_out[:, None], 0, one) for one in given]),
            [Condition(one.origin.alpha, made=made) for one, made in zip(seen, differing, strict=True)],
            [one.seed for one in seen],
            notes=notes + ([f"All images were made with: {common}."] if common else []),
            features=np.array([one.look.features for one in seen]),
            thumbnails=[one.look.thumbnail for one in seen],
            names=names,
        )


def _bare(probe: "Probe") -> "Probe":
    """What a report says of a probe, without the model that it looks with: a collection may stay for long."""
    bare = copy(probe)
    bare.network = bare.extractor = None
    return bare


def _settings(origins: Sequence[ImageMeta]) -> tuple[list[str], str]:
    """What each image was made with of what is not the same for all, in words; and what is the same."""
    settings = [dict(one.made) | ({"adapter": one.adapter} if one.adapter else {}) for one in origins]
    names = dict.fromkeys(name for own in settings for name in own)
    values = {name: dict.fromkeys(own.get(name, "") for own in settings) for name in names}
    if "adapter" in names:  # an image without one belongs to any
        values["adapter"].pop("", None)

    def said(own: Mapping[str, str], several: bool) -> str:
        pairs = ((name, own.get(name)) for name in names if (len(values[name]) > 1) == several)
        return ", ".join(_setting(name, value) for name, value in pairs if value)

    return [said(own, True) for own in settings], said({name: next(iter(values[name])) for name in names}, False)


def _setting(name: str, value: str) -> str:
    """A setting in words; of a long one a part, and a digest of the whole, so that two are never taken for one."""
    text = f"{name} {value}"
    if len(text) <= LONGEST_SETTING:
        return printable(text)
    whole = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{printable(text, LONGEST_SETTING)} ({whole})"


def _digest(image: "Image", origin: ImageMeta) -> bytes:
    digest = blake2b(repr((image.size, origin)).encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def _noise(origin: ImageMeta, key: bytes) -> int:
    """A number that images of one noise share: of their seed and place, or of the image alone (then below 0)."""
    if origin.seed is None:
        return -1 - (int.from_bytes(key[:8], "little") >> 2)
    text = f"{origin.seed}:{origin.place}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 2


def _name(origin: ImageMeta, row: int) -> str:
    if origin.seed is None:
        return f"image {row + 1}"
    return f"seed {origin.seed}" + (f", image {origin.place + 1}" if origin.place else "")
