"""What Stable Diffusion's families share: a U-Net that predicts ε or v on DDPM's noise schedule, and CLIP."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...debias.groups.noise import ddpm_rates
from .family import PREDICTIONS, Family
from .lora import TARGETS, TEXT_TARGETS
from .text import Text
from .tokenizer import LENGTH

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import SchedulerMixin

    from ...debias.methods.h_space import HSpace
    from .base import Base


class UNetFamily(Family):
    """A family of latent diffusion models with a U-Net (arXiv 2112.10752)."""

    part, denoiser, scheduler = "unet", "UNet2DConditionModel", "DDPMScheduler"
    predictions = PREDICTIONS
    targets, text_targets = TARGETS, TEXT_TARGETS
    chunked = skips_layers = True

    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> Text:
        """The last hidden states, or with clip skip earlier ones through the last normalisation, as the hosts do."""
        encoder, ids = base.text_encoder, ids["text_encoder"]
        if not base.clip_skip:
            return Text(encoder(ids).last_hidden_state)
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-base.clip_skip]
        # Before transformers 5 it is a part of a part.
        return Text(getattr(encoder, "text_model", encoder).final_layer_norm(hidden))

    def blank_text(self, base: "Base", count: int) -> Text:
        """One chunk."""
        import torch

        return Text(torch.empty(count, LENGTH, base.denoiser.config.cross_attention_dim, device=base.device))

    def latent_statistics(self, base: "Base") -> tuple[float, float]:
        """The VAE's scaling factor, without a shift."""
        return 0.0, base.vae.config.scaling_factor

    def native_size(self, base: "Base") -> int:
        """The latents' side in the U-Net's configuration, in pixels."""
        return base.denoiser.config.sample_size * base.vae_factor

    def side_step(self, base: "Base") -> int:
        """What the VAE shrinks and the U-Net halves (64 for SD 1.5)."""
        return base.vae_factor * 2 ** (len(base.denoiser.config.block_out_channels) - 1)

    def prediction(self, base: "Base") -> str:
        """As the scheduler's configuration says."""
        return base.scheduler.config.prediction_type

    def schedule(self, base: "Base") -> "torch.Tensor":
        """The scheduler's."""
        return base.scheduler.alphas_cumprod.to(base.device)

    def timesteps(self, base: "Base", shares: "np.ndarray", plain: bool = False) -> "np.ndarray":
        """Integers; drawn evenly for a style, and with density ∝ t for the adapter.

        Who is in an image is decided while there is much noise; the later steps have little to say of it.
        """
        import numpy as np

        return ((shares if plain else np.sqrt(shares)) * len(base.schedule)).astype(int)

    def rates(self, base: "Base", t: float) -> tuple[float, float]:
        """√ᾱ and √(1 − ᾱ)."""
        return ddpm_rates(base.scheduler.alphas_cumprod)(t)

    def gradient_scales(self, base: "Base", timesteps: "torch.Tensor") -> "torch.Tensor":
        """See `gradient_scales`."""
        return gradient_scales(base.scheduler.alphas_cumprod, timesteps, base.prediction)

    def solver(self, base: "Base") -> "SchedulerMixin":
        """DPM-Solver++(2M) (arXiv 2211.01095) on the noise schedule that the base was trained with."""
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler.from_config(
            dict(base.scheduler.config), algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="linspace"
        )

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
        return base.denoiser(noisy.to(base.dtype), t, text.tokens.to(base.dtype), return_dict=False, **given)[0].float()

    def features(self, denoiser: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
        """The first and the last up-block.

        In their joint principal components gender, tone and style lie along straight lines (benchmarks/discovery.md).
        """
        return {"up0": denoiser.up_blocks[0], "last": denoiser.up_blocks[-1]}

    def hidden(self, output: "torch.Tensor | tuple", latents: "Sequence[int]") -> "torch.Tensor":
        """[B, C, h, w]; a block that goes down gives what it passes on besides."""
        return output[0] if isinstance(output, tuple) else output

    def h_space(self, denoiser: "torch.nn.Module") -> "HSpace":
        """The middle block."""
        from ...debias.methods.h_space import HSpace

        return HSpace(denoiser.mid_block)


def _rates(base: "Base", t: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """√ᾱ and √(1 − ᾱ) at timesteps [B], as [B, 1, 1, 1]."""
    kept = base.schedule[t].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


def gradient_scales(alphas_cumprod: "torch.Tensor", timesteps: "torch.Tensor", prediction: str) -> "torch.Tensor":
    """The inverse of a prediction's weight in the final latent, over its geometric mean: every step counts alike.

    Of ε it is √ᾱ_t √(1 − ᾱ_t) / (1 − α_t) (2311.07604, eq. 10). Of v the paper says nothing: with cos φ_t = √ᾱ_t, a
    step of DDIM from t to s is x_s = cos(φ_t − φ_s) x_t − sin(φ_t − φ_s) v, so it is 1 / sin(φ_t − φ_{t−1}).

    Args:
        alphas_cumprod: [T] ᾱ of the base's training schedule.
        timesteps: [S] integers.
        prediction: "epsilon" or "v_prediction".

    Returns:
        [S], float32.
    """
    import torch

    kept, at = alphas_cumprod.double(), timesteps.long().to(alphas_cumprod.device)
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
    if prediction == "epsilon":
        scales = (kept * (1 - kept)).sqrt() / (1 - kept / before)
    else:
        scales = 1 / torch.sin(kept.sqrt().acos() - before.sqrt().acos())
    scales = scales[at]
    # Where the last step is noise alone (arXiv 2305.08891), ᾱ = 0 and ε teaches nothing.
    return (scales / scales[scales > 0].log().mean().exp()).float()
