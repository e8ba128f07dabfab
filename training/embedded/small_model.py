"""The embedded model: Stable Diffusion in miniature, as its parts and as the folder that it is saved in.

Everything has SD 1.5's shape, only smaller: a factor-8 `AutoencoderKL`, a `CLIPTextModel`, a `UNet2DConditionModel`
that predicts ε under SD's scaled-linear betas. It exists so that the whole project runs for real on a laptop.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SCHEDULE = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1,
}  # fmt: skip


def build_autoencoder() -> Any:
    """Build the factor-8 VAE: 64×64 images to 4×8×8 latents, 1.8 million parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
    )


def build_denoiser(channels: int = 4) -> Any:
    """Build the U-Net: two levels of 128 channels, attention at 8×8 and in the middle; 5.7 million parameters.

    Args:
        channels: of the latents.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def build_tokenizer(folder: Path, texts: Sequence[str]) -> Any:
    """Write a small CLIP tokenizer that has every word of `texts` as one token, and load it.

    The layout is CLIP's: bytes, bytes ending a word, merges, start, end; unknown words fall apart into letters.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [left + right for left, right in merges if left + right not in set(words)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in merges), ""]), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: Any) -> Any:
    """Build a two-layer CLIP text model of width 128 for the given tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def latent_moments(vae: Any, images: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor", float]:
    """Encode images [N, 3, H, W] in −1…1.

    Returns:
        Means and deviations [N, 4, h, w], scaled to unit variance, and the scale.
    """
    import torch

    with torch.inference_mode():
        posteriors = [vae.encode(part).latent_dist for part in images.split(64)]
    mean, deviation = torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])
    scale = float((mean.var() + deviation.square().mean()) ** -0.5)
    return (mean * scale).clone(), (deviation * scale).clone(), scale


def save_pipeline(folder: Path, vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, scale: float) -> None:
    """Write a diffusers folder with half-precision weights; `scale` becomes the VAE's scaling factor."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    vae.register_to_config(scaling_factor=scale)
    for part in (vae, unet):
        # A part that was opened from a folder would carry that folder's path along.
        part.register_to_config(_name_or_path=folder.name)
    parts = [copy.deepcopy(part).to("cpu", torch.float16) for part in (vae, text_encoder, unet)]
    pipeline = StableDiffusionPipeline(
        vae=parts[0],
        text_encoder=parts[1],
        tokenizer=tokenizer,
        unet=parts[2],
        scheduler=DDPMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
