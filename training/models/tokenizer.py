"""Tokenizers, which a checkpoint does not hold: found on this machine, never downloaded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...debias.core.error import DDMError
from ...debias.core.strict_json import read_json_file

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

FILES = ("vocab.json", "merges.txt")
LENGTH = 77


class Place(NamedTuple):
    """Where a kind of tokenizer is.

    Attributes:
        title: whose it is.
        comfyui: where ComfyUI keeps it, below its own folder.
        files: that it needs; one set of them, if there are several.
        cached: models that have it, as (repository, folder), looked for among what transformers and diffusers have
            downloaded before.
    """

    title: str
    comfyui: Path
    files: tuple[tuple[str, ...], ...] = (FILES,)
    cached: tuple[tuple[str, str], ...] = ()


ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = {
    "CLIPTokenizer": Place(
        "CLIP",
        Path("comfy") / "sd1_tokenizer",
        cached=(
            ("openai/clip-vit-large-patch14", ""),
            ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
            ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
            ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
            ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
        ),
    ),
    "Qwen2Tokenizer": Place(
        "Qwen",
        Path("comfy") / "text_encoders" / "qwen25_tokenizer",
        (FILES, ("tokenizer.json",)),
        cached=(("Tongyi-MAI/Z-Image-Turbo", "tokenizer/"), ("Qwen/Qwen3-4B", ""), ("Qwen/Qwen2.5-VL-7B-Instruct", "")),
    ),
    "T5TokenizerFast": Place(
        "T5",
        Path("comfy") / "text_encoders" / "t5_tokenizer",
        (("tokenizer.json",),),
        (("stabilityai/stable-diffusion-3.5-medium", "tokenizer_3/"), ("google/t5-v1_1-xxl", "")),
    ),
}


def find_tokenizer(checkpoint: Path, given: str | Path | None = None, kind: str = "CLIPTokenizer") -> Path:
    """Find the folder of a kind of tokenizer.

    Looked at, in this order: `given` (what is in its subfolders, or where ComfyUI has it); the running ComfyUI; the
    ComfyUI that COMFYUI_PATH names, that this pack lies in, or that the checkpoint lies in; the local cache of
    transformers.

    Args:
        kind: a class of transformers (see `PLACES`).

    Raises:
        DDMError: there is none.
    """
    place = PLACES[kind]
    if given is not None:
        for folder in (Path(given), *sorted(Path(given).glob("tokenizer*")), Path(given) / place.comfyui):
            if _holds(folder, place) and is_of(folder, kind):
                return folder
        needed = " or ".join(" and ".join(files) for files in place.files)
        raise DDMError(
            f"{given} holds no tokenizer of {place.title}: it needs {needed}. Give another one.", "tokenizer"
        )
    for folder in _candidates(checkpoint, place):
        if _holds(folder, place):
            return folder
    raise DDMError(
        f"The checkpoint {checkpoint.name} needs {place.title}'s tokenizer, and none is found in a ComfyUI folder or "
        f"in the cache of transformers. Set COMFYUI_PATH to a ComfyUI, which has it as {place.comfyui.as_posix()}, or "
        "give its folder; nothing is downloaded.",
        "tokenizer",
    )


def open_tokenizer(folder: Path, pad_token: str) -> "CLIPTokenizer":
    """Open a tokenizer that pads to 77 tokens with `pad_token`.

    Raises:
        DDMError: its files are broken.
    """
    from transformers import CLIPTokenizer

    try:
        vocabulary, merges = (str(folder / name) for name in FILES)
        return CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH, pad_token=pad_token)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DDMError(f"The tokenizer in {folder} cannot be opened ({reason}). Give another.", "tokenizer") from error


def _candidates(checkpoint: Path, place: Place) -> Iterator[Path]:
    running = getattr(sys.modules.get("comfy"), "__path__", [])
    yield from (Path(folder).parent / place.comfyui for folder in running)
    if named := os.environ.get("COMFYUI_PATH"):
        yield Path(named).expanduser() / place.comfyui
    for start in (ROOT, checkpoint.absolute(), checkpoint.resolve()):
        yield from (parent / place.comfyui for parent in start.parents)
    from huggingface_hub import try_to_load_from_cache

    for repository, folder in place.cached:
        found = try_to_load_from_cache(repository, folder + place.files[0][0])
        if isinstance(found, str):
            yield Path(found).parent


def _holds(folder: Path, place: Place) -> bool:
    return any(all((folder / name).is_file() for name in files) for files in place.files)


def is_of(folder: Path, kind: str) -> bool:
    """Whether a tokenizer says that it is of a kind; files of CLIP's and Qwen's are called alike."""
    try:
        said = read_json_file(folder / "tokenizer_config.json")
    except DDMError:
        return True
    said = said.get("tokenizer_class") if isinstance(said, dict) else None
    return not isinstance(said, str) or said.removesuffix("Fast") in ("", kind.removesuffix("Fast"))
