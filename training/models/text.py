"""Encoded prompts: token embeddings, and whatever else a family's denoiser asks for."""

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
        pooled: [N, P] pooled embeddings; None where the denoiser takes none.
        mask: [N, L] which of the tokens are said; None where all are.
    """

    tokens: "torch.Tensor"
    pooled: "torch.Tensor | None" = None
    mask: "torch.Tensor | None" = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: "torch.Tensor | Sequence[int] | slice") -> "Text":
        return self.each(lambda part: part[rows])

    def to(self, *where: object) -> "Text":
        """Move or cast, as `torch.Tensor.to` does."""
        return self.each(lambda part: part.to(*where))

    def float(self) -> "Text":
        """Cast to float32."""
        return self.each(lambda part: part.float())

    @property
    def parts(self) -> "dict[str, torch.Tensor]":
        """What there is, by name."""
        return {name: part for name, part in vars(self).items() if part is not None}

    @classmethod
    def cat(cls, texts: Sequence["Text"]) -> "Text":
        """Join along the rows."""
        import torch

        return cls(**{name: torch.cat([text.parts[name] for text in texts]) for name in texts[0].parts})

    def each(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Text":
        """Change whatever there is."""
        return Text(**{name: change(part) for name, part in self.parts.items()})
