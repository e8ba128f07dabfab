"""Stable Diffusion 3 and 3.5: CLIP ViT-L and OpenCLIP ViT-bigG, and T5 XXL where it is there."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..family import TextEncoder
from ..flow import FlowFamily
from ..text import Text
from ..tokenizer import LENGTH

if TYPE_CHECKING:
    import torch

    from ..base import Base


class SD3(FlowFamily):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

    name, title, denoiser = "sd3", "Stable Diffusion 3", "SD3Transformer2DModel"
    blocks = "transformer_blocks"
    signature, converter = "joint_blocks.0.x_block.attn.qkv.weight", "convert_sd3_transformer_checkpoint_to_diffusers"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("CLIP-L", projected=True),
        "text_encoder_2": TextEncoder("CLIP-G", projected=True),
        "text_encoder_3": TextEncoder(
            "T5 XXL", kind="T5EncoderModel", tokenizer="T5TokenizerFast", length=256, optional=True
        ),
    }
    text_fields = ("tokens", "pooled")
    targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    targets += ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

    def adapt(self, config: dict[str, dict[str, Any]], shapes: Mapping[str, Sequence[int]]) -> None:
        """The sizes of medium and large, and what 3.5 has more."""
        blocks = [
            name.removesuffix(".x_block.attn.qkv.weight") for name in shapes if name.endswith("x_block.attn.qkv.weight")
        ]
        width, head = shapes["context_embedder.weight"][0], config["transformer"]["attention_head_dim"]
        config["transformer"] |= {
            "num_layers": len(blocks),
            "num_attention_heads": width // head,
            "caption_projection_dim": width,
            "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
            "dual_attention_layers": [
                number for number in range(len(blocks)) if f"joint_blocks.{number}.x_block.attn2.qkv.weight" in shapes
            ],
            "qk_norm": "rms_norm" if f"{blocks[0]}.x_block.attn.ln_q.weight" in shapes else None,
        }

    def architecture(self, base: "Base") -> str:
        """By size; 3.5 has norms of queries and keys, which 3 has not."""
        config = base.denoiser.config
        size = "large" if config.num_layers > 30 else "medium"
        return f"stable-diffusion-v3{'.5' if config.qk_norm else ''}-{size}/lora"

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states but one of both CLIPs side by side, then T5's; and both projected embeddings.

        Without T5 there are zeros in its place, as in diffusers' pipeline.
        """
        import torch
        from torch.nn.functional import pad

        names = list(self.text_encoders)[:2]
        clips = [base.text_encoders[name](ids[name], output_hidden_states=True) for name in names]
        tokens = torch.cat([clip.hidden_states[-2] for clip in clips], -1)
        width, length = base.denoiser.config.joint_attention_dim, self.text_encoders["text_encoder_3"].length
        tokens = pad(tokens, (0, width - tokens.shape[-1]))
        t5 = base.text_encoders.get("text_encoder_3")
        more = t5(ids["text_encoder_3"])[0] if t5 else tokens.new_zeros(len(tokens), length, width)
        return Text(torch.cat([tokens, more], 1), torch.cat([clip.text_embeds for clip in clips], -1))

    def blank_text(self, base: "Base", count: int) -> Text:
        """77 tokens of the CLIPs, then T5's."""
        import torch

        config, length = base.denoiser.config, LENGTH + self.text_encoders["text_encoder_3"].length
        tokens = torch.empty(count, length, config.joint_attention_dim, device=base.device)
        return Text(tokens, torch.empty(count, config.pooled_projection_dim, device=base.device))

    def predict(self, base: "Base", noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """The velocity."""
        tokens, pooled = (part.to(base.dtype) for part in (text.tokens, text.pooled))
        t = t.expand(len(noisy))
        return base.denoiser(noisy.to(base.dtype), tokens, pooled, t, return_dict=False)[0].float()

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `predict`."""
        noisy, _, _, t = inputs
        return tuple(noisy.shape), float(t[0])


FAMILY = SD3()
