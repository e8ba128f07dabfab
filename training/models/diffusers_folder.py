"""Pipeline folders in diffusers layout: what they must hold, and how it is opened."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import load_tensors, read_header
from ...debias.core.strict_json import read_json_file
from .base_kind import check_companions, check_configuration, check_index, check_unused, scale_of, supported
from .family import Family, TextEncoder, class_of, family_of
from .tokenizer import LENGTH

if TYPE_CHECKING:
    import torch

# What each part of the pipeline needs, and the stem of its weight file (None: no weights).
PARTS = {
    "unet": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
    "text_encoder": ("config.json", "model"),
    "tokenizer": ("tokenizer_config.json", None),
    "scheduler": ("scheduler_config.json", None),
}
TRANSFORMER = "transformer"
TEXT_MODEL = "text_model."
TEXT_KIND = "clip_text_model"
SHORTEST = 3  # tokens: a beginning, a word, an end


def check_folder(folder: str | Path) -> dict[str, list[Path]]:
    """Weight files of each part of a pipeline folder, without loading them.

    Raises:
        DDMError: it is no pipeline folder of a kind that we support; the message says what is missing or broken.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise DDMError(
            f"{folder} is not a base model: it holds no model_index.json. Give a checkpoint (.safetensors), or a "
            "folder in diffusers layout (unet, vae, text_encoder, tokenizer, scheduler) such as examples/tiny_people."
        )
    names = read_config(folder, "", index.name)
    *_, kind = names.get(TRANSFORMER) or [None]
    family = kind and family_of({TRANSFORMER: {"_class_name": kind}})
    weights = check_parts(folder, _parts(family, folder)) if family else _check_unet(folder, names)
    for files in weights.values():
        tensors = {key: value for path in files for key, value in read_header(path).items()}
        scaled = next((key for key in tensors if scale_of(key, tensors)), None)
        if scaled:
            raise DDMError(
                f"{files[0]} is fp8 with a scale for each weight ({scaled}), which is only read in checkpoints. Choose "
                "the folder in bf16 or fp16."
            )
        check_companions(files[0], tensors)
    return weights


def _check_unet(folder: Path, names: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The weight files of a folder that holds a U-Net, or should."""
    check_index(folder, names)
    second = ("text_encoder_2", "tokenizer_2") if "text_encoder_2" in names else ()
    weights = check_parts(folder, PARTS | {part: _needs(part) for part in second})
    check_configuration(folder, *(read_config(folder, part) for part in ("unet", "vae", "scheduler")))
    for part in weights:
        kind = read_config(folder, part).get("model_type", TEXT_KIND)
        if kind != TEXT_KIND:
            raise DDMError(f"The {part} of {folder} is of the kind {kind}, not CLIP's. Choose a base of {supported()}.")
    return weights


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


def load_folder(
    folder: Path, weights: dict[str, list[Path]], dtype: "torch.dtype", prediction: str | None = None
) -> dict[str, object]:
    """Open a pipeline folder as the parts of a `Base`, on the CPU.

    Args:
        weights: from `check_folder`.
        dtype: of U-Net and text encoders; the VAE is float32.
        prediction: "epsilon" or "v_prediction", whatever the scheduler says; None: what it says.

    Raises:
        DDMError: a part cannot be opened, or its weights do not fit its configuration.
    """
    import torch

    config = _configs(folder, weights)
    family = family_of(config)
    if family is None:
        raise DDMError(f"The base model in {folder} is of no family that is known. Choose another one.")
    names = [name for name in family.text_encoders if name in weights]
    with _no_progress_bars():
        return {
            "family": family,
            "denoiser": _load_model(class_of("diffusers", family.denoiser), folder, family.part, dtype, weights),
            "vae": _load_model(class_of("diffusers", family.vae), folder, "vae", torch.float32, weights),
            "text_encoders": {
                name: _load_text_encoder(family.text_encoders[name], folder, name, dtype, weights) for name in names
            },
            "tokenizers": {
                name: load_tokenizer(family.text_encoders[name], folder, tokenizer_of(name), config[name])
                for name in names
            },
            "scheduler": _load_scheduler(class_of("diffusers", family.scheduler), folder, prediction),
        }


def tokenizer_of(text_encoder: str) -> str:
    """The name of a text encoder's tokenizer in a pipeline."""
    return text_encoder.replace("text_encoder", "tokenizer")


def _needs(part: str) -> tuple[str, str | None]:
    """See `PARTS`; the second and third text encoder are as the first."""
    return PARTS["unet" if part == TRANSFORMER else part.rstrip("_23")]


def _parts(family: Family, folder: Path) -> dict[str, tuple[str, str | None]]:
    """What a folder of a family needs (see `PARTS`)."""
    texts = [name for name, text in family.text_encoders.items() if (folder / name).is_dir() or not text.optional]
    return {part: _needs(part) for part in (family.part, "vae", "scheduler", *texts, *map(tokenizer_of, texts))}


def _configs(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {part: read_config(folder, part) for part in parts}


def read_config(folder: Path, part: str, name: str = "") -> dict[str, Any]:
    """The configuration of a part of a pipeline folder, in the file that its kind of part has, or in that called so.

    Raises:
        DDMError: it cannot be read.
    """
    path = folder / part / (name or _needs(part)[0])
    try:
        config = read_json_file(path)
    except DDMError as error:
        raise DDMError(f"{error} Copy or download the base model again.") from error
    if not isinstance(config, dict):
        raise DDMError(f"{path} is no configuration. Copy or download the base model again.")
    return config


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
    options = {"use_safetensors": True, "variant": variant, "output_loading_info": True, "torch_dtype": dtype}
    model, info = _load_part(kind, folder, part, **options)
    _check_whole(folder / part, info["missing_keys"])
    if part not in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):  # these may bring what draws nothing
        given = {key for path in weights[part] for key in read_header(path)}  # older versions of diffusers do not tell
        check_unused(folder / part, given - model.state_dict().keys())
    return model


def _load_text_encoder(
    text: TextEncoder, folder: Path, part: str, dtype: "torch.dtype", weights: dict[str, list[Path]]
):
    if text.kind:
        return _load_model(text.model, folder, part, dtype, weights)
    return _load_clip(text.model, folder, part, dtype, weights[part])


def _load_clip(kind: type, folder: Path, part: str, dtype: "torch.dtype", files: list[Path]):
    """CLIP's text encoder, whichever version of transformers saved it: not all begin its names with `text_model.`."""
    from accelerate import init_empty_weights

    config = _load_part(kind.config_class, folder, part)
    loaded = {name: tensor for file in files for name, tensor in load_tensors(file)[0].items()}
    tensors = {name.removeprefix(TEXT_MODEL): tensor.to(dtype) for name, tensor in loaded.items()}
    with init_empty_weights():
        model = kind(config)
    names = list(model.state_dict())
    _check_whole(folder / part, [name for name in names if name.removeprefix(TEXT_MODEL) not in tensors])
    try:
        model.load_state_dict({name: tensors[name.removeprefix(TEXT_MODEL)] for name in names}, assign=True)
    except RuntimeError as error:
        raise _unusable(folder / part, kind, error) from error
    return model.eval()


def _load_scheduler(kind: type, folder: Path, prediction: str | None):
    """The noise schedule, with another prediction than it says if one is given."""
    scheduler = _load_part(kind, folder, "scheduler")
    if prediction is not None:
        scheduler = kind.from_config(scheduler.config, prediction_type=prediction)
    elif scheduler.config.get("rescale_betas_zero_snr") and scheduler.config.prediction_type == "epsilon":
        raise DDMError(
            f"The schedule in {folder / 'scheduler'} ends in noise alone (rescale_betas_zero_snr), where a model that "
            "predicts noise learns nothing, but says that it does. Say what it predicts, v_prediction or epsilon.",
            "prediction",
        )
    return scheduler


def load_tokenizer(text: TextEncoder, folder: Path, part: str, config: Mapping[str, Any], **options: str):
    """A tokenizer for a text encoder of that configuration, which says how many tokens are read and known.

    Args:
        options: tokens that are to be others than its files say.
    """
    tokenizer = _load_part(class_of("transformers", text.tokenizer), folder, part, **options)
    read = text.length or config.get("max_position_embeddings", LENGTH)
    said = tokenizer.model_max_length
    if not isinstance(said, (int, float)) or said < SHORTEST:
        raise DDMError(
            f"The tokenizer in {folder / part} says that it reads {said!r} tokens, which is no length. Copy or "
            "download the base model again."
        )
    tokenizer.model_max_length = int(min(said, read))
    rows = config.get("vocab_size", len(tokenizer))
    if len(tokenizer) > rows:
        raise DDMError(
            f"The tokenizer in {folder / part} knows {len(tokenizer)} tokens, and its text encoder only {rows}: it is "
            "another model's. Copy or download the base model again."
        )
    return tokenizer


def _check_whole(place: Path, missing: Iterable[str]) -> None:
    absent = sorted(missing)
    if absent:
        raise DDMError(
            f"The weights of {place} do not fit its config.json: {len(absent)} are missing, the first is {absent[0]}. "
            "Copy or download the base model again."
        )


def _unusable(place: Path, kind: type, error: Exception) -> DDMError:
    reason = " ".join(str(error).split())[:300]
    return DDMError(f"{place} cannot be opened as {kind.__name__} ({reason}). Copy or download the base model again.")


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
        raise _unusable(folder / part, kind, error) from error
