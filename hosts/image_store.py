"""Images that were generated to be measured, on disk: counts go on over queued runs, cancels and restarts."""

import io
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..debias.core.image import open_image
from ..debias.core.io import write_bytes, write_text
from ..debias.core.strict_json import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

# Longer sides are scaled down to this: probes look at less.
SIDE = 512


class ImageStore:
    """Images of one model and one setting, by prompt and seed: <outputs>/ddm/images/<digest>/<prompt>/<seed>.png.

    Args:
        outputs: the host's folder of outputs.
        settings: everything that the images depend on but prompt and seed.
    """

    def __init__(self, outputs: Path, settings: Mapping[str, Any]) -> None:
        self._settings = write_json(dict(settings), indent=1)
        self.subfolder = f"ddm/images/{_digest(self._settings)}"
        self.folder = outputs / self.subfolder

    def seeds(self, prompt: str) -> list[int]:
        """Seeds of the images of a prompt that are there, in order."""
        stems = (path.stem for path in self._place(prompt).glob("*.png"))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def stamp(self, prompt: str, seed: int) -> str:
        """Changes when the file of an image that is there is another one."""
        status = (path := self._place(prompt) / f"{seed}.png").stat()
        return f"{path} {status.st_mtime_ns} {status.st_size}"

    def add(self, prompt: str, seed: int, image: "Image") -> None:
        """Keep an image, whole or not at all."""
        settings = self.folder / "settings.json"
        if not settings.exists():
            write_text(settings, self._settings)
        image, buffer = image.copy(), io.BytesIO()
        image.thumbnail((SIDE, SIDE))
        image.save(buffer, "png")
        write_bytes(self._place(prompt) / f"{seed}.png", buffer.getvalue())

    def open(self, prompt: str, seed: int) -> "Image":
        """An image that is there.

        Raises:
            DDMError: its file can no longer be read.
        """
        return open_image(self._place(prompt) / f"{seed}.png")

    def _place(self, prompt: str) -> Path:
        from ..training.sampling.prompts import slugs

        return self.folder / f"{slugs([prompt])[prompt]}-{_digest(prompt)[:8]}"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
