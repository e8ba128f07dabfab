"""Stable Diffusion 2.x: OpenCLIP ViT-H without its last layer; 512 pixels and ε, or 768 and v."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..family import TextEncoder
from ..unet import UNetFamily

if TYPE_CHECKING:
    from safetensors import safe_open

    from ..base import Base

# The bias by which ComfyUI tells v-prediction; its deviation is above .09 then.
TELLING_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


class SD2(UNetFamily):
    """Stable Diffusion 2.x."""

    name, title = "sd2", "Stable Diffusion 2.x"
    text_encoders: ClassVar = {"text_encoder": TextEncoder(prefix="cond_stage_model.model.", open_clip=True)}

    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """One text encoder, whose embeddings have OpenCLIP's width."""
        return "text_encoder_2" not in config and config["unet"].get("cross_attention_dim") == 1024

    def adapt(self, config: dict[str, dict[str, Any]], shapes: Mapping[str, Sequence[int]]) -> None:
        """Models that predict v make images of 768 pixels."""
        if config["scheduler"]["prediction_type"] == "v_prediction":
            config["unet"]["sample_size"] = 96

    def told_prediction(self, file: "safe_open") -> str | None:
        """By a bias that is larger where v is predicted."""
        if TELLING_BIAS not in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            return None
        return "v_prediction" if file.get_tensor(TELLING_BIAS).float().std(correction=0) > 0.09 else "epsilon"

    def architecture(self, base: "Base") -> str:
        """One for each size."""
        return f"stable-diffusion-v2-{'512' if base.prediction == 'epsilon' else '768-v'}/lora"


FAMILY = SD2()
