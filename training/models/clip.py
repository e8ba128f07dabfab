"""CLIP from a local folder: its image encoder as a feature extractor for probes, its text encoder for their words."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...debias.core.error import DDMError
from ...debias.core.image import fit, to_array
from ...debias.core.strict_json import fits, read_json_file
from ...debias.probes.probe_network import fit_tensor

if TYPE_CHECKING:
    import torch

# What OpenAI's models were trained with; a folder's own preprocessor_config.json wins.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_BATCH = 32


class ClipImages:
    """Turns images uint8 [N, H, W, 3] into CLIP image embeddings float32 [N, D] of length 1.

    Attributes:
        identity: the folder's name and the first digits of the weights' hash, as probe files record it.
    """

    def __init__(self, folder: str | Path, device: "str | torch.device" = "cpu"):
        """Open a folder in transformers layout (`config.json`, `model.safetensors`); nothing is downloaded.

        Raises:
            DDMError: the folder is no CLIP model with an image encoder, or its weights are incomplete.
        """
        from transformers import CLIPVisionModelWithProjection

        folder = Path(folder)
        self.model = _open(CLIPVisionModelWithProjection, folder, "image encoder").to(device)
        self.size = self.model.config.image_size
        self.mean, self.std = normalisation(folder)
        self.identity = f"CLIP {folder.resolve().name} ({weights_hash(self.model)[:12]})"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeddings float32 [N, D] of images uint8 [N, H, W, 3]."""
        import torch

        parts = [np.zeros((0, self.model.config.projection_dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                part = to_array(fit(Image.fromarray(one), self.size) for one in images[start : start + _BATCH])
                pixels = torch.from_numpy(part).to(self.model.device).float() / 255
                parts.append(self.embed(pixels.permute(0, 3, 1, 2)).cpu().numpy())
        return np.concatenate(parts)

    def embed(self, images: "torch.Tensor") -> "torch.Tensor":
        """Embeddings float32 [N, D] of the centre squares of float images [N, 3, H, W] in 0…1; differentiable."""
        import torch

        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        embedded = self.model(pixel_values=(fit_tensor(images, self.size) - mean) / std).image_embeds
        return torch.nn.functional.normalize(embedded, dim=-1).float()


class ClipTexts:
    """Turns texts into CLIP text embeddings float32 [N, D], in the space of the images' of the same folder."""

    def __init__(self, folder: str | Path, device: "str | torch.device" = "cpu"):
        """Open a folder as `ClipImages` does; its tokenizer has to lie in it too.

        Raises:
            DDMError: the folder is no CLIP model with a text encoder, or is incomplete.
        """
        from transformers import CLIPTextModelWithProjection

        from .tokenizer import open_tokenizer

        folder = Path(folder)
        self.model = _open(CLIPTextModelWithProjection, folder, "text encoder").to(device)
        self.tokenizer = open_tokenizer(folder, "<|endoftext|>")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts together."""
        import torch

        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return self.model(**tokens.to(self.model.device)).text_embeds.float().cpu().numpy()


def _open(kind: type, folder: Path, what: str) -> "torch.nn.Module":
    """A part of the CLIP model in a folder, ready to be used.

    Raises:
        DDMError: it is not there, or incomplete.
    """
    if not (folder / "config.json").is_file():
        raise DDMError(
            f"{folder} is no CLIP model: it has no config.json. Give a folder in transformers layout, with "
            "config.json and model.safetensors."
        )
    try:
        # An absolute path is never mistaken for the name of a model on a hub.
        model, info = kind.from_pretrained(
            str(folder.resolve()), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DDMError(
            f"{folder} cannot be opened as a CLIP {what} ({reason}). Copy or download the model again."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise DDMError(
            f"{folder} has no complete CLIP {what}: {len(missing)} weights are missing, the first is {missing[0]}. "
            f"Give a CLIP model whose {what} has its projection."
        )
    return model.eval().requires_grad_(False)


def normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the colours as a folder's model reads them.

    Raises:
        DDMError: the folder's preprocessor_config.json cannot be read.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return _MEAN, _STD
    given = read_json_file(path)
    values = [given.get(key) for key in ("image_mean", "image_std")] if isinstance(given, dict) else []
    if not (values and all(fits(value, list[float]) and len(value) == 3 for value in values) and min(values[1]) > 0):
        raise DDMError(
            f"{path} cannot be used: it does not say image_mean and image_std of three colours. Copy the model again, "
            "or remove this file to use CLIP's usual values."
        )
    return tuple(values[0]), tuple(values[1])


def weights_hash(model: "torch.nn.Module") -> str:
    """A digest (hex) over names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
