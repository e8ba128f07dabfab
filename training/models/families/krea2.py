"""Krea 2, Raw and Turbo: twelve layers of Qwen3-VL 4B, the VAE of Qwen-Image, one stream of text and image tokens."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ..diffusers_folder import read_config
from ..family import TextEncoder
from ..flow import STEPS, Grid
from ..text import Text
from .qwen_image import BEFORE, QwenImage

if TYPE_CHECKING:
    import torch

    from ..base import Base

# The layers of the text encoder that are read; the blocks, and what a LoRA changes in each.
LAYERS, BLOCKS = range(2, 36, 3), 28
CHANGED = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_gate", "attn.to_out.0", "ff.gate", "ff.up", "ff.down")


class Krea2(QwenImage):
    """Krea 2 (2026), with Qwen-Image's latents. An adapter is trained on Raw; it works on Turbo as well."""

    name, title, denoiser = "krea2", "Krea 2", "Krea2Transformer2DModel"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("Qwen3-VL 4B", kind="Qwen3VLModel", tokenizer="Qwen2Tokenizer", length=BEFORE + 512)
    }
    text_first = True
    # Not those that fuse the layers of the text: their rows are tokens, and a strength is an image's.
    targets = tuple(f"transformer_blocks.{block}.{layer}" for block in range(BLOCKS) for layer in CHANGED)

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "krea-2/lora"

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """A token's hidden states side by side, without those of the template's beginning."""
        import torch

        mask = ids["text_encoder"] != base.tokenizer.pad_token_id
        read = base.text_encoder(ids["text_encoder"], attention_mask=mask, output_hidden_states=True).hidden_states
        return Text(torch.cat([read[layer][:, BEFORE:] for layer in LAYERS], -1), mask=mask[:, BEFORE:])

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens said."""
        import torch

        length, config = self.text_encoders["text_encoder"].length - BEFORE, base.denoiser.config
        width = config.num_text_layers * config.text_hidden_dim
        return Text(torch.empty(count, length, width, device=base.device))

    def shift(self, base: "Base", steps: int = STEPS) -> float:
        """Turbo's is that of the largest image, whatever the size."""
        if base.path.is_dir() and read_config(base.path, "", "model_index.json").get("is_distilled"):
            return math.exp(base.scheduler.config.max_shift)
        return super().shift(base, steps)

    def answer(self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: Text, grid: Grid) -> "torch.Tensor":
        """See `PackedFlowFamily.answer`; a token's place is told by (0, row, column), and a word's by zeros."""
        import torch

        places = torch.cartesian_prod(*(torch.arange(side) for side in (1, *grid))).to(tokens)
        places = torch.cat([places.new_zeros(text.tokens.shape[1], 3), places])
        said = text.tokens.to(base.dtype).unflatten(-1, (base.denoiser.config.num_text_layers, -1))
        mask = None if text.mask is None else text.mask.bool()
        return base.denoiser(tokens, said, t.to(tokens), places, mask, return_dict=False)[0]

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `answer`."""
        tokens, _, t, places, _ = inputs
        sides = (2 * (int(side) + 1) for side in places[-1, 1:])
        return (len(tokens), tokens.shape[2] // 4, *sides), 1000 * float(t[0])


FAMILY = Krea2()
