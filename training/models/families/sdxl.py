"""SDXL: CLIP ViT-L and OpenCLIP ViT-bigG side by side, 1024 pixels, told the image's size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..family import TextEncoder
from ..text import Text
from ..unet import UNetFamily

if TYPE_CHECKING:
    import torch

    from ..base import Base


class SDXL(UNetFamily):
    """SDXL's base model (arXiv 2307.01952)."""

    name, title = "sdxl", "SDXL"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder(prefix="conditioner.embedders.0.transformer."),
        "text_encoder_2": TextEncoder(prefix="conditioner.embedders.1.model.", open_clip=True, projected=True),
    }
    text_fields = ("tokens", "pooled")
    skips_layers = False

    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """Two text encoders."""
        return "text_encoder_2" in config

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "stable-diffusion-xl-v1-base/lora"

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states but one of both, side by side, and the second's projected embedding (section 2.1)."""
        import torch

        first, second = (base.text_encoders[name](ids[name], output_hidden_states=True) for name in self.text_encoders)
        return Text(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds)

    def blank_text(self, base: "Base", count: int) -> Text:
        """The pooled embedding too, which shares its layer with six embedded numbers."""
        import torch

        config = base.denoiser.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return Text(super().blank_text(base, count).tokens, torch.empty(count, pooled, device=base.device))

    def conditions(self, base: "Base", noisy: "torch.Tensor", text: Text) -> dict[str, Any]:
        """The pooled embedding; and that the image has the size of the latents and was not cropped."""
        size = noisy.new_zeros(len(noisy), 6)  # filled on the device, which need not be waited for
        size[:, ::4], size[:, 1::4] = (side * base.vae_factor for side in noisy.shape[2:])
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": size}}


FAMILY = SDXL()
