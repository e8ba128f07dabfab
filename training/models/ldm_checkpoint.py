"""Checkpoints in one file, with the LDM key names that every tool writes: SD 1.x, 2.x and XL as .safetensors.

diffusers' own converters rename the keys; the configurations of the three families lie in `families/`. The family is
told by the text encoder's keys; the sizes are then compared, layer by layer.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import read_header, read_text
from .base_kind import (
    check_companions,
    check_configuration,
    check_keys,
    check_unused,
    is_companion,
    scale_of,
    supported,
)
from .family import FAMILIES, Family, TextEncoder, families
from .tokenizer import find_tokenizer, open_tokenizer

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

    Tensors = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
INPUT = UNET + "input_blocks.0.0.weight"
# How the configuration of Stability's trainer says that v is predicted, and how people name such files.
V_CONFIGURATION = re.compile(r"""^[ \t]*parameterization:[ \t]*["']?v["']?[ \t\r]*(#.*)?$""", re.MULTILINE)
NAMED_V = re.compile(r"v[-_ ]?pred", re.IGNORECASE)
# Of models that are distilled to take the guidance scale.
GUIDANCE_INPUT = UNET + "time_embed.cond_proj.weight"


def check_single_file(path: Path) -> Family:
    """The family of a checkpoint; only its header is read.

    Raises:
        DDMError: no such file, a pickle, truncated, no whole checkpoint, or one of another kind.
    """
    tensors = read_header(path)
    keys = tensors.keys()
    check_keys(path, keys)
    if INPUT not in keys:
        what = "It is a LoRA. " if any("lora" in key for key in keys) else ""
        raise DDMError(
            f"{path} is no checkpoint of {supported()}: it holds no {INPUT}. {what}"
            "Choose a base model of one of these families."
        )
    (_, (_, channels, *_)) = tensors[INPUT]
    edm = any(key.startswith(("edm_mean", "edm_std", "edm_vpred")) for key in keys)
    check_configuration(
        path,
        {"in_channels": channels, "time_cond_proj_dim": GUIDANCE_INPUT in keys},
        scheduler={"_class_name": "EDM"} if edm else {},
    )
    family = next((one for one in families() if _holds_texts(keys, one)), None)
    if family is None:
        raise DDMError(
            f"{path} holds a U-Net, but not the text encoders of {supported()} (base). Choose a whole checkpoint."
        )
    if not _any(keys, VAE):
        raise DDMError(f"{path} holds no VAE. Choose a whole checkpoint.")
    used = (UNET, VAE, *(text.prefix for text in family.text_encoders.values()))
    check_companions(path, {key: value for key, value in tensors.items() if key.startswith(used)})
    return family


def load_single_file(
    path: Path,
    dtype: "torch.dtype",
    tokenizer: str | Path | None = None,
    prediction: str | None = None,
) -> dict[str, object]:
    """Open a checkpoint as the parts of a `Base`, on the CPU.

    Args:
        dtype: of U-Net and text encoders; the VAE is float32.
        tokenizer: see `find_tokenizer`.
        prediction: "epsilon" or "v_prediction"; None: what the file tells (see `prediction_of`).

    Raises:
        DDMError: as in `check_single_file` and `find_tokenizer`; or its weights do not fit the family.
    """
    from diffusers import DDPMScheduler
    from safetensors import safe_open

    family = check_single_file(path)
    folder = find_tokenizer(path, tokenizer)
    with safe_open(path, framework="pt") as file:
        config = configuration_of(family, file, path, prediction)
        models = build_models(family, config, lambda prefix, kind: _read(file, prefix, kind), dtype, path)
    tokenizers = {
        name: open_tokenizer(folder, **config[name.replace("text_encoder", "tokenizer")])
        for name in family.text_encoders
    }
    words, rows = len(tokenizers["text_encoder"]), config["text_encoder"]["vocab_size"]
    if words > rows:
        raise DDMError(
            f"The tokenizer in {folder} knows {words} tokens, and {path.name} only {rows}: it is another model's. Give "
            "CLIP's.",
            "tokenizer",
        )
    return {
        "family": family,
        "denoiser": models.pop("unet"),
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
    from transformers import CLIPTextConfig

    # One model after the other: what was read for one is gone before the next.
    given = read(UNET, dtype)
    renamed = convert_ldm_unet_checkpoint(dict(given), config["unet"])
    models = {"unet": fill_model(UNet2DConditionModel, config["unet"], renamed, path, "U-Net")}
    taken = {weight.data_ptr() for weight in models["unet"].state_dict().values()}
    check_unused(path, (key for key, weight in given.items() if weight.data_ptr() not in taken))
    del given, renamed
    renamed = convert_ldm_vae_checkpoint(read(VAE, torch.float32), config["vae"])
    models["vae"] = fill_model(AutoencoderKL, config["vae"], renamed, path, "VAE")
    for name, place in family.text_encoders.items():
        text = CLIPTextConfig(**config[name])
        renamed = _rename_text_encoder(read(place.prefix, dtype), place, text)
        models[name] = fill_model(place.model, text, renamed, path, "text encoder")
    return models


def read_family(family: Family) -> dict[str, dict[str, Any]]:
    """The configuration of a family at full size."""
    return json.loads((FAMILIES / f"{family.name}.json").read_text(encoding="utf-8"))


def configuration_of(
    family: Family, file: "safe_open", path: Path | None = None, prediction: str | None = None
) -> dict[str, dict[str, Any]]:
    """The configuration of a family, with what differs between its checkpoints put right; see `prediction_of`."""
    config = read_family(family)
    config["scheduler"]["prediction_type"] = prediction or prediction_of(family, file, path)
    if "ztsnr" in file.keys():  # noqa: SIM118  (safe_open is no mapping)
        # arXiv 2305.08891: the last step is noise alone.
        config["scheduler"]["rescale_betas_zero_snr"] = True
    family.adapt(config, {})
    return config


def prediction_of(family: Family, file: "safe_open", path: Path | None = None) -> str:
    """Tell whether a checkpoint predicts ε ("epsilon") or v ("v_prediction").

    As ComfyUI does, by the key `v_pred` or by what the family knows of its weights; by the metadata that trainers
    write; by the .yaml beside the file; and since a schedule that ends in noise alone (the key `ztsnr`) leaves nothing
    to learn for a model that predicts ε.

    Raises:
        DDMError: only the file's name speaks of v.
    """
    keys, metadata = set(file.keys()), file.metadata() or {}
    said = metadata.get("modelspec.prediction_type", "").lower()
    trained = metadata.get("ss_v_parameterization", "").lower() in ("true", "1")
    if "v_pred" in keys or said in ("v", "v_prediction", "vpred") or trained:
        return "v_prediction"
    beside = path.with_suffix(".yaml") if path else None
    if beside and beside.is_file() and V_CONFIGURATION.search(read_text(beside)):
        return "v_prediction"
    if said == "epsilon":
        return said
    if "ztsnr" in keys:
        return "v_prediction"
    told = family.told_prediction(file)
    if told is None and path and NAMED_V.search(path.stem):
        raise DDMError(
            f"{path.name} is called after v-prediction, and nothing in the file tells whether it predicts v. Say what "
            "it predicts, v_prediction or epsilon.",
            "prediction",
        )
    return told or "epsilon"


def _holds_texts(keys: Iterable[str], family: Family) -> bool:
    return all(text.prefix and _any(keys, text.prefix) for text in family.text_encoders.values())


def _any(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def read_tensors(file: "safe_open", wanted: Iterable[str], dtype: "torch.dtype") -> "Tensors":
    """Some of a file's tensors; fp8 weights times their scales."""
    tensors, keys = {}, set(file.keys())
    for key in sorted(wanted):
        tensor, scale = file.get_tensor(key), scale_of(key, keys)
        tensors[key] = (tensor.float() * file.get_tensor(scale).float() if scale else tensor).to(dtype)
    return tensors


def _read(file: "safe_open", prefix: str, dtype: "torch.dtype") -> "Tensors":
    """The tensors whose keys begin so."""
    wanted = (key for key in file.keys() if key.startswith(prefix) and not is_companion(key))  # noqa: SIM118
    return read_tensors(file, wanted, dtype)


def _rename_text_encoder(tensors: "Tensors", place: TextEncoder, config: Any) -> "Tensors":
    """The weights of a text encoder, without the prefix `text_model.`, which not every version of transformers has."""
    from types import SimpleNamespace

    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    if place.open_clip:
        renamed = convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, place.prefix)
    else:
        renamed = convert_ldm_clip_checkpoint(tensors)
    return {name.removeprefix("text_model."): value for name, value in renamed.items()}


def fill_model(kind: type, config: Any, tensors: "Tensors", path: Path, what: str) -> "torch.nn.Module":
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
                f"The {what} in {path} is not that of {supported()}: its {name} {problem}. Distilled "
                "and extended models are not supported; choose the model that it was made from."
            )
        found[name] = weight
    model.load_state_dict(found, assign=True)
    return model


def _times(tensor: "torch.Tensor") -> str:
    return "×".join(map(str, tensor.shape))
