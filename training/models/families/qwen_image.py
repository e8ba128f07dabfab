"""Qwen-Image: Qwen2.5-VL 7B, a VAE for videos of one image, two streams of text and image tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ..family import TextEncoder
from ..flow import Grid, PackedFlowFamily
from ..text import Text

if TYPE_CHECKING:
    import torch

    from ..base import Base

# How a prompt is put to Qwen2.5-VL, as diffusers and ComfyUI do; of what it answers, so many tokens are left out.
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
BEFORE = 34


class QwenImage(PackedFlowFamily):
    """Qwen-Image (arXiv 2508.02324)."""

    name, title, denoiser = "qwen_image", "Qwen-Image", "QwenImageTransformer2DModel"
    vae = "AutoencoderKLQwenImage"
    blocks = "transformer_blocks"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder(
            "Qwen2.5-VL 7B",
            kind="Qwen2_5_VLForConditionalGeneration",
            tokenizer="Qwen2Tokenizer",
            length=BEFORE + 512,
        )
    }
    text_fields = ("tokens", "mask")
    targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    targets += ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

    def architecture(self, base: "Base") -> str:
        """There is one."""
        return "qwen-image/lora"

    def worded(self, prompts: Sequence[str]) -> list[str]:
        """As what a user says."""
        return [TEMPLATE.format(prompt) for prompt in prompts]

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states, without those of the template's beginning."""
        mask = ids["text_encoder"] != base.tokenizer.pad_token_id
        read = base.text_encoder(ids["text_encoder"], attention_mask=mask, output_hidden_states=True)
        return Text(read.hidden_states[-1][:, BEFORE:], mask=mask[:, BEFORE:])

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens said."""
        import torch

        length, width = self.text_encoders["text_encoder"].length - BEFORE, base.denoiser.config.joint_attention_dim
        return Text(torch.empty(count, length, width, device=base.device))

    def vae_factor(self, base: "Base") -> int:
        """It halves at each of these."""
        return 2 ** len(base.vae.config.temperal_downsample)

    def latent_statistics(self, base: "Base") -> "tuple[torch.Tensor, torch.Tensor]":
        """The VAE's own for each channel, of a video [N, C, 1, h, w]."""
        import torch

        mean, std = (
            torch.tensor(values, device=base.device).view(1, -1, 1, 1, 1)
            for values in (base.vae.config.latents_mean, base.vae.config.latents_std)
        )
        return mean, 1 / std

    def posterior(self, base: "Base", pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Of videos of one image."""
        mean, std = super().posterior(base, pixels.unsqueeze(2))
        return mean.squeeze(2), std.squeeze(2)

    def pixels(self, base: "Base", latents: "torch.Tensor") -> "torch.Tensor":
        """Of videos of one image."""
        return super().pixels(base, latents.unsqueeze(2)).squeeze(2)

    def answer(self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: Text, grid: Grid) -> "torch.Tensor":
        """See `PackedFlowFamily.answer`; the sides are told, and which words are said."""
        said, shapes = text.tokens.to(base.dtype), [[(1, *grid)]] * len(tokens)
        mask = None if text.mask is None else text.mask.bool()
        return base.denoiser(tokens, said, mask, t.to(tokens), shapes, return_dict=False)[0]

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `answer`."""
        tokens, _, _, t, shapes = inputs
        return (len(tokens), tokens.shape[2] // 4, *(2 * side for side in shapes[0][0][1:])), 1000 * float(t[0])


FAMILY = QwenImage()
