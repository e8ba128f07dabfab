"""A VAE by itself, to use instead of the one that a base brings: a file with LDM's or diffusers' names, or a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import check_finite, load_tensors
from .diffusers_folder import read_config
from .file_hash import hash_files
from .ldm_checkpoint import fill_model

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

# How diffusers called the attention's matrices until 0.17, as sd-vae-ft-mse still does.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def load_vae(path: str | Path, config: Mapping[str, Any]) -> "tuple[AutoencoderKL, str]":
    """Open a VAE in float32, on the CPU.

    Args:
        path: a .safetensors file, or a folder that holds one.
        config: of the base's own VAE, which it has to fit.

    Returns:
        The VAE, and the sha256 (hex) of its file.

    Raises:
        DDMError: it is no VAE, or none of this base's kind.
    """
    import torch
    from diffusers import AutoencoderKL

    file = _file(Path(path), config)
    tensors = {key: tensor.to(torch.float32) for key, tensor in load_tensors(file)[0].items()}
    if not any(key.endswith("decoder.conv_in.weight") for key in tensors):
        raise DDMError(f"{file} is no VAE: it holds no decoder.conv_in.weight. Give another one.", "vae")
    tensors = rename_vae(tensors, config)
    check_finite(f"The VAE in {file}", tensors)
    return fill_model(AutoencoderKL, config, tensors, file, "VAE"), hash_files([file])


def rename_vae(tensors: "dict[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """A VAE's tensors by diffusers' names of today."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    if not any(key.startswith("decoder.mid_block.") for key in tensors):
        return convert_ldm_vae_checkpoint(tensors, config)
    for old, new in OLD_NAMES.items():
        tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    return tensors


def _file(path: Path, config: Mapping[str, Any]) -> Path:
    """The file of a VAE: the path itself, or what a folder of one, or of a pipeline, holds."""
    if not path.is_dir():
        return path
    folder = path / "vae" if (path / "vae").is_dir() else path
    found = sorted(folder.glob("*.safetensors"), key=lambda file: len(file.name))  # the plain name before .fp16
    if not found:
        raise DDMError(f"{path} holds no VAE: there is no .safetensors file in it. Give another one.", "vae")
    if (folder / "config.json").is_file():
        scale = read_config(folder, "", "config.json").get("scaling_factor", config["scaling_factor"])
        if scale != config["scaling_factor"]:
            raise DDMError(
                f"The VAE in {folder} scales its latents by {scale}, and the base by {config['scaling_factor']}: it is "
                "of another family. Give another one.",
                "vae",
            )
    return found[0]
