"""Which α to recommend: one rule for sweeps, cards, nodes and trainings, decided prompt by prompt."""

from collections.abc import Sequence

import numpy as np

from . import intervals
from .report import Measured, Quality, Recommendation, Setting

# How much less often, as a share of all images, the subject may be recognised than at α = 0.
RECOGNISED_LOSS = 0.03
# How far another attribute may move, prompt by prompt and beyond chance, as a share of the images.
LARGEST_SHIFT = 0.10


def recommend(
    attributes: Sequence[Measured],
    quality: Sequence[Quality],
    settings: Sequence[Setting],
    cfg: float | None,
    draws: np.ndarray,
    made: str = "",
) -> Recommendation:
    """The smallest α whose FD by prompt cannot be told from the lowest.

    Strengths are compared by the paired bootstrap over prompts and over seeds. Left out are those at which the subject
    is recognised more than three points less often than at α = 0, or another attribute moves by more than .1. α = 0 is
    recommended where no other brings FD by prompt down by more than chance.

    Args:
        attributes: the first is the one with the target.
        cfg: the guidance scale whose strengths are compared.
        draws: [2, B, C] FD by prompt of the first attribute, by prompt and by seed (`clustered_bootstrap`).
        made: what else the images were made with whose strengths are compared.

    Returns:
        α, or None where there is no target, no α = 0, or too few images for a verdict; and the reason in a sentence.
    """
    first = attributes[0]

    def answer(alpha: float | None, reason: str) -> Recommendation:
        return Recommendation(cfg, alpha, reason)

    if not first.targeted:
        return answer(None, "No α can be recommended without a target.")
    here = {
        one.alpha: i
        for i, one in enumerate(settings)
        if one.alpha is not None and one.alpha >= 0 and (one.cfg, one.made) == (cfg, made)
        if first.overall[i].fd.value is not None
    }
    if 0 not in here or len(here) < 2:
        return answer(None, "No α can be recommended: that takes images at α = 0 and at another strength.")
    if any(first.overall[i].verdict == intervals.TOO_FEW for i in here.values()):
        return answer(
            None,
            f"No α is recommended: these are too few images, {intervals.FEWEST_IMAGES} of each prompt and strength "
            "are needed.",
        )
    told = [1 - first.overall[i].undetermined / first.overall[i].images for i in here.values()]
    if min(told) < intervals.ANY_COVERAGE:
        return answer(
            None, f"No α is recommended: in most images at one of the strengths {first.name} is undetermined."
        )
    kept = {alpha: i for alpha, i in here.items() if not alpha or not _harm(i, here[0], attributes, quality)}
    harms = [harm for alpha, i in here.items() if alpha and (harm := _harm(i, here[0], attributes, quality))]

    def difference(i: int, other: int) -> tuple[float, float]:
        change = first.overall[i].fd.value - first.overall[other].fd.value
        paired = draws[..., i] - draws[..., other]
        low, high = intervals.envelope(paired - np.nanmean(paired, axis=1, keepdims=True) + change)
        return float(low), float(high)

    better = {alpha: i for alpha, i in kept.items() if alpha and difference(i, here[0])[1] < 0}
    if not better:
        start = first.overall[here[0]]
        if start.fd.value <= (start.floor_high or 0):
            why = "without an adapter every prompt is as near to the target as can be told"
        elif harms:
            why = harms[0] if len(kept) == 1 else f"{harms[0]}, and the others do not help"
        else:
            why = "no strength brings the prompts nearer to the target by more than chance"
        return answer(0.0, f"Recommended α: 0; {why}.")
    lowest = min(better.values(), key=lambda i: first.overall[i].fd.value)
    best = min(alpha for alpha, i in better.items() if i == lowest or difference(i, lowest)[0] <= 0)
    now, start = (first.overall[i].fd.value for i in (better[best], here[0]))
    return answer(best, f"Recommended α: {best:g}; there FD by prompt is {now:.2f}, at α = 0 it is {start:.2f}.")


def _harm(condition: int, base: int, attributes: Sequence[Measured], quality: Sequence[Quality]) -> str:
    """What speaks against a strength, in words; nothing where it does no harm."""
    known = {one.condition: one.recognised.value for one in quality if one.recognised is not None}
    start, now = known.get(base), known.get(condition)
    if None not in (start, now) and now < start - RECOGNISED_LOSS:
        return f"beyond it the subject is recognised less often ({now:.0%} of the images, before {start:.0%})"
    for one in attributes[1:]:
        shift = one.overall[condition].shift
        if not one.targeted and shift is not None and shift.beyond_chance > LARGEST_SHIFT:
            return f"beyond it {one.name} moves, which nobody asked for (by {shift.mean:.0%} of a prompt's images)"
    return ""
