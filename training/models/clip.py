"""CLIP's image encoder from a local folder, as a feature extractor for probes."""

import hashlib
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
        size: side of the squares that the model reads, in pixels.
    """

    def __init__(self, folder: str | Path, device: "str | torch.device" = "cpu"):
        """Open a folder in transformers layout (`config.json`, `model.safetensors`); nothing is downloaded.

        Raises:
            DDMError: the folder is no CLIP model with an image encoder, or its weights are incomplete.
        """
        from transformers import CLIPVisionModelWithProjection

        folder = Path(folder)
        self.model = open_model(CLIPVisionModelWithProjection, folder, "a CLIP image encoder").to(device)
        self.size, self.width = self.model.config.image_size, self.model.config.projection_dim
        self.mean, self.std = normalisation(folder)
        self.identity = f"CLIP {folder.resolve().name} ({weights_hash(self.model)[:12]})"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeddings float32 [N, D] of images uint8 [N, H, W, 3]."""
        import torch

        parts = [np.zeros((0, self.width), dtype=np.float32)]
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
        embedded = self.features((fit_tensor(images, self.size) - mean) / std)
        return torch.nn.functional.normalize(embedded, dim=-1).float()

    def features(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """What the model makes [N, D] of normalised squares [N, 3, size, size]."""
        return self.model(pixel_values=pixels).image_embeds


def open_model(kind: type, folder: Path, what: str) -> "torch.nn.Module":
    """The model in a folder, ready to be used.

    Args:
        kind: a class of transformers.
        what: it is, with an article, for sentences.

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
        raise DDMError(f"{folder} cannot be opened as {what} ({reason}). Copy or download it again.") from error
    if missing := sorted(info["missing_keys"]):
        raise DDMError(
            f"{folder} is not complete as {what}: {len(missing)} weights are missing, the first is {missing[0]}. Copy "
            "or download it again, or give another."
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
