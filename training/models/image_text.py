"""CLIP and SigLIP from a local folder: images and texts in one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.error import DDMError
from .clip import ClipImages, normalisation, open_model, weights_hash

if TYPE_CHECKING:
    import torch


class ImageText(ClipImages):
    """Embeddings of images, and of texts in the same space.

    Attributes:
        identity: the folder's name and the first digits of the weights' hash.
        size: side of the squares that the model reads, in pixels.
        scale: what cosines are multiplied by, as the model has learnt it.
    """

    def __init__(self, folder: str | Path, device: "str | torch.device" = "cpu"):
        """Open a folder in transformers layout; nothing is downloaded.

        Raises:
            DDMError: the folder is no such model, or not complete.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = Path(folder).resolve()
        self.model = open_model(AutoModel, folder, "an image–text model").to(device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            # Without its files, newer versions of transformers make one that knows no words.
            if len(self.tokenizer) <= len(self.tokenizer.all_special_tokens):
                raise ValueError("it knows no words")
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DDMError(
                f"The tokenizer in {folder} cannot be opened ({reason}). Copy or download it again."
            ) from error
        config = self.model.config
        self.size, self.length = config.vision_config.image_size, config.text_config.max_position_embeddings
        self.width = getattr(config, "projection_dim", config.vision_config.hidden_size)
        # CLIP's mean and deviation are its own; SigLIP's folders name theirs.
        self.mean, self.std = normalisation(folder)
        self.scale = float(self.model.logit_scale.exp())
        self.identity = f"{config.model_type} {folder.name} ({weights_hash(self.model)[:12]})"

    def features(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """What the model makes [N, D] of normalised squares [N, 3, size, size]."""
        return _embedded(self.model.get_image_features(pixel_values=pixels))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [N, D] of length 1, of N texts."""
        import torch

        # SigLIP was trained on texts that are filled up to its length, CLIP reads up to the end of the text.
        read = self.tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            found = _embedded(self.model.get_text_features(input_ids=read.input_ids.to(self.model.device)))
            return torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy()


def _embedded(found: "torch.Tensor") -> "torch.Tensor":
    """Newer versions of transformers wrap the embeddings up."""
    return getattr(found, "pooler_output", found)
