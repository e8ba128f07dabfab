"""The host's CLIP_VISION model as a feature extractor for linear probes."""

import hashlib
from typing import Any

import numpy as np

from .progress import Progress

BATCH = 32


class ClipVision:
    """Turns images uint8 [N, H, W, 3] into image embeddings float32 [N, D] of length 1.

    Attributes:
        identity: names the weights, as probe files record it.
        size: side of the squares that the model reads, in pixels.
    """

    def __init__(self, model: Any):
        self.model = model
        self.size = int(getattr(model, "image_size", 224))
        self.identity = f"CLIP vision ({_hash(model)[:12]})"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embed images; can be cancelled after every batch."""
        import torch

        parts, progress = [], Progress(len(images))
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[start : start + BATCH]).float() / 255
            with torch.inference_mode():
                embedded = self.model.encode_image(pixels)["image_embeds"].float()
                parts.append(torch.nn.functional.normalize(embedded, dim=-1).cpu().numpy())
            progress(start + len(pixels))
        return np.concatenate(parts)


def _hash(model: Any) -> str:
    """A digest over names, shapes and the first values of every weight: large models need a moment otherwise."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.get_sd().items()):
        first = tensor.detach().flatten()[:256].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + first.tobytes())
    return digest.hexdigest()
