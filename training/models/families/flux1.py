"""FLUX.1: T5 XXL, CLIP ViT-L's pooled embedding, and the guidance that the model was distilled with as an input."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ..family import TextEncoder
from ..flow import Grid, PackedFlowFamily
from ..text import Text

if TYPE_CHECKING:
    import torch

    from ..base import Base

# The guidance that images are usually made with, and that the model is told in training as well.
GUIDANCE = 3.5


class Flux1(PackedFlowFamily):
    """FLUX.1 dev and schnell (Black Forest Labs, 2024). Guidance (CFG) is not needed: give 1."""

    name, title, denoiser = "flux1", "FLUX.1", "FluxTransformer2DModel"
    blocks = "transformer_blocks"
    signature, converter = "vector_in.in_layer.weight", "convert_flux_transformer_checkpoint_to_diffusers"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("CLIP-L"),
        "text_encoder_2": TextEncoder("T5 XXL", kind="T5EncoderModel", tokenizer="T5TokenizerFast", length=512),
    }
    text_fields = ("tokens", "pooled")
    targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    targets += ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out")

    def architecture(self, base: "Base") -> str:
        """By whether it is told the guidance."""
        return f"flux-1-{'dev' if base.denoiser.config.guidance_embeds else 'schnell'}/lora"

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """T5's last hidden states, and CLIP's pooled ones."""
        pooled = base.text_encoder(ids["text_encoder"]).pooler_output
        return Text(base.text_encoders["text_encoder_2"](ids["text_encoder_2"])[0], pooled)

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens."""
        import torch

        config, length = base.denoiser.config, self.text_encoders["text_encoder_2"].length
        tokens = torch.empty(count, length, config.joint_attention_dim, device=base.device)
        return Text(tokens, torch.empty(count, config.pooled_projection_dim, device=base.device))

    def answer(self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: Text, grid: Grid) -> "torch.Tensor":
        """See `PackedFlowFamily.answer`; a token's place is told by (0, row, column)."""
        import torch

        places = torch.cartesian_prod(*(torch.arange(side) for side in (1, *grid))).to(tokens)
        words = tokens.new_zeros(text.tokens.shape[1], 3)
        told = tokens.new_full((len(tokens),), GUIDANCE) if base.denoiser.config.guidance_embeds else None
        said, pooled = (part.to(base.dtype) for part in (text.tokens, text.pooled))
        return base.denoiser(tokens, said, pooled, t.to(tokens), places, words, told, return_dict=False)[0]

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `answer`."""
        tokens, _, _, t, places, *_ = inputs
        sides = (2 * (int(side) + 1) for side in places[-1, 1:])
        return (len(tokens), tokens.shape[2] // 4, *sides), 1000 * float(t[0])


FAMILY = Flux1()
