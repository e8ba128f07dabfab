"""What kind of model a base is, told by names, shapes and configurations before any weight is read.

The same questions for a checkpoint and for a pipeline folder: whatever the trainer would take for what it is not is
refused with a sentence.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...debias.core.error import DDMError
from .family import families

CHANNELS = 4
# A key that only one kind of diffusion model has, behind whatever prefix a file gives it.
SIGNATURES = {
    "double_stream_modulation_img.lin.weight": "FLUX.2",
    "distilled_guidance_layer.norms.0.scale": "Chroma",
    "distilled_guidance_layer.0.norms.0.scale": "Chroma",
    "double_blocks.0.img_attn.norm.key_norm.scale": "FLUX.1",
    "single_transformer_blocks.0.attn.norm_k.weight": "FLUX",
    "joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "transformer_blocks.0.img_mod.1.weight": "Qwen-Image",
    "txtfusion.projector.weight": "Krea 2",
    "text_fusion.projector.weight": "Krea 2",
    "noise_refiner.0.attention.k_norm.weight": "Z-Image or Lumina",
    "noise_refiner.0.attention.norm_k.weight": "Z-Image or Lumina",
    "double_layers.0.attn.w1q.weight": "AuraFlow",
    "mlp_t5.0.weight": "Hunyuan-DiT",
    "t_block.1.weight": "PixArt",
    "clip_txt_mapper.weight": "Stable Cascade",
    "head.modulation": "Wan",
}
# What the names of diffusers' pipelines begin with.
PIPELINES = {
    "Flux2": "FLUX.2",
    "Flux": "FLUX.1",
    "Chroma": "Chroma",
    "StableDiffusion3": "Stable Diffusion 3",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
    "Krea2": "Krea 2",
    "Lumina": "Lumina",
    "AuraFlow": "AuraFlow",
    "HunyuanDiT": "Hunyuan-DiT",
    "PixArt": "PixArt",
    "Sana": "Sana",
    "Kolors": "Kolors",
    "StableCascade": "Stable Cascade",
    "Kandinsky": "Kandinsky",
    "IF": "DeepFloyd IF",
    "AltDiffusion": "AltDiffusion",
    "Wan": "Wan",
}
# How fp8 files call the number that a weight is multiplied by, and what else they keep beside it.
SCALES = ("scale_weight", "weight_scale")
WHOLE = ("I", "U", "BOOL")  # what the names of whole numbers begin with
ACTIVATIONS = ("scale_input", "input_scale", "comfy_quant")
OPENCLIP_FIRST, SECOND = "conditioner.embedders.0.model.", "conditioner.embedders.1."


def supported() -> str:
    """The families, for a sentence."""
    names = [family.title for family in sorted(families(), key=lambda one: one.part, reverse=True)]  # U-Nets first
    return f"{', '.join(names[:-1])} or {names[-1]}"


def refuse_kind(path: Path, kind: str) -> None:
    """Say that a model is of a kind that is known, and not trained.

    Raises:
        DDMError: always.
    """
    raise DDMError(f"{path} is a {kind} model, which ComfyUI-DDM does not train yet. Choose a base of {supported()}.")


def check_keys(path: Path, keys: Collection[str]) -> None:
    """Refuse a checkpoint whose keys say that it is another kind of model.

    Raises:
        DDMError: naming the kind.
    """
    for signature, kind in SIGNATURES.items():
        if any(key == signature or key.endswith("." + signature) for key in keys):
            if any(kind.startswith(family.title) for family in families()):
                raise DDMError(
                    f"{path} is a {kind} model, which ComfyUI-DDM does not read from such a file. Give the folder in "
                    "diffusers layout."
                )
            refuse_kind(path, kind)
    if _any(keys, OPENCLIP_FIRST) and not _any(keys, SECOND):
        refuse_kind(path, "SDXL refiner")


def check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """As `check_keys`, of a pipeline folder's model_index.json."""
    name = str(index.get("_class_name", ""))
    for begin, kind in PIPELINES.items():
        if re.match(rf"{begin}(?![a-z])", name):
            refuse_kind(folder, kind)
    absent = {part for part, kind in index.items() if kind == [None, None]}
    if "text_encoder_2" in index and "text_encoder" in absent:
        refuse_kind(folder, "SDXL refiner")
    if "transformer" in index and "transformer" not in absent:
        refuse_kind(folder, name.removesuffix("Pipeline") or "transformer")


def check_configuration(
    path: Path,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what trainer and sampler would take for a plain Stable Diffusion, and which is not.

    Args:
        unet, vae, scheduler: the parts' configurations as diffusers has them; what is absent is usual.

    Raises:
        DDMError: other channels, other noise, other conditions or other statistics of latents than are known.
    """
    vae, scheduler = vae or {}, scheduler or {}
    channels, latent = unet.get("in_channels", CHANNELS), vae.get("latent_channels", CHANNELS)
    if channels != latent or unet.get("out_channels", CHANNELS) != latent:
        raise DDMError(
            f"{path} takes {channels} channels where a text-to-image model takes {latent}: it is made for inpainting "
            "or editing. Choose the model that it was made from."
        )
    if unet.get("time_cond_proj_dim"):
        raise DDMError(
            f"{path} is distilled to take the guidance scale as an input (LCM), which the trainer does not know. Train "
            "on the model that it was made from."
        )
    kinds = (unet.get("addition_embed_type"), unet.get("encoder_hid_dim_type"), unet.get("class_embed_type"))
    if kinds[0] not in (None, "text_time") or any(kinds[1:]):
        raise DDMError(
            f"{path} is told more than a prompt ({', '.join(str(kind) for kind in kinds if kind)}), which the trainer "
            f"does not know. Choose a base of {supported()}."
        )
    for part, config, known in (("unet", unet, "UNet2DConditionModel"), ("vae", vae, "AutoencoderKL")):
        kind = config.get("_class_name", known)
        if kind != known:
            raise DDMError(f"The {part} of {path} is a {kind}, not a {known}. Choose a base of {supported()}.")
    noise = str(scheduler.get("_class_name", ""))
    if "EDM" in noise or "sigma_data" in scheduler:
        raise DDMError(f"{path} was trained with EDM's noise, which the trainer does not know. Choose another base.")
    if "Flow" in noise or scheduler.get("use_flow_sigmas"):
        raise DDMError(f"{path} was trained by flow matching, which the trainer does not know. Choose another base.")
    told = [name for name in ("latents_mean", "latents_std", "shift_factor") if vae.get(name)]
    if told:
        raise DDMError(
            f"The VAE of {path} shifts its latents ({', '.join(told)}), which the trainer does not do. Choose another "
            "base."
        )


def check_companions(path: Path, keys: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse tensors beside a weight without which the weight is not what it seems: quantized in an unknown way.

    fp8 weights with one scale each are read (see `scale_of`).

    Args:
        keys: dtype as safetensors names it, and shape, of each tensor that belongs to a part that is used.

    Raises:
        DDMError: naming one of them.
    """
    for key in keys:
        module, _, name = key.rpartition(".")
        if name in ("weight", "bias") and keys[key][0].startswith(WHOLE):
            raise DDMError(
                f"{path} keeps {key} as whole numbers: it is quantized in a way that is not known here. Choose the "
                "file in bf16, fp16 or plain fp8."
            )
        if name in ("weight", "bias", "position_ids") or module + ".weight" not in keys:
            continue
        eight = keys[module + ".weight"][0].startswith("F8_")
        one = name in SCALES and keys[key][1] in ((), (1,))
        if not (eight and (one or name in ACTIVATIONS)):
            raise DDMError(
                f"{path} keeps {key} beside a weight: it is quantized in a way that is not known here, and would be "
                "read wrongly. Choose the file in bf16, fp16 or plain fp8."
            )


def check_unused(path: Path, unused: Iterable[str]) -> None:
    """Refuse a denoiser with more weights than its model has.

    Raises:
        DDMError: naming the first.
    """
    if key := min(unused, default=None):
        raise DDMError(
            f"{path} holds {key}, which the model as it is known here does not have: without it, other images would be "
            "made. Choose the model that it was made from."
        )


def scale_of(key: str, keys: Collection[str]) -> str | None:
    """The key of the number that an fp8 weight is to be multiplied by, if there is one."""
    module, _, name = key.rpartition(".")
    return next((f"{module}.{scale}" for scale in SCALES if name == "weight" and f"{module}.{scale}" in keys), None)


def is_companion(key: str) -> bool:
    """Whether a tensor is none of the model's, but says how another is to be read."""
    return key.rpartition(".")[2] in (*SCALES, *ACTIVATIONS, "scaled_fp8")


def _any(keys: Collection[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)
