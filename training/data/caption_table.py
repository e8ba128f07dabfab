"""The text table of a run: every sentence that training says, encoded once."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...debias.groups.diffusion_classifier import ATTRIBUTES, say
from .group_images import Grouping, said_by_group
from .text_cache import Texts, encode_texts

if TYPE_CHECKING:
    from ..models.base import Base

# How many sentences with a word said are encoded at the most, and how many shuffled ones.
SENTENCES = 4000
# An image's captions are repeated to so many at the most; each is then drawn as often, or nearly so.
REPEATED = 60
# Orders of a caption's parts, at the least and at the most.
ORDERS = (4, 32)


@dataclass(frozen=True)
class CaptionTable:
    """Text embeddings, and how rows of a batch find their sentences.

    Attributes:
        table: M encoded sentences.
        neutral: [N, O] rows of each image's own captions, in several orders of their parts if they are shuffled.
        empty: row of the empty caption.
        said: [N, V] rows of the caption with one word said, a group's or a gender: what explicit prompts say most.
        said_by_group: [N, K] rows of the caption with the words of a group said, or None where groups have no words.
        sentences: the M sentences themselves, for text encoders that learn, and in how many `chunks` these read each.
    """

    table: Texts
    neutral: np.ndarray
    empty: int
    said: np.ndarray
    said_by_group: np.ndarray | None = None
    sentences: Sequence[str] = ()
    chunks: int = 1

    @classmethod
    def build(
        cls,
        base: "Base",
        captions: Sequence[str],
        grouping: Grouping,
        keep: int | None = None,
        cache: Path | None = None,
        others: Sequence[Sequence[str]] = (),
    ) -> "CaptionTable":
        """Encode the captions, the empty one, and what the grouping's words make of them.

        Args:
            others: further captions of the first images, each as likely to be drawn as the own one.
            keep: shuffle the parts of captions between commas, but for so many at the beginning; None: shuffle none.
            cache: a folder that keeps the embeddings.
        """
        rows: dict[str, int] = {"": 0}

        def row(sentence: str) -> int:
            return rows.setdefault(sentence, len(rows))

        distinct = list(dict.fromkeys(captions))
        for text in distinct:
            row(text)
        own = [word for part in grouping.groups for word in part.words]
        words = list(dict.fromkeys([*own, *ATTRIBUTES["gender"]]))
        count = int(np.clip(SENTENCES // len(distinct), 1, len(words)))
        rng = np.random.default_rng(0)
        said = {text: [row(say(text, w)) for w in rng.choice(words, count, replace=False)] for text in distinct}
        orders = 1 if keep is None else int(np.clip(SENTENCES // len(distinct), *ORDERS))
        texts = [[caption, *more] for caption, more in zip_longest(captions, others, fillvalue=())]
        neutral = {
            text: [row(order) for order in shuffled(text, keep or 0, orders)]
            for text in dict.fromkeys(text for several in texts for text in several)
        }
        # Each image's captions are repeated, so that all have as many.
        counts = {len(several) for several in texts}
        count = min(math.lcm(*counts), max(REPEATED, *counts))
        drawn = [[number for text in np.resize(several, count) for number in neutral[text]] for several in texts]
        by_group = None
        if all(part.words for part in grouping.groups):
            cells = {text: [row(sentence) for sentence in said_by_group(grouping, text)] for text in distinct}
            by_group = np.array([cells[text] for text in captions])
        chunks = base.chunks(list(rows))
        return cls(
            encode_texts(base, list(rows), cache, chunks),
            np.array(drawn),
            0,
            np.array([said[text] for text in captions], dtype=int).reshape(len(captions), -1),
            by_group,
            list(rows),
            chunks,
        )


def shuffled(caption: str, keep: int, count: int) -> list[str]:
    """A caption in `count` orders of its parts between commas, the first `keep` of which stay; as it is comes first.

    The same caption always has the same orders, so that they are found in the cache.
    """
    parts = [part.strip() for part in caption.split(",")]
    rng = np.random.default_rng(list(hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()))
    others = [[*parts[:keep], *rng.permutation(np.array(parts[keep:], dtype=object))] for _ in range(count - 1)]
    return [caption, *(", ".join(order) for order in others)]
