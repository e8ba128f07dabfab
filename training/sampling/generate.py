"""Generation with a base model: deterministic, one noise per seed, α per image, in batches that can be shown."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...debias.core.batching import fitting_rows, in_batches
from ...debias.core.error import DDMError
from ..models.base import Base
from ..models.lora import at_alpha, lora_names
from ..models.text import Text
from .guidance import SamplingGuidance

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

# The strength of the LoRA of this name is what `alpha` sets.
ADAPTER = "debias"
# The most images that are made at a time.
MOST = 512


class ImageBatch(NamedTuple):
    """Images `start` … `start` + n of a run: uint8 [n, H, W, 3], and their scaled latents [n, C, h, w].

    With distribution guidance, also the class of each attribute that each image was counted as.
    """

    start: int
    images: np.ndarray
    latents: "torch.Tensor"
    counted: Sequence[dict[str, str]] = ()


def generate(base: Base, prompts: Sequence[str], seeds: Sequence[int], **options: object) -> np.ndarray:
    """All images of `generate_batches` at once: uint8 [N, H, W, 3]; fewer than asked for when it was cancelled."""
    images = [batch.images for batch in generate_batches(base, prompts, seeds, **options)]
    return np.concatenate(images) if images else _no_images(base)


def generate_batches(
    base: Base,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    alpha: "float | Sequence[float] | torch.Tensor" = 1.0,
    steps: int = 20,
    guidance_scale: float = 3.0,
    negative: str = "",
    batch_size: int | None = None,
    resolution: int | None = None,
    scheduler: "SchedulerMixin | None" = None,
    bf16: bool = False,
    steering: SamplingGuidance | None = None,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[ImageBatch]:
    """Generate one image per prompt and seed.

    Noise comes from a generator of its own for each image, on the CPU: an image depends on its seed, not on its
    batch (up to rounding), nor on α or the device. Other LoRAs on the base keep their strength.

    Args:
        prompts: N prompts; repeated ones are encoded once.
        seeds: N seeds.
        alpha: strength of the "debias" LoRA on U-Net and text encoders, one for all or one per image; without such
            a LoRA it does nothing. Soft tokens are said at α = 1, at 0 they are not, and know nothing in between.
        guidance_scale: classifier-free guidance (arXiv 2207.12598); at 1 the unconditional half is not computed.
        negative: the prompt of the unconditional half.
        batch_size: images at a time; by default what fits (see `default_batch_size`). Where the memory of a GPU does
            not suffice for them, fewer are made at a time.
        resolution: side of the images in pixels; by default the model's own.
        scheduler: a diffusers scheduler without randomness; that takes latents as they are;
            by default the family's (see `Family.solver`).
        bf16: compute in bfloat16 where the base is float32. On CPUs that have it about 1.7 times as fast.
        steering: distribution guidance and invariant guidance; tallies count every finished batch.
        decode: False leaves it at latents, for those who look at nothing else: a batch then holds no images.
        progress: called with (steps done, steps in all) after each step.
        cancelled: asked before each step; once it says True, the batch at hand is given up.

    Raises:
        DDMError: settings out of range, prompts and seeds of different numbers, an α that soft tokens do not have,
            images that are not finite, or too little memory for one image.
    """
    import torch

    _check(base, prompts, seeds, steps, resolution)
    cell = (resolution or base.image_size) // base.vae_factor
    batch_size = batch_size or default_batch_size(base, cell)
    scheduler, steering = scheduler or base.family.solver(base), steering or SamplingGuidance()
    alphas = torch.as_tensor(alpha, dtype=torch.float32)
    strengths = alphas.expand(len(seeds)).tolist()
    chunks = 1 if base.soft_tokens else base.chunks([*dict.fromkeys(prompts), negative])
    texts = _Texts(base, list(zip(prompts, strengths, strict=True)), chunks, soft_tokens=True)
    unguided = guidance_scale == 1.0
    empty = None if unguided else _Texts(base, [(negative, strength) for strength in strengths], chunks)
    before = 0  # steps of the batches that are done

    def make(rows: slice) -> ImageBatch | None:
        def told(done: int) -> None:
            if progress:
                left = -(-(len(seeds) - rows.start) // (rows.stop - rows.start))
                progress(before + done, before + left * steps)

        noise = torch.stack([noise_of(seed, base.latent_channels, cell) for seed in seeds[rows]])
        strength = at_alpha(base.denoiser, ADAPTER, float(alpha) if alphas.ndim == 0 else alphas[rows])
        with strength, steering.on(base, prompts[rows]):
            latents = _denoise(
                base,
                noise,
                texts[rows],
                empty and empty[rows],
                guidance_scale,
                steps,
                scheduler,
                bf16,
                told,
                cancelled or (lambda: False),
            )
        if latents is None:
            return None
        images = base.decode(latents) if decode else _no_images(base)
        return ImageBatch(rows.start, images, latents, steering.count())

    for batch in in_batches(len(seeds), batch_size, make):
        if batch is None:
            return
        before += steps
        yield batch


def _no_images(base: Base) -> np.ndarray:
    return np.zeros((0, base.image_size, base.image_size, 3), np.uint8)


def default_batch_size(base: Base, cell: int) -> int:
    """How many images of `cell` × `cell` latents to make at a time: 64 of the smallest on a CPU, 1 of 512 pixels."""
    # With guidance, an image is two rows.
    return max(1, fitting_rows(base.device, cell * cell, 2 * MOST) // 2)


def _check(base: Base, prompts: Sequence[str], seeds: Sequence[int], steps: int, resolution: int | None) -> None:
    if len(prompts) != len(seeds):
        raise DDMError(f"There are {len(prompts)} prompts for {len(seeds)} seeds. Give as many seeds as prompts.")
    if steps < 1:
        raise DDMError(f"{steps} sampling steps make no image. Use 1 or more; 20 is usual.")
    if resolution is not None and (resolution < base.vae_factor or resolution % base.vae_factor):
        raise DDMError(f"The resolution {resolution} is no multiple of {base.vae_factor}. Try {base.image_size}.")


def noise_of(seed: int, channels: int, cell: int) -> "torch.Tensor":
    """The noise [channels, cell, cell] of a seed, drawn on the CPU: the same on every device and in every batch."""
    import torch

    return torch.randn(channels, cell, cell, generator=torch.Generator().manual_seed(seed))


class _Texts:
    """Prompts at strengths, each pair encoded once; the strength only counts where it changes the text."""

    def __init__(self, base: Base, pairs: Sequence[tuple[str, float]], chunks: int, soft_tokens: bool = False):
        soft = base.soft_tokens if soft_tokens else None
        if soft and not {alpha for _, alpha in pairs} <= {0.0, 1.0}:
            raise DDMError("The adapter is an embedding: it is said or it is not. Use α = 0 or 1.")
        adapted = soft or any(ADAPTER in lora_names(encoder) for encoder in base.text_encoders.values())
        self.pairs = [(prompt, alpha if adapted else 1.0) for prompt, alpha in pairs]
        self.rows: dict[tuple[str, float], int] = {}
        encoded = []
        for alpha in dict.fromkeys(alpha for _, alpha in self.pairs):
            said = list(dict.fromkeys(prompt for prompt, own in self.pairs if own == alpha))
            self.rows |= {(prompt, alpha): len(self.rows) + row for row, prompt in enumerate(said)}
            with ExitStack() as strengths:
                for encoder in base.text_encoders.values():
                    strengths.enter_context(at_alpha(encoder, ADAPTER, alpha))
                encoded.append(base.encode_text(said, soft if alpha else None, chunks=chunks))
        self.table = Text.cat(encoded) if encoded else None

    def __getitem__(self, rows: slice) -> Text:
        return self.table[[self.rows[pair] for pair in self.pairs[rows]]]


def _denoise(
    base: Base,
    noise: "torch.Tensor",
    text: Text,
    empty: Text | None,
    guidance_scale: float,
    steps: int,
    scheduler: "SchedulerMixin",
    bf16: bool,
    progress: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> "torch.Tensor | None":
    """Latents float32 [B, C, h, w] from noise, or None when cancelled."""
    import torch

    lower = bf16 and base.dtype == torch.float32
    precision = torch.autocast(base.device.type, torch.bfloat16) if lower else nullcontext()
    guided = empty is not None
    was_training = base.denoiser.training
    base.denoiser.eval()
    try:
        with torch.inference_mode(), precision:
            context = Text.cat([empty, text]) if guided else text
            scheduler.set_timesteps(steps, device=base.device)
            latents = noise.to(base.device)
            for done, timestep in enumerate(scheduler.timesteps, 1):
                if cancelled():
                    return None
                inputs = torch.cat([latents, latents]) if guided else latents
                # ε, v or flow: the scheduler knows which, and guidance is linear in each.
                predicted = base.run_denoiser(inputs, timestep, context)
                if guided:
                    without, with_text = predicted.chunk(2)
                    predicted = without + guidance_scale * (with_text - without)
                latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
                progress(done)
        broken = int((~latents.isfinite().flatten(1).all(1)).sum())
        if broken:
            raise DDMError(
                f"{broken} of {len(latents)} images came out as numbers that are not finite, which would be black. The "
                "model or a LoRA on it is damaged, or its numbers are too large for half precision: try another one, "
                "or full precision."
            )
        # A clone made outside of inference mode can be used in training.
        return latents.clone()
    finally:
        base.denoiser.train(was_training)
