"""Which folders keep a CLIP or SigLIP model: images and texts in one space, with a tokenizer."""

from pathlib import Path

from ..debias.core.error import DDMError
from ..debias.core.strict_json import read_json_file

KINDS = ("clip", "siglip", "siglip2")


def is_image_text(folder: Path) -> bool:
    """Whether a folder says that it keeps such a model."""
    try:
        read = read_json_file(folder / "config.json")
    except DDMError:
        return False
    return isinstance(read, dict) and read.get("model_type") in KINDS
