"""A last look at a finished adapter, at noises that nothing was chosen by: does it help, prompt by prompt?

An adapter that cannot be told from no adapter, or that moves what nobody asked for, recommends α = 0 and says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...debias.evaluation.recommendation import LARGEST_SHIFT

RESAMPLES = 2000


@dataclass(frozen=True)
class FinalLook:
    """Images of the same prompts and noises without the adapter and at α = 1.

    Attributes:
        images: at each strength.
        prompts: how many of them show the same prompts.
        before, after: FD by prompt without and with the adapter: root mean square over the prompts, without what so
            few images add.
        low, high: 95% interval of the change of its square.
        shifts: how far other attributes moved, as a share of a prompt's images, by name.
    """

    images: int
    prompts: int
    before: float
    after: float
    low: float
    high: float
    shifts: Mapping[str, float] = field(default_factory=dict)

    @property
    def harm(self) -> str:
        """Why α = 0 is better, in a sentence; empty where the adapter helps and moves nothing else."""
        fd = f"FD by prompt is {self.after:.2f} at α = 1 and {self.before:.2f} without it"
        if self.high >= 0:
            return f"In a last look at {self.images} new images the adapter did not bring prompts nearer: {fd}."
        name, most = max(self.shifts.items(), key=lambda pair: pair[1], default=("", 0.0))
        if most > LARGEST_SHIFT:
            return (
                f"In a last look at {self.images} new images the adapter moved {name}, which nobody asked for, by "
                f"{most:.0%} of a prompt's images; {fd}."
            )
        return ""


def compared(seen: np.ndarray, goal: np.ndarray, seed: int = 0) -> tuple[float, float, float, float]:
    """Compare two strengths prompt by prompt.

    Args:
        seen: [2, C, n, K] what the images of C prompts show, one-hot in each attribute; the same noises at both.
        goal: [K] the targets' shares.

    Returns:
        Root mean square distance to the target at each strength, unbiased under its root, and the 95% interval of the
        change of its square: images are resampled within prompts, in pairs.
    """
    count = seen.shape[2]

    def squares(part: np.ndarray) -> np.ndarray:
        shares = part.mean(-2)
        noise = (shares * (1 - shares)).sum(-1) / max(count - 1, 1)
        return (np.square(shares - goal).sum(-1) - noise).mean(-1)

    before, after = squares(seen)
    rng = np.random.default_rng(seed)
    changes = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows = rng.integers(count, size=(1, seen.shape[1], count, 1))
        drawn = squares(np.take_along_axis(seen, rows, 2))
        changes[number] = drawn[1] - drawn[0]
    # Of n images, resampled ones spread by √((n − 1) / n) too little.
    wider = (count / max(count - 1, 1)) ** 0.5
    low, high = wider * (np.quantile(changes, (0.025, 0.975)) - changes.mean()) + after - before
    return float(max(before, 0) ** 0.5), float(max(after, 0) ** 0.5), float(low), float(high)


def shift(seen: np.ndarray) -> float:
    """How far an attribute moved between two strengths: the root mean square over prompts of half the change of shares.

    What so few images move by chance is taken off.

    Args:
        seen: as in `compared`, of one attribute.
    """
    shares = seen.mean(2)
    noise = (shares * (1 - shares)).sum(-1) / max(seen.shape[2] - 1, 1)
    moved = np.square(shares[1] - shares[0]).sum(-1) - noise.sum(0)
    return float((max(moved.mean(), 0.0) / 2) ** 0.5)
