"""Opening a base model: a pipeline folder, a checkpoint, or a diffusion model that is kept apart from its encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import check_finite, check_path
from .base import Base
from .diffusers_folder import check_folder, load_folder, read_config
from .family import PREDICTIONS, Family, family_of
from .file_hash import hash_files

if TYPE_CHECKING:
    import torch


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
        raise DDMError("No CUDA device can be used here. Use cpu, or auto.", "device")
    return device


def load_base(
    path: str | Path,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    tokenizer: str | Path | None = None,
    prediction: str | None = None,
    vae: str | Path | None = None,
    clip_skip: int | None = None,
    mixed_precision: str = "auto",
    text_encoder_file: Sequence[str | Path] | None = None,
    quantize: str | None = None,
    offload_blocks: bool = False,
) -> Base:
    """Open a base. Never downloads anything.

    Args:
        path: a pipeline folder in diffusers layout (it holds model_index.json), or a checkpoint file (see
            `single_file`).
        device: a torch device, or its name as `resolve_device` takes it.
        dtype: of U-Net and text encoders; by default float32 on the CPU (whatever the files hold: half precision is
            slow there) and bfloat16 on a GPU (float16 where it has no bfloat16).
        tokenizer: folder of the tokenizer, for a checkpoint; by default it is looked for (see `find_tokenizer`). A
            pipeline folder has its own.
        prediction: "epsilon" or "v_prediction", for a base whose files do not tell, or tell wrongly.
        vae: a VAE to use instead of the base's own: a file, or a folder in diffusers layout.
        clip_skip: see `Base`.
        mixed_precision: one of `PRECISIONS`: "auto" is as `dtype` says; "no" is float32 in everything, "fp16" and
            "bf16" are the dtype.
        text_encoder_file: of a diffusion model that is kept apart from them (see `find_components`).
        quantize, offload_blocks: how the denoiser's blocks are kept (see `keep_small`); the other parts then rest, and
            the weights of text encoders that are never trained are offloaded.

    Raises:
        DDMError: it is no such base, or parts or weights of it are missing or broken; or no tokenizer is found.
    """
    import torch

    from .component_files import find_components, load_components

    path = check_path(path)
    device = device if isinstance(device, torch.device) else resolve_device(device)
    if mixed_precision != "auto":
        dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]
    if dtype is None:
        dtype = torch.float32
        if device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if prediction not in (None, *PREDICTIONS):
        raise DDMError(
            f"A base predicts {' or '.join(PREDICTIONS)}, not {prediction!r}. Give one of them.",
            "prediction",
        )
    components = find_components(path, text_encoder_file or (), vae) if path.is_file() else None
    files = components.files if components else check_weights(path)
    if path.is_dir():
        parts = load_folder(path, files, dtype, prediction)
    elif components:
        parts, vae = load_components(components, dtype, tokenizer), None
    else:
        from .ldm_checkpoint import load_single_file

        parts = load_single_file(path, dtype, tokenizer, prediction)
    if vae is not None:
        from .vae_file import load_vae

        parts["vae"], parts["other_vae"] = load_vae(vae, parts["vae"].config)
    small = bool(quantize or offload_blocks)
    for name, model in {parts["family"].part: parts["denoiser"], "vae": parts["vae"], **parts["text_encoders"]}.items():
        model.to("cpu" if small else device).eval().requires_grad_(False)
        check_finite(f"The base model in {path}", {f"{name}.{key}": value for key, value in model.state_dict().items()})
    if small:
        from .frozen_linear import keep_small

        keep_small(parts["denoiser"], device, quantize, offload_blocks)
        parts["denoiser"].to(device)
        for model in () if parts["family"].text_targets else parts["text_encoders"].values():
            keep_small(model, device, offload=True)
    base = Base(
        resting=small,
        path=path,
        hash=hash_files(files[parts["family"].part]),
        device=device,
        dtype=dtype,
        clip_skip=clip_skip,
        mixed=mixed_precision != "no",
        **parts,
    )
    if clip_skip and not base.family.skips_layers:
        raise DDMError(
            f"{base.family.title} always reads the same layer of its text encoders, as it was trained with. Leave clip "
            "skip out.",
            "clip_skip",
        )
    if base.prediction not in base.family.predictions:
        raise DDMError(
            f"The base model in {path} predicts “{base.prediction}”, which the trainer does not know. "
            f"Use one that predicts {' or '.join(base.family.predictions)}."
        )
    if prediction not in (None, base.prediction):
        raise DDMError(f"{base.family.title} does not predict “{prediction}”. Say nothing of it.", "prediction")
    return base


def check_weights(
    path: str | Path, text_encoder_file: Sequence[str | Path] | None = None, vae: str | Path | None = None
) -> dict[str, list[Path]]:
    """The files that hold a base's weights, by part, without loading them: a pipeline folder's, or a checkpoint's.

    Args:
        text_encoder_file, vae: as in `load_base`.

    Raises:
        DDMError: it is no base of a kind that we support; the message says what is missing or broken.
    """
    path = check_path(path)
    if path.is_dir() or not path.suffix:
        return check_folder(path)
    from .component_files import find_components
    from .ldm_checkpoint import check_single_file

    if components := find_components(path, text_encoder_file or (), vae):
        return components.files
    check_single_file(path)
    return {"unet": [path]}


def read_configuration(
    path: str | Path, text_encoder_file: Sequence[str | Path] | None = None, vae: str | Path | None = None
) -> tuple[Family, dict[str, dict[str, Any]]]:
    """Of which family a base is, and the configuration of its parts, without loading it; arguments as in `load_base`.

    Raises:
        DDMError: as in `check_weights`.
    """
    path = check_path(path)
    if path.is_dir():
        config = {part: read_config(path, part) for part in check_folder(path)}
        return family_of(config), config
    from .component_files import find_components
    from .ldm_checkpoint import check_single_file, read_family

    if components := find_components(path, text_encoder_file or (), vae):
        return components.family, components.config
    family = check_single_file(path)
    return family, read_family(family)
