"""CLIP's tokenizer, which a checkpoint does not hold: found on this machine, never downloaded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

FILES = ("vocab.json", "merges.txt")
LENGTH = 77
ROOT = Path(__file__).resolve().parent.parent.parent
# Where ComfyUI keeps it, below its own folder.
COMFYUI = Path("comfy") / "sd1_tokenizer"
# Models that have it, as (repository, folder), looked for among what transformers and diffusers have downloaded before.
CACHED = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)


def find_tokenizer(checkpoint: Path, given: str | Path | None = None) -> Path:
    """Find the folder with vocab.json and merges.txt.

    Looked at, in this order: `given` (or its subfolder "tokenizer"); the running ComfyUI; the ComfyUI that
    COMFYUI_PATH names, that this pack lies in, or that the checkpoint lies in; the local cache of transformers.

    Raises:
        DDMError: there is none.
    """
    if given is not None:
        for folder in (Path(given), Path(given) / "tokenizer"):
            if _holds(folder):
                return folder
        raise DDMError(f"{given} holds no tokenizer: it needs {' and '.join(FILES)}. Give another one.", "tokenizer")
    for folder in _candidates(checkpoint):
        if _holds(folder):
            return folder
    raise DDMError(
        f"The checkpoint {checkpoint.name} needs CLIP's tokenizer, and none is found in a ComfyUI folder or in the "
        "cache of transformers. Set COMFYUI_PATH to a ComfyUI, which has it as comfy/sd1_tokenizer, or give its "
        "folder; nothing is downloaded.",
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


def _candidates(checkpoint: Path) -> Iterator[Path]:
    running = getattr(sys.modules.get("comfy"), "__path__", [])
    yield from (Path(folder) / COMFYUI.name for folder in running)
    if named := os.environ.get("COMFYUI_PATH"):
        yield Path(named).expanduser() / COMFYUI
    for place in (ROOT, checkpoint.absolute(), checkpoint.resolve()):
        yield from (parent / COMFYUI for parent in place.parents)
    from huggingface_hub import try_to_load_from_cache

    for repository, folder in CACHED:
        found = try_to_load_from_cache(repository, folder + FILES[0])
        if isinstance(found, str):
            yield Path(found).parent


def _holds(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)
