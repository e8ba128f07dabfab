"""FLUX.2 Klein: layers of Qwen3 side by side, a VAE whose latents are normalised by cells of two by two."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ..family import TextEncoder
from ..flow import STEPS, Grid, PackedFlowFamily, pack, unpack
from ..text import Text

if TYPE_CHECKING:
    import torch

    from ..base import Base

# How a prompt is put to Qwen3 without thinking; and the layers that are read.
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
READ = (9, 18, 27)


class Flux2(PackedFlowFamily):
    """FLUX.2 Klein 4B and 9B (Black Forest Labs, 2026): train on the base, sample with the distilled one."""

    name, title, denoiser = "flux2", "FLUX.2 Klein", "Flux2Transformer2DModel"
    vae = "AutoencoderKLFlux2"
    blocks = "transformer_blocks"
    text_encoders: ClassVar = {
        "text_encoder": TextEncoder("Qwen3", kind="Qwen3ForCausalLM", tokenizer="Qwen2Tokenizer", length=512)
    }
    targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    targets += ("linear_in", "linear_out", "attn.to_qkv_mlp_proj", "attn.to_out")

    def architecture(self, base: "Base") -> str:
        """By size."""
        return f"flux-2-klein-{'4b' if base.denoiser.config.num_attention_heads <= 24 else '9b'}/lora"

    def worded(self, prompts: Sequence[str]) -> list[str]:
        """As what a user says."""
        return [TEMPLATE.format(prompt) for prompt in prompts]

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """Three hidden states side by side; what pads a prompt is read as well."""
        import torch

        mask = ids["text_encoder"] != base.tokenizer.pad_token_id
        options = {"attention_mask": mask, "output_hidden_states": True, "use_cache": False}
        hidden = base.text_encoder(ids["text_encoder"], **options).hidden_states
        return Text(torch.cat([hidden[layer] for layer in READ], -1))

    def blank_text(self, base: "Base", count: int) -> Text:
        """All tokens."""
        import torch

        length, width = self.text_encoders["text_encoder"].length, base.denoiser.config.joint_attention_dim
        return Text(torch.empty(count, length, width, device=base.device))

    def shift(self, base: "Base", steps: int = STEPS) -> float:
        """As its authors found it to be best, by the size of images and the number of steps."""
        import math

        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return math.exp(compute_empirical_mu(self.tokens(base), steps))

    def latent_statistics(self, base: "Base") -> "tuple[torch.Tensor, torch.Tensor]":
        """Of tokens [4 C]: a batch norm's."""
        norm = base.vae.bn
        return norm.running_mean, (norm.running_var + base.vae.config.batch_norm_eps).rsqrt()

    def posterior(self, base: "Base", pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Normalised as tokens."""
        (shift, scale), found = self.latent_statistics(base), base.vae.encode(pixels).latent_dist
        grid = (found.mean.shape[2] // 2, found.mean.shape[3] // 2)
        return unpack((pack(found.mean) - shift) * scale, grid), unpack(pack(found.std) * scale, grid)

    def pixels(self, base: "Base", latents: "torch.Tensor") -> "torch.Tensor":
        """Normalised as tokens."""
        shift, scale = self.latent_statistics(base)
        grid = (latents.shape[2] // 2, latents.shape[3] // 2)
        return base.vae.decode(unpack(pack(latents) / scale + shift, grid)).sample

    def answer(self, base: "Base", tokens: "torch.Tensor", t: "torch.Tensor", text: Text, grid: Grid) -> "torch.Tensor":
        """See `PackedFlowFamily.answer`; a token's place is told by (0, row, column, 0), a word's by (0, 0, 0, n)."""
        import torch

        said = text.tokens.to(base.dtype)
        places, words = (
            torch.cartesian_prod(*(torch.arange(side, device=tokens.device) for side in sides))
            for sides in ((1, *grid, 1), (1, 1, 1, said.shape[1]))
        )
        places, words = (ids.expand(len(tokens), -1, -1) for ids in (places, words))
        return base.denoiser(tokens, said, t.to(tokens), places, words, None, return_dict=False)[0]

    def called(self, inputs: tuple) -> tuple[tuple[int, ...], float]:
        """As in `answer`."""
        tokens, _, t, places, *_ = inputs
        sides = (2 * (int(side) + 1) for side in places[0, -1, 1:3])
        return (len(tokens), tokens.shape[2] // 4, *sides), 1000 * float(t[0])


FAMILY = Flux2()
