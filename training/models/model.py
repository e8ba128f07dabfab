"""A base model with the adapter and the style that are to be used with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.adapter.lora_file import AdapterCard, content_hash, load_adapter
from .base import Base
from .load_base import load_base

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).resolve().parent.parent.parent / "examples" / "tiny_people"


@dataclass
class Model:
    """A base with LoRAs on U-Net and text encoders: "debias" (the adapter, at any α) and "style" (at strength 1).

    Attributes:
        adapter: content hash of the adapter file, or None.
        style: content hash of the style file, or None.
        card: what the adapter was trained for, where its file says it.
        warnings: sentences that a user should read.
    """

    base: Base
    adapter: str | None = None
    style: str | None = None
    card: AdapterCard | None = None
    warnings: list[str] = field(default_factory=list)


def load_model(
    path: str | Path,
    adapter: str | Path | None = None,
    style: str | Path | None = None,
    device: "str | torch.device" = "auto",
    **opening: Any,
) -> Model:
    """Open a base and put the files on it.

    Args:
        opening: tokenizer, prediction and vae, as in `load_base`; errors too, and as in `load_adapter` and
            `load_lora_into`.
    """
    from .lora import load_lora_into
    from .soft_tokens import SoftTokens

    # Files first: a wrong one is found before the base is loaded.
    soft = SoftTokens.load(adapter) if adapter is not None else None
    files = {"style": style, "debias": None if soft else adapter}
    read = {name: load_adapter(path) for name, path in files.items() if path is not None}
    model = Model(load_base(path, device, **opening))
    for name, lora in read.items():
        warning = load_lora_into(model.base.denoiser, lora, name, model.base.hash, model.base.text_encoders)
        if warning:
            model.warnings.append(warning)
    if soft:
        model.base.soft_tokens, model.card = soft
        model.base.soft_tokens.check(model.base)
    elif adapter is not None:
        model.card = read["debias"].card
    if adapter is not None:
        model.adapter = content_hash(adapter)
    if style is not None:
        model.style = content_hash(style)
    return model
