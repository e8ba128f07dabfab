"""Images that are gathered over several runs, as a report on them needs them: what probes say, and a thumbnail."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ..core.image import fit
from ..probes.predict import attributes_of, check_probes, quality_probe, read_images, side_for
from ..probes.records import Condition, EvaluationData
from .contact_sheet import thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..groups.target import Target
    from ..probes.probe import Probe


@dataclass(frozen=True)
class ImageMeta:
    """Where an image comes from.

    Attributes:
        prompt: what it was asked to show.
        alpha: strength of the adapter, None if it does not apply.
        seed: of the noise of its batch, 0 or more; None if it is not known, and then the image stands alone.
        place: its place in the batch.
        name: of the condition, where α alone does not tell it.
    """

    prompt: str
    alpha: float | None = None
    seed: int | None = None
    place: int = 0
    name: str = ""


@dataclass(frozen=True)
class Look:
    """What is kept of an image: probabilities [K] of every probe, features [D] for its quality, a thumbnail."""

    probabilities: list[np.ndarray]
    features: np.ndarray
    thumbnail: str


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
            Look([given[row] for given in read.probabilities], read.features[row], thumbnail(image))
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
        return EvaluationData.of(
            [one.origin.prompt for one in seen],
            attributes_of(self._probes, self._targets, given),
            [Condition(one.origin.alpha, name=one.origin.name) for one in seen],
            [one.seed for one in seen],
            features=np.array([one.look.features for one in seen]),
            thumbnails=[one.look.thumbnail for one in seen],
            names=[one.name for one in seen],
        )


def _bare(probe: "Probe") -> "Probe":
    """What a report says of a probe, without the model that it looks with: a collection may stay for long."""
    bare = copy(probe)
    bare.network = bare.extractor = None
    return bare


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
