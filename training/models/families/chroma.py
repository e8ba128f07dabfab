"""Chroma: FLUX.1's blocks with T5 XXL alone, of whose padding one token is read, and real guidance (CFG)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from ..family import TextEncoder
from ..flow import Grid, PackedFlowFamily
from ..text import Text
from .flux1 import Flux1

if TYPE_CHECKING:
    import torch

    from ..base import Base


class Chroma(PackedFlowFamily):
    """Chroma (Rock, 2025)."""

    name, title, denoiser = "chroma", "Chroma", "ChromaTransformer2DModel"
    blocks = "transformer_blocks"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("T5 XXL", kind="T5EncoderModel", tokenizer="T5TokenizerFast", length=512)
    }
    text_fields = ("tokens", "mask")
    targets = Flux1.targets

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "chroma-1/lora"

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """T5's last hidden states; the first token of the padding is said as well."""
        import torch

        ids = ids["text_encoder"]
        mask = ids != base.tokenizer.pad_token_id
        said = torch.arange(ids.shape[1], device=ids.device) <= mask.sum(1, keepdim=True)
        return Text(base.text_encoder(ids, attention_mask=mask)[0], mask=said)

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens said."""
        import torch

        length = self.text_encoders["text_encoder"].length
        tokens = torch.empty(count, length, base.denoiser.config.joint_attention_dim, device=base.device)
        return Text(tokens, mask=torch.ones(count, length, device=base.device).bool())

    def answer(self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: Text, grid: Grid) -> "torch.Tensor":
        """See `PackedFlowFamily.answer`; a token's place is told by (0, row, column).

        The mask is of truth values. Diffusers' pipeline gives numbers, which attention adds to what it compares.
        """
        import torch

        places = torch.cartesian_prod(*(torch.arange(side) for side in (1, *grid))).to(tokens)
        words = tokens.new_zeros(text.tokens.shape[1], 3)
        mask = torch.cat([text.mask.bool(), text.mask.new_ones(tokens.shape[:2]).bool()], 1)
        with _masked(base.denoiser, mask):
            said = text.tokens.to(base.dtype)
            return base.denoiser(tokens, said, t.to(tokens), places, words, mask, return_dict=False)[0]

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `answer`."""
        tokens, _, t, places, *_ = inputs
        sides = (2 * (int(side) + 1) for side in places[-1, 1:])
        return (len(tokens), tokens.shape[2] // 4, *sides), 1000 * float(t[0])


@contextmanager
def _masked(denoiser: Any, mask: "torch.Tensor") -> "Iterator[None]":
    """With checkpointing, diffusers' class forgets the mask in the blocks of one stream (0.42): they are given it."""
    before: Callable | None = denoiser._gradient_checkpointing_func
    if before:
        single = set(denoiser.single_transformer_blocks)
        denoiser._gradient_checkpointing_func = lambda block, *inputs: before(
            block, *inputs, *[mask] * (block in single)
        )
    try:
        yield
    finally:
        if before:
            denoiser._gradient_checkpointing_func = before


FAMILY = Chroma()
