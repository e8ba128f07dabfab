"""Model folders in diffusers layout as the host's own MODEL, CLIP and VAE.

Shapes that the host knows (SD 1.x, 2.x, SDXL) go through its own loaders. Smaller ones, as the embedded model, are
built here from the host's own classes and the folder's config.json files.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from safetensors import safe_open

from ..debias.core.error import DDMError
from ..debias.core.strict_json import read_json_file

Tensors = dict[str, torch.Tensor]
# Under which name a MODEL carries the hash that adapters remember (see `AdapterCard.base_hash`).
BASE_HASH = "ddm_base_hash"
# The host's CLIP keeps this many rows, whatever the tokenizer.
VOCABULARY = 49408
LEVELS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True, "UpBlock2D": False, "CrossAttnUpBlock2D": True}


def load_folder(folder: Path) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a model folder; the MODEL carries the folder's base hash.

    Raises:
        DDMError: the folder is incomplete, or of a kind that cannot be built.
    """
    from ..training.models.file_hash import hash_files

    weights = weight_files(folder)
    model = load_model(folder)
    model.set_attachments(BASE_HASH, hash_files(weights["unet"]))
    return model, load_clip(folder), load_vae(folder)


def load_model(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The U-Net as a MODEL.

    Args:
        disable_dynamic: asked for by newer hosts, which make a second copy through `cached_patcher_init`.
    """
    files = weight_files(folder)["unet"]
    if _is_stock(files):
        load = comfy.sd.load_diffusion_model_state_dict
        patcher = load(_read(files), **_accepted(load, disable_dynamic=disable_dynamic))
    else:
        patcher = _build_model(folder, _read(files))
    return _reloadable(patcher, load_model, folder)


def load_clip(folder: Path, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The text encoder, or both of SDXL's, as a CLIP; arguments as in `load_model`."""
    weights = weight_files(folder)
    texts = [_with_prefix(_read(weights[part])) for part in ("text_encoder", "text_encoder_2") if part in weights]
    if _is_stock(weights["unet"]):
        load = comfy.sd.load_text_encoder_state_dicts
        clip = load(
            texts,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            **_accepted(load, disable_dynamic=disable_dynamic),
        )
    else:
        clip = _build_clip(folder, texts[0])
    _reloadable(clip.patcher, _clip_patcher, folder)
    return clip


def load_vae(folder: Path) -> comfy.sd.VAE:
    """The VAE."""
    weights = weight_files(folder)
    sd = _read(weights["vae"])
    vae = comfy.sd.VAE(sd=sd) if _is_stock(weights["unet"]) else _build_vae(folder, sd)
    _reloadable(vae.patcher, _vae_patcher, folder)
    return vae


def _clip_patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_clip(folder, disable_dynamic).patcher


def _vae_patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_vae(folder).patcher


def _reloadable(patcher: comfy.model_patcher.ModelPatcher, factory: Callable, folder: Path):
    """Tell newer hosts how to load a fresh copy, which training and several GPUs need."""
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (factory, (folder,))
    return patcher


def _accepted(function: Callable, **options: object) -> dict[str, object]:
    """Those of the options that this host's version of a function takes."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


def weight_files(folder: Path) -> Mapping[str, list[Path]]:
    """The weight files of each part of a model folder; they are not read.

    Raises:
        DDMError: a part is missing, broken or a pickle; or it is another kind of model.
    """
    from ..training.models.diffusers_folder import check_folder

    weights = check_folder(folder)
    if "unet" not in weights:
        raise DDMError(
            f"{folder} holds a transformer, and this node opens U-Nets only. Load it with ComfyUI's own nodes for "
            "diffusion models, text encoders and VAEs."
        )
    return weights


def _read(files: list[Path]) -> Tensors:
    sd: Tensors = {}
    for path in files:
        sd |= comfy.utils.load_torch_file(str(path), safe_load=True)
    return sd


def _is_stock(unet: list[Path]) -> bool:
    """Whether the host's own loaders know a U-Net of the shapes in these files; the weights are not read."""
    shapes = {}
    for path in unet:
        with safe_open(path, framework="pt") as file:
            # safe_open is no mapping: it has only keys().
            shapes |= {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118
    return comfy.model_detection.model_config_from_diffusers_unet(shapes) is not None


def _with_prefix(text: Tensors) -> Tensors:
    """A text encoder's weights as they are usually named: transformers 5 saves them without the model's own name."""
    named = any(key.startswith("text_model.") for key in text)
    return text if named else {key if "projection" in key else f"text_model.{key}": text[key] for key in text}


def _config(folder: Path, part: str) -> dict:
    name = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}.get(part, "config.json")
    path = folder / part / name
    try:
        return read_json_file(path)
    except DDMError as error:
        raise DDMError(f"{error} Copy or download the model again.") from error


def _check_loaded(what: str, folder: Path, expected: set[str], given: set[str]) -> None:
    """Refuse weights that do not fit: the host only logs a warning."""
    wrong = sorted(expected ^ given)
    if wrong:
        raise DDMError(
            f"The {what} in {folder} cannot be built here: {len(wrong)} weights are missing or unknown, the first is "
            f"{wrong[0]}. Use a Stable Diffusion 1.x, 2.x or XL, or convert it to a checkpoint."
        )


# The small shapes


def unet_config(config: Mapping) -> dict:
    """The host's U-Net arguments for a diffusers UNet2DConditionModel's config.json.

    Raises:
        DDMError: the config asks for something that the host's U-Net does not have.
    """
    channels, down = config["block_out_channels"], config["down_block_types"]
    # diffusers' up blocks start at the deepest level, the host's list at the first.
    up = list(reversed(config["up_block_types"]))
    unknown = {*down, *up} - LEVELS.keys()
    odd = [width for width in channels if width % channels[0] or width % 32]
    if unknown or odd or config.get("norm_num_groups", 32) != 32 or config.get("class_embed_type"):
        raise DDMError(
            f"This U-Net cannot be built in ComfyUI ({', '.join(sorted(unknown)) or f'channels {channels}'}): it takes "
            "plain and cross-attention blocks whose channels are multiples of 32 and of the first level's."
        )

    def per_level(name: str) -> list[int]:
        value = config.get(name, 1)
        return list(value) if isinstance(value, list | tuple) else [value] * len(channels)

    layers, depth = per_level("layers_per_block"), per_level("transformer_layers_per_block")
    # diffusers' attention_head_dim is the number of heads, for the sake of its first models.
    heads = per_level("num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim")
    widths = {width // count for width, count in zip(channels, heads, strict=True)}
    if len(set(heads)) > 1 and len(widths) > 1:
        raise DDMError("This U-Net cannot be built in ComfyUI: neither the number of heads nor their size is the same.")
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": layers,
        "transformer_depth": [
            count for kind, n, size in zip(down, layers, depth, strict=True) for count in [LEVELS[kind] * size] * n
        ],
        "transformer_depth_output": [
            count for kind, n, size in zip(up, layers, depth, strict=True) for count in [LEVELS[kind] * size] * (n + 1)
        ],
        "transformer_depth_middle": depth[-1],
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "use_temporal_attention": False,
        "legacy": False,
        "adm_in_channels": None,
        "num_heads": heads[0] if len(set(heads)) == 1 else -1,
        "num_head_channels": -1 if len(set(heads)) == 1 else widths.pop(),
    }


def _build_model(folder: Path, sd: Tensors) -> comfy.model_patcher.ModelPatcher:
    scheduler, vae = _config(folder, "scheduler"), _config(folder, "vae")
    arguments = unet_config(_config(folder, "unet"))
    kinds = comfy.model_base.ModelType
    kind = {"epsilon": kinds.EPS, "v_prediction": kinds.V_PREDICTION}.get(scheduler.get("prediction_type", "epsilon"))
    if kind is None or scheduler.get("beta_schedule") != "scaled_linear":
        raise DDMError(
            f"The noise schedule in {folder / 'scheduler'} is not one of Stable Diffusion's (scaled_linear; epsilon or "
            "v_prediction), so ComfyUI would make wrong images of it. Use another model."
        )
    latents = comfy.latent_formats.SD15(scale_factor=vae["scaling_factor"])
    latents.latent_rgb_factors = None  # those of SD 1.5 would give previews in wrong colours

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config: ClassVar[dict] = {}
        sampling_settings: ClassVar[dict] = {
            "linear_start": scheduler["beta_start"],
            "linear_end": scheduler["beta_end"],
            "timesteps": scheduler["num_train_timesteps"],
            "zsnr": scheduler.get("rescale_betas_zero_snr", False),
        }
        latent_format = staticmethod(lambda: latents)

        def model_type(self, state_dict, prefix=""):
            return kind

    config = Config(arguments)
    load_device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(model_params=comfy.utils.calculate_parameters(sd))
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, load_device))
    model = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names.get(key, key): value for key, value in sd.items()}
    _check_loaded("U-Net", folder / "unet", set(model.diffusion_model.state_dict()), set(weights))
    model.load_model_weights(weights, "")
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model.to(offload), load_device=load_device, offload_device=offload)


def _build_clip(folder: Path, sd: Tensors) -> comfy.sd.CLIP:
    config = _config(folder, "text_encoder")
    length = config["max_position_embeddings"]
    table = "text_model.embeddings.token_embedding.weight"
    sd[table] = torch.nn.functional.pad(sd[table], (0, 0, 0, VOCABULARY - len(sd[table])))
    tokenizer = functools.partial(
        comfy.sd1_clip.SDTokenizer,
        str(folder / "tokenizer"),
        max_length=length,
        embedding_size=config["hidden_size"],
    )
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=length,
                textmodel_json_config=config,
                special_tokens=special,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    target = comfy.supported_models_base.ClipTarget(
        functools.partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=tokenizer),
        functools.partial(comfy.sd1_clip.SD1ClipModel, clip_model=Encoder),
    )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        # On a CPU the host would store it in half precision: cheap, but not what the model was trained with.
        model_options={"dtype": torch.float32},
        **_accepted(comfy.sd.CLIP.__init__, disable_dynamic=True),
    )
    missing, unknown = clip.load_sd(sd)
    extra = {"text_projection.weight", "text_model.embeddings.position_ids"}
    _check_loaded("text encoder", folder / "text_encoder", set(missing) - extra, set(unknown) - extra)
    return clip


def _build_vae(folder: Path, sd: Tensors) -> comfy.sd.VAE:
    config = _config(folder, "vae")
    channels = config["block_out_channels"]
    if len(channels) != 4 or any(width % channels[0] for width in channels):
        raise DDMError(
            f"The VAE in {folder / 'vae'} cannot be built in ComfyUI: it takes four levels, whose channels are "
            f"multiples of the first one's, and this one has {channels}."
        )
    ddconfig = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    sizes = {"ddconfig": ddconfig, "embed_dim": config["latent_channels"]}
    vae = comfy.sd.VAE(sd=sd, config={"params": sizes})
    given = comfy.sd.diffusers_convert.convert_vae_state_dict(sd)
    _check_loaded("VAE", folder / "vae", set(vae.first_stage_model.state_dict()), set(given))
    return vae
