"""What nodes measure: the images of a MODEL, generated with the conditioning of every prompt (`hosts.measurement`)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths

from ..debias.core.error import DDMError
from ..hosts import measurement
from ..hosts.image_store import ImageStore
from .generation import Generator, SamplerSettings, Step
from .native import BASE_HASH
from .progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from .upstream import Upstream


@dataclass(frozen=True)
class ModelImages:
    """A MODEL with the conditioning of every prompt, as `hosts.measurement.Generator`."""

    generator: Generator
    model: Any
    conditioning: Mapping[str, tuple[list, list]]

    @property
    def steps(self) -> int:
        """Of sampling."""
        return self.generator.settings.steps

    def batches(self, seeds: Sequence[int]) -> list[Sequence[int]]:
        """The seeds in batches that fit into memory."""
        return self.generator.batches(self.model, seeds)

    def generate(self, prompt: str, seeds: Sequence[int], step: Step) -> "list[Image]":
        """Images of a batch of seeds."""
        from ..debias.core.image import from_pixels

        pixels = self.generator.generate(self.model, *self.conditioning[prompt], seeds, step)
        return list(map(from_pixels, pixels.cpu().numpy()))


def store_of(
    model: Any, upstream: "Upstream", settings: SamplerSettings, adapter: str = "", alpha: float = 0.0
) -> ImageStore:
    """Where the images of a node's model and settings are kept.

    Args:
        upstream: of a node with the inputs model, clip and vae, and perhaps positive and negative.
        adapter: stamp of a file that the node itself puts on at strength `alpha`.
    """
    above = upstream.digest("model", "clip", "vae", "positive", "negative")
    base = model.attachments.get(BASE_HASH, "")
    patched = {"adapter": adapter, "alpha": alpha} if alpha else {}
    outputs = Path(folder_paths.get_output_directory())
    return ImageStore(outputs, {"model": above, "base": base, **asdict(settings), **patched})


def conditioning(
    names: Sequence[str], clip: Any, positive: list | None, negative: list | None
) -> dict[str, tuple[list, list]]:
    """Positive and negative conditioning of every prompt; without any for the negative, that of the empty prompt.

    Raises:
        DDMError: there is neither a CLIP nor a negative conditioning.
    """

    def encode(text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    if negative is None:
        if clip is None:
            raise DDMError("There is no negative conditioning. Connect negative, or clip for an empty one.")
        negative = encode("")
    return {name: (positive if positive is not None else encode(name), negative) for name in names}


def generate(
    variants: Sequence[measurement.Variant], seeds: Mapping[str, Sequence[int]], node: str | None = None
) -> None:
    """Make the images that are missing; the panel of a node that has one shows the progress.

    Raises:
        InterruptProcessingException: the user cancelled.
    """
    measurement.generate(variants, seeds, partial(_progress, node))


def _progress(node: str | None, total: int, done: int) -> Progress:
    return Progress(total, node, "Generating", done)
