"""Groups of images: who is in which one, by labels, words or discovery."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.error import DDMError

FEWEST_PEERS = 5
# What is said where discovery opens no gate.
NOTHING = "Nothing is out of balance here that balancing helps, as far as the model can see."


@dataclass(frozen=True)
class Groups:
    """Soft membership of N images in K groups.

    Attributes:
        names: K group names.
        membership: [N, K] probabilities; a row sums to 1, or to 0 where the group is undetermined.
        source: where the groups come from, as on the command line (`labels:gender`, `words:man|woman`, …).
        words: per group the prompt word that the base model understands, or empty where there is none.
        evidence: figures that the audit prints beside the groups (reliability, gain, …).
    """

    names: tuple[str, ...]
    membership: np.ndarray
    source: str
    words: tuple[str, ...] = ()
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def shares(self) -> np.ndarray:
        """[K] share of each group among the images whose group is determined."""
        total = self.membership.sum(0)
        return total / max(total.sum(), 1e-12)

    @property
    def undetermined(self) -> int:
        """How many images have no group."""
        return int((self.membership.sum(1) < 0.5).sum())

    @classmethod
    def from_labels(cls, labels: Sequence[str], source: str) -> "Groups":
        """Make hard groups from one label per image; an empty label means undetermined.

        Raises:
            DDMError: when there are fewer than two different labels.
        """
        names = tuple(sorted({label for label in labels if label}))
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "no label at all"
            raise DDMError(
                f"{source}: {found} was found, and a balance needs at least two groups. "
                "Choose another column, or let the source “auto” find out by itself."
            )
        column = {name: index for index, name in enumerate(names)}
        membership = np.zeros((len(labels), len(names)))
        for row, label in enumerate(labels):
            if label:
                membership[row, column[label]] = 1.0
        return cls(names, membership, source)


def concepts(captions: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Number the concepts of a set: images with the same caption share one.

    Returns:
        The distinct captions, and [N] the index of each image's caption among them.
    """
    names, index = np.unique(np.asarray([text.strip().lower() for text in captions], dtype=object), return_inverse=True)
    return [str(name) for name in names], index


def peers(concept: np.ndarray, fewest: int = FEWEST_PEERS) -> np.ndarray:
    """Number the sets [N] of images that are weighed against each other: concepts, the small ones taken together.

    An image whose caption is its own has no peers, and no weight could change how often it is seen; so all captions
    with fewer than `fewest` images make one set.
    """
    small = np.bincount(concept) < fewest
    return np.unique(np.where(small[concept], -1, concept), return_inverse=True)[1]
