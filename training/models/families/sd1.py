"""Stable Diffusion 1.x: CLIP ViT-L, 512 pixels, ε."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..family import TextEncoder
from ..unet import UNetFamily

if TYPE_CHECKING:
    from ..base import Base


class SD1(UNetFamily):
    """Stable Diffusion 1.x, and the small models that are built like it."""

    name, title = "sd1", "Stable Diffusion 1.x"
    text_encoders: ClassVar = {"text_encoder": TextEncoder(prefix="cond_stage_model.transformer.")}

    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """One text encoder of CLIP's kind, which is not SD 2.x's."""
        return "text_encoder_2" not in config and config["unet"].get("cross_attention_dim") != 1024

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "stable-diffusion-v1/lora"


FAMILY = SD1()
