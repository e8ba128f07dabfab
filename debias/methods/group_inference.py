"""Groups that nobody named: images are divided so that the model serves the groups as unequally as can be.

Group inference of invariant guidance (arXiv 2412.08480): the first half of a max–min game, in which the module is then
trained to serve all groups alike.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STEPS, RATE = 500, 0.01


def infer_groups(losses: np.ndarray, groups: int = 8, beta: float = 3.0, seed: int = 0) -> np.ndarray:
    """Find soft groups w ∈ Δ^{N×G} that maximise std_g(L_g) + β·min_g(n_g), L_g = Σ_i w_ig ℓ_i / Σ_i w_ig.

    n_g is the group's share of the images times G: a group that nobody is in would serve nobody badly.

    Args:
        losses: [N] denoising loss of each image, averaged over timesteps and noises.
        groups: G.
        beta: how much the smallest group counts.
        seed: of the start, which is nearly even.

    Returns:
        [N, G] rows that sum to 1.
    """
    import torch

    losses = torch.as_tensor((losses - losses.mean()) / max(losses.std(), 1e-12), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(losses), groups, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    for _ in range(STEPS):
        mass, means = _group_means(logits.softmax(1), losses)
        gain = means.std(correction=0) + beta * mass.min() * groups / len(losses)
        optimizer.zero_grad(set_to_none=True)
        (-gain).backward()
        optimizer.step()
    return logits.detach().softmax(1).double().numpy()


def invariant_loss(losses: "torch.Tensor", weights: "torch.Tensor", variance: float = 1.0) -> "torch.Tensor":
    """L = mean_g(L_g) + λ·Var_g(L_g) over the groups of a batch.

    Args:
        losses: [B] of the images.
        weights: [B, G] their membership.
        variance: λ.
    """
    _, means = _group_means(weights, losses)
    return means.mean() + variance * means.var(correction=0)


def _group_means(weights: "torch.Tensor", losses: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Mass [G] and mean loss [G] of each group."""
    mass = weights.sum(0)
    return mass, (weights * losses[:, None]).sum(0) / mass.clamp_min(1e-6)
