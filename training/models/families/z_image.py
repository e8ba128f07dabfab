"""Z-Image and Z-Image Turbo: Qwen3 4B, the VAE of FLUX.1, one stream of text and image tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ..family import TextEncoder
from ..flow import FlowFamily
from ..text import Text

if TYPE_CHECKING:
    import torch

    from ..base import Base

# How a prompt is put to Qwen3, as diffusers and ComfyUI do.
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


class ZImage(FlowFamily):
    """Z-Image (arXiv 2511.22699). An adapter is trained on the base; it works on Turbo as well."""

    name, title, denoiser = "z_image", "Z-Image", "ZImageTransformer2DModel"
    blocks = "layers"
    signature = "noise_refiner.0.attention.k_norm.weight"
    converter = "convert_z_image_transformer_checkpoint_to_diffusers"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("Qwen3 4B", kind="Qwen3Model", tokenizer="Qwen2Tokenizer", length=512)
    }
    text_fields = ("tokens", "mask")
    targets = ("to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "z-image/lora"

    def worded(self, prompts: Sequence[str]) -> list[str]:
        """As what a user says."""
        return [TEMPLATE.format(prompt) for prompt in prompts]

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states but one."""
        mask = ids["text_encoder"] != base.tokenizer.pad_token_id
        read = base.text_encoder(ids["text_encoder"], attention_mask=mask, output_hidden_states=True)
        return Text(read.hidden_states[-2], mask=mask)

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens said."""
        import torch

        length, width = self.text_encoders["text_encoder"].length, base.denoiser.config.cap_feat_dim
        return Text(torch.empty(count, length, width, device=base.device), mask=torch.ones(count, length).bool())

    def predict(self, base: "Base", noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """The velocity: the transformer's time runs the other way, and so does its answer."""
        import torch

        images = list(noisy.to(base.dtype).unsqueeze(2))
        said = [tokens[mask] for tokens, mask in zip(text.tokens.to(base.dtype), text.mask.bool(), strict=True)]
        answer = base.denoiser(images, 1 - t.expand(len(noisy)) / 1000, said, return_dict=False)[0]
        return -torch.stack(answer).squeeze(2).float()

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `predict`."""
        images, time, _ = inputs
        return (len(images), *images[0].shape), 1000 * (1 - float(time[0]))


FAMILY = ZImage()
