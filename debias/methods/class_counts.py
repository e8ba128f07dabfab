"""How many images of each class there are so far, and which classes the next ones should have."""

from collections.abc import Hashable, Sequence

import numpy as np

from ..core.last_used import LastUsed

# A host keeps so many; the one that was used longest ago goes first.
KEPT = 64


class ClassCounts:
    """Counts over a queue of images, for each prompt and in all.

    Attributes:
        shares: [K] the target.
        counts: by prompt, [K].
    """

    def __init__(self, shares: np.ndarray):
        self.shares = np.asarray(shares, dtype=np.float64)
        self.counts: dict[Hashable, np.ndarray] = {}

    @property
    def total(self) -> np.ndarray:
        """Counts [K] over all prompts."""
        return sum(self.counts.values(), np.zeros(len(self.shares)))

    def add(self, prompts: Sequence[Hashable], classes: Sequence[int]) -> None:
        """Count images: their prompts, and the class of each."""
        for prompt, index in zip(prompts, classes, strict=True):
            self.counts.setdefault(prompt, np.zeros(len(self.shares)))[index] += 1

    def wanted(self, prompts: Sequence[Hashable], seed: int | None = None) -> np.ndarray:
        """The class [N] that each of the next images should have, one after the other.

        It is the one that is furthest behind its share, among the images of the prompt and among all of them: sixty
        images of one prompt come out balanced, and so do single images of sixty prompts.

        Args:
            prompts: [N].
            seed: draws among classes that are equally far behind; None for the first of them. Counts of attributes
                that are guided at once need seeds of their own: if each began with its first class, single images
                would show the same combinations over and over.
        """
        counts, total = {prompt: self._of(prompt).copy() for prompt in prompts}, self.total
        chosen = np.zeros(len(prompts), dtype=int)
        for place, prompt in enumerate(prompts):
            own = counts[prompt]
            missing = self.shares * (own.sum() + 1) - own + self.shares * (total.sum() + 1) - total
            # A class whose share is 0 is never asked for, however far all others are ahead.
            missing = np.where(self.shares > 0, missing, -np.inf)
            due = np.flatnonzero(missing > missing.max() - 1e-9)
            first = seed is None or len(due) == 1
            chosen[place] = due[0] if first else np.random.default_rng([seed, int(total.sum())]).choice(due)
            own[chosen[place]] += 1
            total[chosen[place]] += 1
        return chosen

    def clear(self) -> None:
        """Forget all images."""
        self.counts.clear()

    def _of(self, prompt: Hashable) -> np.ndarray:
        return self.counts.get(prompt, np.zeros(len(self.shares)))


class PromptCounts:
    """The tallies that a host keeps while it runs, so that its queue is balanced from one run to the next."""

    def __init__(self) -> None:
        self._kept: LastUsed[Hashable, ClassCounts] = LastUsed(KEPT)

    def get(self, key: Hashable, shares: np.ndarray) -> ClassCounts:
        """The tally of a key, which tells head, target and owner apart; an empty one if there is none."""
        return self._kept.use(key, lambda: ClassCounts(shares))

    def clear(self, key: Hashable) -> None:
        """Forget the images of a key."""
        if key in self._kept:
            self._kept[key].clear()
