"""Min-SNR weights of the loss over timesteps: Hang et al. 2023, arXiv 2303.09556."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def min_snr_weight(alphas_cumprod: "torch.Tensor", gamma: float, prediction: str = "epsilon") -> "torch.Tensor":
    """Loss weights [T], one per timestep: min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for v (equation 6 and below).

    Args:
        alphas_cumprod: [T] ᾱ; SNR = ᾱ/(1 − ᾱ).
        gamma: γ; the paper takes 5.
        prediction: "epsilon" or "v_prediction".
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)
