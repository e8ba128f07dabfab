"""The indicator of *Debiasing Diffusion Model* (arXiv 2503.12536), literally: it reads the predicted noise in training.

Its loss asks the noise prediction to tell the group, not to be balanced; it is kept to compare with.
"""

import torch
import torch.nn.functional as F
from torch import nn


class DDMIndicator(nn.Module):
    """C: flattened ε̂ → 1024 → ReLU → 512 → ReLU → K logits.

    Args:
        size: numbers in one ε̂ (C·h·w).
        classes: K.
        seed: of its weights.
    """

    def __init__(self, size: int, classes: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(size, 1024),
                nn.ReLU(),
                nn.Linear(1024, 512),
                nn.ReLU(),
                nn.Linear(512, classes),
            )

    def forward(self, predicted: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of predicted noise [B, C, h, w]."""
        return self.layers(predicted)


def paper_loss(
    predicted: torch.Tensor, noise: torch.Tensor, logits: torch.Tensor, classes: torch.Tensor, alpha: float
) -> torch.Tensor:
    """(1 − α)·mean‖ε̂ − ε‖² + α·CE(C(ε̂), y) of each image [B].

    Args:
        predicted, noise: ε̂ and ε [B, C, h, w].
        logits: C(ε̂) [B, K].
        classes: y [B].
        alpha: the weight of the indicator, fixed in training; not the strength α of an adapter.
    """
    error = (predicted - noise).square().mean((1, 2, 3))
    return (1 - alpha) * error + alpha * F.cross_entropy(logits, classes, reduction="none")


def indicator_entropy(logits: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation over images of the entropy, in nats, of softmax C(ε̂), for logits [B, K]."""
    logs = logits.log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)
    return float(entropy.mean()), float(entropy.std(correction=0))
