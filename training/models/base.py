"""The base model: of one of the families, a folder or a checkpoint, opened for training and sampling."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError
from .family import Family
from .text import Text

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from .soft_tokens import SoftTokens

# How many images the VAE takes at a time: it needs far more memory per image than the U-Net.
VAE_PIXELS = 64 * 64 * 64
# Up to how many latent cells a CPU keeps the whole table of attention for the gradients.
PLAIN_ATTENTION = 16 * 16
# How many sentences the text encoder takes at a time.
TEXTS = 256


@dataclass
class Base:
    """A frozen base model: everything in eval mode, no parameter requires a gradient.

    What one family does unlike another is the family's (see `Family`); here is what is so for all.

    Attributes:
        family: which one it is of.
        denoiser: a U-Net or a transformer.
        text_encoders: by their names in a pipeline; a LoRA may change them.
        tokenizers: by the names of the text encoders that they are for.
        path: the pipeline folder, or the checkpoint file.
        hash: sha256 (hex) over the bytes of the file or files that hold the U-Net's weights; adapters remember it. So a
            checkpoint and the folder that it was converted to have different hashes.
        dtype: the dtype of U-Net and text encoders. The VAE always computes in float32.
        soft_tokens: an embedding that the sampler says before prompts at α = 1, if one is used.
        other_vae: sha256 (hex) of the VAE that is used instead of the base's own, if one is.
        clip_skip: the text encoder's layer that is read, counted from the last, which is 1; None for the usual one.
        mixed: whether a float32 base computes in bfloat16 where the hardware does (see `autocast`).
        size: side in pixels that images have instead of the native one (see `use_resolution`).
        resting: whether text encoders and VAE are in the computer's memory but for when they are used.
    """

    family: Family
    denoiser: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    text_encoders: "dict[str, CLIPTextModel | CLIPTextModelWithProjection]"
    tokenizers: "dict[str, CLIPTokenizer]"
    scheduler: "DDPMScheduler"
    path: Path
    hash: str
    device: "torch.device"
    dtype: "torch.dtype"
    soft_tokens: "SoftTokens | None" = None
    other_vae: str | None = None
    clip_skip: int | None = None
    mixed: bool = True
    size: int | None = None
    resting: bool = False

    @property
    def latent_channels(self) -> int:
        """Channels of a latent (4 for Stable Diffusion)."""
        return self.family.latent_channels(self)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell, along one side."""
        return self.family.vae_factor(self)

    @property
    def native_size(self) -> int:
        """Side of the image in pixels that the model was made for."""
        return self.family.native_size(self)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that are learnt from and made: the native one, if nothing else was said."""
        return self.size or self.native_size

    @property
    def side_step(self) -> int:
        """Sides of images in pixels are multiples of this."""
        return self.family.side_step(self)

    def use_resolution(self, size: int | None) -> None:
        """Let images have another side in pixels; None or 0 is the native one.

        Raises:
            DDMError: the model knows no images of this side.
        """
        if size and size % self.side_step:
            below = size // self.side_step * self.side_step
            fitting = " or ".join(str(side) for side in (below, below + self.side_step) if side)
            raise DDMError(
                f"A side of {size} pixels is no multiple of {self.side_step}, which this model needs. Give {fitting}.",
                "resolution",
            )
        self.size = None if size == self.native_size else size or None

    @property
    def text_encoder(self) -> "CLIPTextModel":
        """The first text encoder."""
        return self.text_encoders["text_encoder"]

    @property
    def tokenizer(self) -> "CLIPTokenizer":
        """The first text encoder's tokenizer."""
        return self.tokenizers["text_encoder"]

    @property
    def parts(self) -> "dict[str, torch.nn.Module]":
        """The models that a LoRA may change, by what the names of its layers begin with: nothing for the U-Net."""
        return {"": self.denoiser, **self.text_encoders}

    @property
    def prediction(self) -> str:
        """What the denoiser answers (see `Family.prediction`)."""
        return self.family.prediction(self)

    @property
    def identity(self) -> str:
        """A hash of what images and trainings depend on: `hash` as it is where ε is predicted by the base's own VAE."""
        unusual = [self.prediction] * (self.prediction != "epsilon") + [self.other_vae] * bool(self.other_vae)
        unusual += [f"clip skip {self.clip_skip}"] * bool(self.clip_skip)
        return hashlib.sha256(" ".join([self.hash, *unusual]).encode()).hexdigest() if unusual else self.hash

    @property
    def architecture(self) -> str:
        """`modelspec.architecture` of the LoRAs that are made for this base."""
        return self.family.architecture(self)

    def encode_text(
        self,
        prompts: Sequence[str],
        soft_tokens: "SoftTokens | None" = None,
        gradient: bool = False,
        chunks: int | None = None,
    ) -> Text:
        """Encode N prompts, padded to the same number of tokens.

        Args:
            soft_tokens: said before every prompt; what does not fit beside them is cut.
            gradient: let gradients pass into soft tokens and text encoders.
            chunks: how many chunks are read of every prompt; by default what the longest of these needs.
        """
        import torch

        prompts = list(prompts)
        chunks = 1 if soft_tokens else chunks or self.chunks(prompts)
        # A set may have a caption for every image: all at once would need gigabytes. With gradients, all is kept.
        count = max(len(prompts), 1)
        size = count if gradient else TEXTS
        parts = [prompts[at : at + size] for at in range(0, count, size)]
        with (
            torch.set_grad_enabled(gradient),
            self.awake(*self.text_encoders.values()),
            soft_tokens.spoken(self) if soft_tokens else nullcontext(),
        ):
            return Text.cat([self._encode(part, soft_tokens, chunks) for part in parts])

    def _encode(self, prompts: list[str], soft_tokens: "SoftTokens | None", chunks: int) -> Text:
        if chunks == 1:
            prompts = self.family.worded(prompts)
            read = {name: self._token_ids(one, prompts, soft_tokens) for name, one in self.tokenizers.items()}
            return self.family.encode(self, read)
        read = {name: self._chunk_ids(tokenizer, prompts, chunks) for name, tokenizer in self.tokenizers.items()}
        text = self.family.encode(self, read)
        apart = text.each(lambda part: part.unflatten(0, (len(prompts), chunks)))
        return Text(apart.tokens.flatten(1, 2), None if apart.pooled is None else apart.pooled[:, 0])

    def chunks(self, prompts: Sequence[str]) -> int:
        """How many chunks of 75 tokens the longest of N prompts takes; 1 for a family that reads it in one."""
        if not prompts or not self.family.chunked:
            return 1
        read = self.tokenizer(list(prompts), add_special_tokens=False, truncation=False, verbose=False)
        return max(1, -(-max(map(len, read.input_ids)) // self._room))

    @property
    def _room(self) -> int:
        """Tokens of a prompt that are read at a time, without those that mark its ends."""
        return self.tokenizer.model_max_length - 2

    def _chunk_ids(self, tokenizer: "CLIPTokenizer", prompts: list[str], chunks: int) -> "torch.Tensor":
        """Token ids [N · chunks, L]: each chunk is marked and padded like a prompt, as ComfyUI and A1111 do."""
        import torch

        room, rows = self._room, []
        for ids in tokenizer(prompts, add_special_tokens=False, truncation=False, verbose=False).input_ids:
            for start in range(0, chunks * room, room):
                row = [tokenizer.bos_token_id, *ids[start : start + room], tokenizer.eos_token_id]
                rows.append(row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row)))
        return self.moved(torch.tensor(rows))

    def _token_ids(
        self, tokenizer: "CLIPTokenizer", prompts: list[str], soft_tokens: "SoftTokens | None"
    ) -> "torch.Tensor":
        length = tokenizer.model_max_length - (len(soft_tokens) if soft_tokens else 0)
        read = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids = self.moved(read.input_ids)
        return soft_tokens.in_front(ids) if soft_tokens else ids

    def cuts(self, prompts: Sequence[str]) -> list[bool]:
        """Which of N prompts are longer than what the text encoders read of them."""
        if not prompts or self.family.chunked:
            return [False] * len(prompts)
        ids = self.tokenizer(self.family.worded(prompts), truncation=False, verbose=False).input_ids
        return [len(one) > self.tokenizer.model_max_length for one in ids]

    def encode_images(
        self, images: "np.ndarray | torch.Tensor", generator: "torch.Generator | None" = None
    ) -> "torch.Tensor":
        """Latents of images, as the denoiser takes them.

        Args:
            images: uint8 [N, H, W, 3]; H and W are multiples of `vae_factor`.
            generator: draws from the posterior; without one, its mean is taken.

        Returns:
            float32 [N, C, H / vae_factor, W / vae_factor] on the base's device.
        """
        import torch

        images = torch.as_tensor(images)
        latents = []
        with torch.no_grad(), self.awake(self.vae):
            for part in images.split(self.vae_batch(images.shape[1], images.shape[2])):
                pixels = part.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
                mean, std = self.family.posterior(self, pixels)
                if generator is not None:
                    mean = mean + std * torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
                latents.append(mean)
        return torch.cat(latents)

    def decode(self, latents: "torch.Tensor") -> "np.ndarray":
        """Images uint8 [N, H, W, 3] of scaled latents [N, C, h, w]."""
        import torch

        factor, images = self.vae_factor, []
        with torch.no_grad(), self.awake(self.vae):
            for part in latents.split(self.vae_batch(latents.shape[2] * factor, latents.shape[3] * factor)):
                pixels = self.family.pixels(self, part.to(self.device, torch.float32))
                pixels = (pixels * 127.5 + 127.5).round().clamp(0, 255)
                images.append(pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu())
        return torch.cat(images).numpy()

    def rest(self) -> None:
        """From now on, text encoders and VAE are on the device only while they are used; until they are trained."""
        self.resting = True
        for model in (self.vae, *self.text_encoders.values()):
            model.to("cpu")

    @contextmanager
    def awake(self, *models: "torch.nn.Module") -> "Iterator[None]":
        """Text encoders or the VAE are on the device meanwhile."""
        for model in models if self.resting else ():
            model.to(self.device)
        try:
            yield
        finally:
            for model in models if self.resting else ():
                model.to("cpu")

    def moved(self, values: "torch.Tensor") -> "torch.Tensor":
        """Bring values to the device without waiting for it."""
        pinned = values.pin_memory() if self.device.type == "cuda" else values
        return pinned.to(self.device, non_blocking=True)

    @property
    def half_is_native(self) -> bool:
        """Whether the device multiplies half precision natively, so that it is faster than float32."""
        import torch

        return self.device.type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()

    def autocast(self) -> "AbstractContextManager":
        """Mixed precision for a float32 base wherever the hardware multiplies bfloat16 natively, else nothing.

        A base of half precision computes as it is: autocast would do its norms in float32, which costs a quarter more
        time and memory. What is float32 on it, its LoRAs, sees to itself.
        """
        import torch

        return torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.mixed and self.dtype == torch.float32 and self.half_is_native,
        )

    @cached_property
    def schedule(self) -> "torch.Tensor":
        """[T] ᾱ of the training schedule, on the base's device, of a family that has one."""
        return self.family.schedule(self)

    def rates(self, t: float) -> tuple[float, float]:
        """How much of latents and of noise is in noisy latents at a timestep."""
        return self.family.rates(self, t)

    def noisy(self, latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """Latents [B, C, h, w] with noise, at timesteps [B]."""
        return self.family.noisy(self, latents, noise, t)

    def denoise(self, noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """Predict the noise [B, C, h, w] in noisy latents at timesteps [B] under B texts, in mixed precision."""
        return self.family.noise(self, self.predict(noisy, t, text), noisy, t)

    def predict(self, noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """As `denoise`, but what the denoiser itself answers. Training compares it with `target`."""
        with self.autocast(), self._attention(noisy):
            return self.run_denoiser(noisy, t, text)

    def _attention(self, noisy: "torch.Tensor") -> "AbstractContextManager":
        """Where a CPU learns small latents, attention in plain steps: a step of the embedded model is 15% quicker."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        small = noisy.shape[2] * noisy.shape[3] <= PLAIN_ATTENTION
        # What checkpointing computes again for the gradients, it computes outside of this context.
        plain = small and torch.is_grad_enabled() and not self.denoiser.is_gradient_checkpointing
        if self.device.type == "cpu" and plain:
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """What `predict` should answer [B, C, h, w] for latents with that noise."""
        return self.family.target(self, latents, noise, t)

    def run_denoiser(self, noisy: "torch.Tensor", t: "torch.Tensor", text: Text) -> "torch.Tensor":
        """As `predict`, in the precision at hand; t is [B] or one for all."""
        return self.family.predict(self, noisy, t, text)

    @staticmethod
    def vae_batch(height: int, width: int) -> int:
        """How many images of so many pixels the VAE takes at a time."""
        return max(1, VAE_PIXELS // (height * width))
