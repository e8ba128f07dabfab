"""Previews while a run trains: the same seeds at α = 0 and 1 under neutral prompts, as one image."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.core.io import remove_temporaries, write_bytes
from ..models.base import Base
from ..models.lora import lora_names

if TYPE_CHECKING:
    import numpy as np

ALPHAS = (0.0, 1.0)
STEPS = 12
SMALL = 128


@dataclass
class Previews:
    """Makes previews of a run.

    Args:
        base: with the LoRA that is being trained.
        captions: of the set; some of the distinct ones are the prompts.
        folder: where `step_<step>.png` goes.
        every: steps between two previews; there is one at the end as well.
        tell: called with the file and its step.
        seed: the first seed; previews of one run have the same seeds.
    """

    base: Base
    captions: Sequence[str]
    folder: Path
    every: int
    tell: Callable[[Path, int], None]
    seed: int = 0
    prompts: list[str] = field(init=False)
    rows: int = field(init=False)
    before: "np.ndarray | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        remove_temporaries(self.folder, "step_*.png")
        small = self.base.image_size <= SMALL
        columns, self.rows = (6, 2) if small else (3, 2) if self.base.device.type != "cpu" else (2, 1)
        distinct = list(dict.fromkeys(self.captions))
        # Of fewer captions than columns, each has several.
        self.prompts = [distinct[place * len(distinct) // columns] for place in range(columns)]

    def make(self, step: int, cancelled: Callable[[], bool] | None = None) -> None:
        """Make the preview of a step; nothing of the training changes. Once `cancelled` says True, none is made."""
        from PIL import Image

        from ...debias.rendering.image_grid import Block, draw_comparison
        from .generate import generate

        prompts = self.prompts * self.rows
        seeds = [self.seed + 3_000_000 + number for number in range(len(prompts))]
        blocks = []
        for alpha in ALPHAS:
            made = self.before if alpha == 0 else None
            if made is None:
                made = generate(
                    self.base,
                    prompts,
                    seeds,
                    alpha=alpha,
                    steps=STEPS,
                    bf16=self.base.half_is_native,
                    cancelled=cancelled,
                )
            if len(made) < len(prompts):
                return
            if alpha == 0 and "style" not in lora_names(self.base.denoiser):
                self.before = made  # without a style, α = 0 is the base, whatever has been trained
            tiles = [Image.fromarray(image) for image in made]
            rows = [tiles[start : start + len(self.prompts)] for start in range(0, len(tiles), len(self.prompts))]
            blocks.append(Block(f"α = {alpha:g}", f"step {step}" if alpha else "", rows))
        buffer = io.BytesIO()
        draw_comparison(self.prompts, blocks).save(buffer, "png")
        file = self.folder / f"step_{step:06}.png"
        write_bytes(file, buffer.getvalue())
        self.tell(file, step)
