"""CLIP and SigLIP from a local folder: images and texts in one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...debias.core.error import DDMError
from ...debias.core.image import fit, to_array
from .clip import normalisation, weights_hash

if TYPE_CHECKING:
    import torch

BATCH = 32


class ImageText:
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
        try:
            self.model, info = AutoModel.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DDMError(
                f"{folder.name} cannot be opened as an image–text model ({reason}). Copy or download it again."
            ) from error
        if missing := sorted(info["missing_keys"]):
            raise DDMError(
                f"{folder.name} is no complete image–text model: {len(missing)} weights are missing, the first is "
                f"{missing[0]}. Copy or download it again."
            )
        self.model.to(device).eval().requires_grad_(False)
        config = self.model.config
        self.size, self.length = config.vision_config.image_size, config.text_config.max_position_embeddings
        # CLIP's mean and deviation are its own; SigLIP's folders name theirs.
        self.mean, self.std = normalisation(folder)
        self.scale = float(self.model.logit_scale.exp())
        self.identity = f"{config.model_type} {folder.name} ({weights_hash(self.model)[:12]})"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeddings float32 [N, D] of length 1, of images uint8 [N, H, W, 3]."""
        import torch

        def embed(part: np.ndarray) -> torch.Tensor:
            squares = to_array(fit(Image.fromarray(one), self.size) for one in part)
            pixels = torch.from_numpy(squares).to(self.model.device).permute(0, 3, 1, 2).float() / 255
            mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
            return self.model.get_image_features(pixel_values=(pixels - mean) / std)

        return self._embedded([images[at : at + BATCH] for at in range(0, len(images), BATCH)], embed)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [N, D] of length 1, of N texts."""
        import torch

        def embed(part: Sequence[str]) -> torch.Tensor:
            # SigLIP was trained on texts that are filled up to its length, CLIP reads up to the end of the text.
            read = self.tokenizer(
                list(part), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
            )
            return self.model.get_text_features(input_ids=read.input_ids.to(self.model.device))

        return self._embedded([texts], embed)

    def _embedded(self, parts: Sequence, embed) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = [embed(part) for part in parts]
            # Newer versions of transformers wrap the embeddings up.
            tensors = [getattr(one, "pooler_output", one) for one in found]
            return torch.nn.functional.normalize(torch.cat(tensors).float(), dim=-1).cpu().numpy()
