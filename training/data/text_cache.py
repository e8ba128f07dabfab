"""Encoded sentences: each is encoded once, kept on disk by content, and read when it is said."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..models.lora import without_loras
from ..models.text import Text
from .cache import Memory, Progress, Row, TensorCache, filled, gather, settle, weights_hash

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..models.base import Base

# How many sentences are encoded before they are put away.
BATCH = 256
# What the weights of text encoders that are in use hash to, by whatever else their answers depend on.
_HASHES: "WeakKeyDictionary[torch.nn.Module, dict[str, str]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Texts:
    """M encoded sentences, in memory or on disk.

    Attributes:
        device: where batches are brought to.
        fields: what `Text` has of each.
        rows: these tensors, of each.
    """

    device: "torch.device"
    fields: Sequence[str]
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: "np.ndarray | torch.Tensor") -> Text:
        """Some of them, in float32."""
        found = gather([self.rows[row] for row in rows.tolist()], self.device)
        return Text(**dict(zip(self.fields, found, strict=True))).float()


def encode_texts(base: "Base", sentences: Sequence[str], cache: Path | None = None, chunks: int = 1) -> Texts:
    """Encode sentences as the base itself reads them, whatever LoRAs are on it.

    Args:
        chunks: see `Base.encode_text`.
        cache: a folder that keeps them; what is there already is not encoded again.

    Raises:
        DDMError: the cache has no room or may not be written.
    """
    fields = base.family.text_fields
    store = TensorCache(cache, "texts", encoders_hash(base, chunks), fields) if cache else Memory()
    keys = [hashlib.sha256(sentence.encode("utf-8", "surrogatepass")).hexdigest() for sentence in sentences]

    def encode(places: list[int], _: Progress) -> list["torch.Tensor"]:
        with without_loras(base.text_encoders.values()):
            text = base.encode_text([sentences[place] for place in places], chunks=chunks)
        return [text.parts[name] for name in fields]

    return Texts(base.device, fields, settle(filled(store, keys, encode, BATCH)))


def encoders_hash(base: "Base", chunks: int = 1) -> str:
    """A hash of everything that embeddings depend on, but the sentence; the weights are read once for each encoder."""
    digest = hashlib.sha256(f"{base.clip_skip} {chunks}".encode() if base.clip_skip or chunks > 1 else b"")
    for name, tokenizer in base.tokenizers.items():
        facts = (base.dtype, tokenizer.model_max_length, tokenizer.pad_token, sorted(tokenizer.get_vocab().items()))
        known, key = _HASHES.setdefault(base.text_encoders[name], {}), repr(facts)
        if key not in known:
            known[key] = weights_hash(base.text_encoders[name], *facts)
        digest.update(known[key].encode())
    return digest.hexdigest()
