"""The host's CLIP text encoder as embeddings of texts in the space of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..debias.core.error import DDMError

# Of a CLIP with several encoders, that which images are compared with.
ENCODERS = ("clip_g", "clip_h", "clip_l")


class ClipText:
    """Turns texts into projected embeddings float32 [N, D].

    The host gives some encoders' pooled output without the projection, so that it is applied here for all.

    Raises:
        DDMError: the CLIP has no encoder that images are compared with.
    """

    def __init__(self, clip: Any):
        self.clip = clip
        found = (getattr(clip.cond_stage_model, name, None) for name in ENCODERS)
        self.encoder = next(
            (one for one in found if hasattr(getattr(one, "transformer", None), "text_projection")), None
        )
        if self.encoder is None:
            raise DDMError(
                "This text encoder is no CLIP whose words can be compared with images. Connect that of SDXL, or load "
                "clip_l or clip_g with Load CLIP."
            )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, one after the other."""
        import torch

        with torch.inference_mode():
            pooled = [self.clip.encode_from_tokens(self.clip.tokenize(text), "unprojected")[1] for text in texts]
            projection = self.encoder.transformer.text_projection.weight.detach().float().cpu()
            stacked = torch.cat([one.float().cpu().reshape(1, -1) for one in pooled])
            if stacked.shape[1] != projection.shape[1]:
                raise DDMError(
                    "This text encoder joins several, so its words cannot be compared with images. Load one of them "
                    "alone with Load CLIP."
                )
            return (stacked @ projection.T).numpy()
