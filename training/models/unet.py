"""What Stable Diffusion's families share: a U-Net that predicts ε or v on DDPM's noise schedule, and CLIP."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .family import Family
from .lora import TARGETS, TEXT_TARGETS
from .text import Text

if TYPE_CHECKING:
    import torch

    from .base import Base

PREDICTIONS = ("epsilon", "v_prediction")


class UNetFamily(Family):
    """A family of latent diffusion models with a U-Net (arXiv 2112.10752)."""

    targets, text_targets = TARGETS, TEXT_TARGETS

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states."""
        return Text(base.text_encoder(ids["text_encoder"]).last_hidden_state)

    def latent_statistics(self, base: "Base") -> tuple[float, float]:
        """The VAE's scaling factor, without a shift."""
        return 0.0, base.vae.config.scaling_factor

    def noisy(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """x_t = √ᾱ x + √(1 − ᾱ) ε (DDPM, arXiv 2006.11239, eq. 4)."""
        signal = base.schedule[t].sqrt().view(-1, 1, 1, 1)
        return signal * latents + (1 - signal.square()).sqrt() * noise

    def target(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """ε, or v = √ᾱ ε − √(1 − ᾱ) x (arXiv 2202.00512)."""
        if base.prediction == "epsilon":
            return noise
        signal, spread = _rates(base, t)
        return signal * noise - spread * latents

    def noise(self, base: "Base", answer: "torch.Tensor", noisy: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """ε as it is; of v, ε = √ᾱ v + √(1 − ᾱ) x_t."""
        if base.prediction == "epsilon":
            return answer
        signal, spread = _rates(base, t)
        return signal * answer + spread * noisy

    def conditions(self, base: "Base", noisy: "torch.Tensor", text: Text) -> dict[str, Any]:
        """What the U-Net is told besides noisy latents, timesteps and token embeddings."""
        return {}

    def predict(self, base: "Base", noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """ε or v, whichever the base was trained for."""
        given = self.conditions(base, noisy, text)
        return base.unet(noisy.to(base.dtype), t, text.tokens.to(base.dtype), return_dict=False, **given)[0].float()

    def features(self, denoiser: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
        """The first and the last up-block.

        In their joint principal components gender, tone and style lie along straight lines (benchmarks/discovery.md).
        """
        return {"up0": denoiser.up_blocks[0], "last": denoiser.up_blocks[-1]}

    def h_space(self, denoiser: "torch.nn.Module") -> "torch.nn.Module":
        """The middle block."""
        return denoiser.mid_block


def _rates(base: "Base", t: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """√ᾱ and √(1 − ᾱ) at timesteps [B], as [B, 1, 1, 1]."""
    kept = base.schedule[t].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()
