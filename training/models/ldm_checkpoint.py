"""Checkpoints in one file, with the LDM key names that every tool writes: SD 1.x, 2.x and XL as .safetensors.

diffusers' own converters rename the keys; the configurations of the three families lie in `families/`. The family is
told by the text encoder's keys; the sizes are then compared, layer by layer.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import read_metadata
from .family import FAMILIES, Family, TextEncoder, families
from .tokenizer import find_tokenizer, open_tokenizer

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

    Tensors = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
INPUT = UNET + "input_blocks.0.0.weight"
CHANNELS = 4


def check_single_file(path: Path) -> Family:
    """The family of a checkpoint; only its header is read.

    Raises:
        DDMError: no such file, a pickle, truncated, no whole checkpoint, or one of another kind.
    """
    from safetensors import safe_open

    read_metadata(path)  # refuses what is no safetensors file
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        channels = file.get_slice(INPUT).get_shape()[1] if INPUT in keys else CHANNELS
    if INPUT not in keys:
        what = "It is a LoRA. " if any("lora" in key for key in keys) else ""
        raise DDMError(
            f"{path} is no checkpoint of Stable Diffusion 1.x, 2.x or XL: it holds no {INPUT}. {what}"
            "Choose a base model of one of these families."
        )
    if channels != CHANNELS:
        raise DDMError(
            f"{path} takes {channels} channels where a text-to-image model takes {CHANNELS}: it is made for inpainting "
            "or editing. Choose the model that it was made from."
        )
    if {"edm_mean", "edm_vpred.sigma_max"} & keys:
        raise DDMError(f"{path} was trained with EDM's noise, which the trainer does not know. Choose another base.")
    found = (one for one in families() if all(_any(keys, text.prefix) for text in one.text_encoders.values()))
    family = next(found, None)
    if family is None:
        raise DDMError(
            f"{path} holds a U-Net, but not the text encoders of Stable Diffusion 1.x, 2.x or XL (base). Choose a "
            "whole checkpoint."
        )
    if not _any(keys, VAE):
        raise DDMError(f"{path} holds no VAE. Choose a whole checkpoint.")
    return family


def load_single_file(
    path: Path,
    dtype: "torch.dtype",
    tokenizer: str | Path | None = None,
) -> dict[str, object]:
    """Open a checkpoint as the parts of a `Base`, on the CPU.

    Args:
        dtype: of U-Net and text encoders; the VAE is float32.
        tokenizer: see `find_tokenizer`.

    Raises:
        DDMError: as in `check_single_file` and `find_tokenizer`; or its weights do not fit the family.
    """
    from diffusers import DDPMScheduler
    from safetensors import safe_open

    family = check_single_file(path)
    folder = find_tokenizer(path, tokenizer)
    with safe_open(path, framework="pt") as file:
        config = configuration_of(family, file)
        models = build_models(family, config, lambda prefix, kind: _read(file, prefix, kind), dtype, path)
    tokenizers = {
        name: open_tokenizer(folder, **config[name.replace("text_encoder", "tokenizer")])
        for name in family.text_encoders
    }
    words, rows = len(tokenizers["text_encoder"]), config["text_encoder"]["vocab_size"]
    if words > rows:
        raise DDMError(
            f"The tokenizer in {folder} knows {words} tokens, and {path.name} only {rows}: it is another model's. Give "
            "CLIP's (--tokenizer)."
        )
    return {
        "family": family,
        "unet": models.pop("unet"),
        "vae": models.pop("vae"),
        "text_encoders": models,
        "tokenizers": tokenizers,
        "scheduler": DDPMScheduler.from_config(config["scheduler"]),
    }


def build_models(
    family: Family,
    config: Mapping[str, Any],
    read: "Callable[[str, torch.dtype], Tensors]",
    dtype: "torch.dtype",
    path: Path,
) -> "dict[str, torch.nn.Module]":
    """U-Net, VAE and text encoders from a checkpoint's weights.

    Args:
        config: see `configuration_of`.
        read: (prefix, dtype) → the tensors whose keys begin so, with their whole keys.
        dtype: of U-Net and text encoders; the VAE is float32.
        path: the checkpoint, for errors.

    Raises:
        DDMError: weights are missing, or of another shape than the family's.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    # One model after the other: what was read for one is gone before the next.
    renamed = convert_ldm_unet_checkpoint(read(UNET, dtype), config["unet"])
    models = {"unet": _fill(UNet2DConditionModel, config["unet"], renamed, path, "U-Net")}
    renamed = convert_ldm_vae_checkpoint(read(VAE, torch.float32), config["vae"])
    models["vae"] = _fill(AutoencoderKL, config["vae"], renamed, path, "VAE")
    for name, place in family.text_encoders.items():
        text = CLIPTextConfig(**config[name])
        renamed = _rename_text_encoder(read(place.prefix, dtype), place, text)
        kind = CLIPTextModelWithProjection if place.projected else CLIPTextModel
        models[name] = _fill(kind, text, renamed, path, "text encoder")
    return models


def configuration_of(family: Family, file: "safe_open") -> dict[str, dict[str, Any]]:
    """The configuration of a family, with what differs between its checkpoints put right."""
    config = json.loads((FAMILIES / f"{family.name}.json").read_text(encoding="utf-8"))
    config["scheduler"]["prediction_type"] = prediction_of(family, file)
    if "ztsnr" in file.keys():  # noqa: SIM118  (safe_open is no mapping)
        # arXiv 2305.08891: the last step is noise alone.
        config["scheduler"]["rescale_betas_zero_snr"] = True
    family.adapt(config, file)
    return config


def prediction_of(family: Family, file: "safe_open") -> str:
    """Tell whether a checkpoint predicts ε ("epsilon") or v ("v_prediction").

    As ComfyUI does, by the key `v_pred` or by what the family knows of its weights; and by
    `modelspec.prediction_type` in the metadata.
    """
    said = (file.metadata() or {}).get("modelspec.prediction_type", "").lower()
    if "v_pred" in file.keys() or said in ("v", "v_prediction", "vpred"):  # noqa: SIM118
        return "v_prediction"
    return "epsilon" if said == "epsilon" else family.told_prediction(file) or "epsilon"


def _any(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _read(file: "safe_open", prefix: str, dtype: "torch.dtype") -> "Tensors":
    return {key: file.get_tensor(key).to(dtype) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def _rename_text_encoder(tensors: "Tensors", place: TextEncoder, config: Any) -> "Tensors":
    """The weights of a text encoder, without the prefix `text_model.`, which not every version of transformers has."""
    from types import SimpleNamespace

    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    if place.open_clip:
        renamed = convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, place.prefix)
    else:
        renamed = convert_ldm_clip_checkpoint(tensors)
    return {name.removeprefix("text_model."): value for name, value in renamed.items()}


def _fill(kind: type, config: Any, tensors: "Tensors", path: Path, what: str) -> "torch.nn.Module":
    """A model of that configuration with these weights, which it takes over without a copy.

    Raises:
        DDMError: weights are missing, or of another shape.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = kind.from_config(dict(config)) if isinstance(config, Mapping) else kind(config)
    found = {}
    for name, empty in model.state_dict().items():
        weight = tensors.get(name, tensors.get(name.removeprefix("text_model.")))
        if weight is None or weight.shape != empty.shape:
            problem = "is missing" if weight is None else f"is {_times(weight)} instead of {_times(empty)}"
            raise DDMError(
                f"The {what} in {path} is not that of Stable Diffusion 1.x, 2.x or XL: its {name} {problem}. Distilled "
                "and extended models are not supported; choose the model that it was made from."
            )
        found[name] = weight
    model.load_state_dict(found, assign=True)
    return model


def _times(tensor: "torch.Tensor") -> str:
    return "×".join(map(str, tensor.shape))
