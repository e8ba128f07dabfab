"""The base model: a Stable Diffusion pipeline folder in diffusers layout, opened for training and sampling."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..debias.error import DDMError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

# What each part of the pipeline needs, and the stem of its weight file (None: no weights).
PARTS = {
    "unet": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
    "text_encoder": ("config.json", "model"),
    "tokenizer": ("tokenizer_config.json", None),
    "scheduler": ("scheduler_config.json", None),
}
# How many pictures the VAE takes at a time: it needs far more memory per picture than the U-Net.
VAE_PIXELS = 64 * 64 * 64
# How many sentences the text encoder takes at a time.
TEXTS = 256


@dataclass
class Base:
    """A frozen base model: everything in eval mode, no parameter requires a gradient.

    Attributes:
        hash: sha256 (hex) over the bytes of the U-Net's weight files; adapters remember it.
        dtype: the dtype of U-Net and text encoder. The VAE always computes in float32.
    """

    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    scheduler: "DDPMScheduler"
    folder: Path
    hash: str
    device: "torch.device"
    dtype: "torch.dtype"

    @property
    def latent_channels(self) -> int:
        """Channels of a latent (4 for Stable Diffusion)."""
        return self.unet.config.in_channels

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def picture_size(self) -> int:
        """Side of the model's native picture in pixels."""
        return self.unet.config.sample_size * self.vae_factor

    def encode_text(self, prompts: list[str]) -> "torch.Tensor":
        """Text embeddings [N, tokens, D] of N prompts, padded (and cut) to the tokenizer's model_max_length."""
        import torch

        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            # A set may have a caption for every picture: all at once would need gigabytes.
            parts = [self.text_encoder(part).last_hidden_state for part in ids.to(self.device).split(TEXTS)]
        return torch.cat(parts)

    def encode_pictures(
        self, pictures: "np.ndarray | torch.Tensor", generator: "torch.Generator | None" = None
    ) -> "torch.Tensor":
        """Latents of pictures, multiplied by the VAE's scaling factor.

        Args:
            pictures: uint8 [N, H, W, 3]; H and W are multiples of `vae_factor`.
            generator: draws from the posterior; without one, its mean is taken.

        Returns:
            float32 [N, C, H / vae_factor, W / vae_factor] on the base's device.
        """
        import torch

        pictures = torch.as_tensor(pictures)
        latents = []
        with torch.no_grad():
            for part in pictures.split(self._vae_batch(pictures.shape[1], pictures.shape[2])):
                pixels = part.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
                posterior = self.vae.encode(pixels).latent_dist
                latents.append(posterior.mean if generator is None else posterior.sample(generator))
        return torch.cat(latents) * self.vae.config.scaling_factor

    def decode(self, latents: "torch.Tensor") -> "np.ndarray":
        """Pictures uint8 [N, H, W, 3] of scaled latents [N, C, h, w]."""
        import torch

        factor = self.vae_factor
        pictures = []
        with torch.no_grad():
            for part in latents.split(self._vae_batch(latents.shape[2] * factor, latents.shape[3] * factor)):
                pixels = self.vae.decode(part.to(self.device, torch.float32) / self.vae.config.scaling_factor).sample
                pixels = (pixels * 127.5 + 127.5).round().clamp(0, 255)
                pictures.append(pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu())
        return torch.cat(pictures).numpy()

    @property
    def half_is_native(self) -> bool:
        """Whether the device multiplies half precision natively, so that it is faster than float32."""
        import torch

        return self.device.type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()

    def autocast(self) -> "AbstractContextManager":
        """Mixed precision by device: half precision wherever the hardware multiplies it natively, else nothing."""
        import torch

        half = self.dtype if self.dtype != torch.float32 else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.half_is_native)

    def denoise(self, noisy: "torch.Tensor", t: "torch.Tensor", text: "torch.Tensor") -> "torch.Tensor":
        """Predict ε [B, C, h, w] of noisy latents at timesteps [B] under text [B, tokens, D], in mixed precision."""
        with self.autocast():
            return self.unet(noisy.to(self.dtype), t, text, return_dict=False)[0].float()

    @staticmethod
    def _vae_batch(height: int, width: int) -> int:
        return max(1, VAE_PIXELS // (height * width))


def resolve_device(name: str = "auto") -> "torch.device":
    """The device called `name`: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:1", "mps"."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DDMError(f"There is no device called {name!r}. Use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DDMError("No CUDA device can be used here. Use --device cpu, or auto.")
    return device


def load_base(folder: str | Path, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None) -> Base:
    """Open a Stable Diffusion 1.x or 2.x pipeline folder in diffusers layout. Never downloads anything.

    Args:
        folder: the folder that holds model_index.json.
        device: a torch device, or its name as `resolve_device` takes it.
        dtype: of U-Net and text encoder; by default float32 on the CPU (whatever the files hold: half precision is
            slow there) and bfloat16 on a GPU (float16 where it has no bfloat16).

    Raises:
        DDMError: the folder is no such pipeline, or parts or weights of it are missing or broken.
    """
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = Path(folder)
    weights = check_folder(folder)
    device = device if isinstance(device, torch.device) else resolve_device(device)
    if dtype is None:
        dtype = torch.float32
        if device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    with _no_progress_bars():
        unet = _load_model(UNet2DConditionModel, folder, "unet", dtype, weights)
        vae = _load_model(AutoencoderKL, folder, "vae", torch.float32, weights)
        text_encoder = _load_model(CLIPTextModel, folder, "text_encoder", dtype, weights)
        tokenizer = _load_part(CLIPTokenizer, folder, "tokenizer")
        scheduler = _load_part(DDPMScheduler, folder, "scheduler")
    for model in (unet, vae, text_encoder):
        model.to(device).eval().requires_grad_(False)
    return Base(unet, vae, text_encoder, tokenizer, scheduler, folder, hash_files(weights["unet"]), device, dtype)


def check_folder(folder: str | Path) -> dict[str, list[Path]]:
    """Weight files of each part of a pipeline folder, without loading them.

    Raises:
        DDMError: it is no pipeline folder of a kind that we support; the message says what is missing or broken.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise DDMError(
            f"{folder} is not a base model: it holds no model_index.json. Give a folder in diffusers layout "
            "(unet, vae, text_encoder, tokenizer, scheduler), for instance examples/tiny_people."
        )
    try:
        names = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DDMError(f"{index} cannot be read ({error}). Copy or download the base model again.") from error
    if isinstance(names, dict) and "text_encoder_2" in names:
        raise DDMError(
            f"{folder} is a pipeline with two text encoders ({names.get('_class_name', 'SDXL')}), which the trainer "
            "does not support yet. Use a Stable Diffusion 1.x or 2.x base."
        )
    return check_parts(folder)


def check_parts(folder: Path, parts: Mapping[str, tuple[str, str | None]] = PARTS) -> dict[str, list[Path]]:
    """Weight files of the given parts of a pipeline folder (see `PARTS`); errors as in `check_folder`."""
    weights = {}
    for part, (config, stem) in parts.items():
        if not (folder / part / config).is_file():
            raise DDMError(
                f"The base model in {folder} is incomplete: {part}/{config} is missing. "
                "Copy or download the base model again."
            )
        if stem is not None:
            weights[part] = _weight_files(folder, part, stem)
    return weights


def hash_files(files: list[Path]) -> str:
    """sha256 (hex) over the bytes of the files, in the given order."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path, part: str, stem: str) -> list[Path]:
    """The weights of one part: the plain file or shards, else those of the fp16 variant."""
    found = sorted((folder / part).glob(f"{stem}*.safetensors"))
    half = [path for path in found if ".fp16" in path.name]
    files = [path for path in found if path not in half] or half
    if not files:
        pickles = sorted((folder / part).glob(f"{stem}*.bin"))
        if pickles:
            raise DDMError(
                f"The base model in {folder} has only pickled weights ({part}/{pickles[0].name}), which can run code "
                "when they are opened, so they are refused. Convert them to safetensors first."
            )
        raise DDMError(
            f"The base model in {folder} is incomplete: {part}/{stem}.safetensors is missing. "
            "Copy or download the base model again."
        )
    from safetensors import safe_open

    for path in files:
        try:
            with safe_open(path, framework="np"):
                pass
        except Exception as error:
            raise DDMError(
                f"{path} is not a complete safetensors file ({error}). Copy or download the base model again."
            ) from error
    return files


def _load_model(kind: type, folder: Path, part: str, dtype: "torch.dtype", weights: dict[str, list[Path]]):
    variant = "fp16" if ".fp16" in weights[part][0].name else None
    # The two libraries call the argument by different names.
    precision = {"dtype" if part == "text_encoder" else "torch_dtype": dtype}
    model, info = _load_part(
        kind, folder, part, use_safetensors=True, variant=variant, output_loading_info=True, **precision
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise DDMError(
            f"The weights of {folder / part} do not fit its config.json: {len(missing)} are missing, the first is "
            f"{missing[0]}. Copy or download the base model again."
        )
    return model


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar on stderr for every model that it opens."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_part(kind: type, folder: Path, part: str, **options: object):
    try:
        # An absolute path is never mistaken for the name of a model on a hub.
        return kind.from_pretrained(str((folder / part).resolve()), local_files_only=True, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DDMError(
            f"{folder / part} cannot be opened as {kind.__name__} ({reason}). Copy or download the base model again."
        ) from error
