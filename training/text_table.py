"""The text table of a run: every sentence that training says, encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..debias.diffusion_classifier import ATTRIBUTES, say
from .grouping import Grouping, said_by_group

if TYPE_CHECKING:
    from .base import Base
    from .text import Text

# How many sentences with a word said are encoded at the most.
SENTENCES = 4000


@dataclass(frozen=True)
class TextTable:
    """Text embeddings, and how rows of a batch find their sentences.

    Attributes:
        table: M encoded sentences, in float32.
        neutral: [N] row of each picture's own caption.
        empty: row of the empty caption.
        said: [N, V] rows of the caption with one word said, a group's or a gender: what explicit prompts say most.
        said_by_group: [N, K] rows of the caption with the words of a group said, or None where groups have no words.
    """

    table: "Text"
    neutral: np.ndarray
    empty: int
    said: np.ndarray
    said_by_group: np.ndarray | None = None

    @classmethod
    def build(cls, base: "Base", captions: Sequence[str], grouping: Grouping) -> "TextTable":
        """Encode the captions, the empty one, and what the grouping's words make of them."""
        rows: dict[str, int] = {"": 0}

        def row(sentence: str) -> int:
            return rows.setdefault(sentence, len(rows))

        distinct = {text: row(text) for text in dict.fromkeys(captions)}
        own = [word for part in grouping.groups for word in part.words]
        words = list(dict.fromkeys([*own, *ATTRIBUTES["gender"]]))
        count = int(np.clip(SENTENCES // len(distinct), 1, len(words)))
        rng = np.random.default_rng(0)
        said = {text: [row(say(text, w)) for w in rng.choice(words, count, replace=False)] for text in distinct}
        by_group = None
        if all(part.words for part in grouping.groups):
            cells = {text: [row(sentence) for sentence in said_by_group(grouping, text)] for text in distinct}
            by_group = np.array([cells[text] for text in captions])
        return cls(
            base.encode_text(list(rows)).float(),
            np.array([distinct[text] for text in captions]),
            0,
            np.array([said[text] for text in captions], dtype=int).reshape(len(captions), -1),
            by_group,
        )
