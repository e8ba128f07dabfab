"""Encoded prompts: token embeddings, and with SDXL the pooled embedding that its U-Net asks for besides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Text:
    """N encoded prompts. It indexes, joins and moves as a tensor of N rows does.

    Attributes:
        tokens: [N, L, D] token embeddings.
        pooled: [N, P] pooled embeddings; None where the U-Net takes none (all but SDXL).
    """

    tokens: "torch.Tensor"
    pooled: "torch.Tensor | None" = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: "torch.Tensor | Sequence[int] | slice") -> "Text":
        return self._each(lambda part: part[rows])

    def to(self, *where: object) -> "Text":
        """Move or cast, as `torch.Tensor.to` does."""
        return self._each(lambda part: part.to(*where))

    def float(self) -> "Text":
        """Cast to float32."""
        return self._each(lambda part: part.float())

    @classmethod
    def cat(cls, parts: Sequence["Text"]) -> "Text":
        """Join along the rows."""
        import torch

        pooled = [part.pooled for part in parts]
        return cls(torch.cat([part.tokens for part in parts]), None if pooled[0] is None else torch.cat(pooled))

    def _each(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Text":
        return Text(change(self.tokens), None if self.pooled is None else change(self.pooled))
