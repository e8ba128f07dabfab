"""Every figure of one attribute: under each condition over all prompts, and prompt by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..probes.records import Attribute, EvaluationData
from . import intervals, metrics
from .report import Estimate, Measured, Overall, PromptRow, Shift, WorstPrompt, estimates, finite

DRIFT = {
    intervals.NOT_FAIR: "moved",
    intervals.CANNOT_TELL: intervals.CANNOT_TELL,
    intervals.TOO_FEW: intervals.TOO_FEW,
}


@dataclass(frozen=True, eq=False)
class Measuring:
    """The images, and how they are judged.

    Args:
        records: the images.
        margin, confidence, resamples, random_seed: as in `build_report`.
    """

    records: EvaluationData
    margin: float
    confidence: float
    resamples: int
    random_seed: int

    def counts(self, onehot: np.ndarray) -> np.ndarray:
        """Sums [C, P, K] of what images show [N, K], by condition and prompt."""
        records = self.records
        size = (len(records.conditions), len(records.prompts))
        return intervals.tabulate(onehot, records.condition, records.prompt, *size)

    def bootstrap(self, onehot: np.ndarray, statistic: intervals.Statistic) -> np.ndarray:
        """Draws [2, B, C, ...] of a statistic of what images show [N, K]; see `clustered_bootstrap`."""
        records = self.records
        return intervals.clustered_bootstrap(
            onehot, records.condition, records.prompt, records.seed, statistic, self.resamples, self.random_seed
        )


class AttributeFigures:
    """One attribute of the images.

    Args:
        measuring: the images, and how they are judged.
        attribute: judged against its target; without one, by how far it drifts from the base.

    Attributes:
        target: [K], the shares asked for, or the base's.
        draws: [2, B, C, K + 3] bootstrap draws of `_scores`.
    """

    def __init__(self, measuring: Measuring, attribute: Attribute):
        self.measuring, self.records, self.attribute = measuring, measuring.records, attribute
        onehot = attribute.onehot(measuring.confidence)
        self.classes, self.targeted = len(attribute.classes), attribute.target is not None
        self.counts = measuring.counts(onehot)
        self.totals = measuring.counts(np.ones((len(onehot), 1)))[..., 0]
        base = metrics.mean_over_prompts(metrics.shares(self.counts[self.records.base]))
        self.base_shares = base
        self.target = attribute.target.shares if self.targeted else np.where(np.isnan(base), 1 / self.classes, base)
        self.draws = measuring.bootstrap(onehot, self._scores)

    @property
    def distance_draws(self) -> np.ndarray:
        """Bootstrap draws [2, B, C] of the FD by prompt."""
        return self.draws[..., self.classes]

    def measured(self) -> Measured:
        """All figures; under each condition the prompts that are furthest from the target come first."""
        overall, rows = [], []
        for condition in range(len(self.counts)):
            here = [
                self._row(condition, number)
                for number in range(len(self.records.prompts))
                if self.totals[condition, number]
            ]
            here.sort(key=lambda row: -1 if row.fd is None else row.fd, reverse=True)
            overall.append(self._overall(condition, self._worst(here)))
            rows += here
        one = self.attribute
        return Measured(
            one.name,
            list(one.classes),
            self.target.tolist(),
            self.targeted,
            None if one.accuracy is None else float(one.accuracy),
            None if one.confusion is None else np.asarray(one.confusion, dtype=float).tolist(),
            overall,
            rows,
            one.made_for,
        )

    def _scores(self, counts: np.ndarray) -> np.ndarray:
        """Counts [..., K] to shares, FD, pairwise bias and parity gap, [..., K + 3]."""
        p, target = metrics.shares(counts), self.target
        distances = (metrics.fairness_distance(p, target), metrics.pairwise_bias(p), metrics.parity_gap(p, target))
        return np.concatenate([p, np.stack(distances, -1)], -1)

    def _row(self, condition: int, number: int) -> PromptRow:
        """One prompt under one condition."""
        target, counts, made = self.target, self.counts[condition, number], int(self.totals[condition, number])
        counted, p, verdict = counts.sum(), metrics.shares(counts), ""

        def share_interval(level: float) -> tuple[np.ndarray, np.ndarray]:
            return intervals.wilson(counts, counted, level)

        if self.targeted:
            coverage = counted / max(made, 1)
            verdict = intervals.equivalence(share_interval, target, made, coverage, self.measuring.margin)
        floor, _ = intervals.fair_floor(target, np.array([counted]), self._scores, draws=500)
        return PromptRow(
            condition=condition,
            prompt=self.records.prompts[number],
            images=made,
            undetermined=made - int(counted),
            counts=[int(count) for count in counts],
            shares=estimates(p, *share_interval(0.95)),
            fd=finite(metrics.fairness_distance(p, target)),
            floor=finite(floor[self.classes]),
            pairwise_bias=finite(metrics.pairwise_bias(p)),
            parity_gap=finite(metrics.parity_gap(p, target)),
            kl=finite(metrics.kl_divergence(p, target)),
            normalised_entropy=finite(metrics.normalised_entropy(p)),
            effective_groups=finite(metrics.effective_groups(p)),
            verdict=verdict,
        )

    def _worst(self, rows: Sequence[PromptRow]) -> WorstPrompt | None:
        """The first of the prompts, which come furthest from the target first."""
        if not rows or rows[0].fd is None:
            return None
        shares = np.array([one.value for one in rows[0].shares])
        group = int(np.argmax(shares - self.target))
        return WorstPrompt(rows[0].prompt, rows[0].fd, self.attribute.classes[group], float(shares[group]))

    def _overall(self, condition: int, worst: WorstPrompt | None) -> Overall:
        """All prompts under one condition."""
        counts, totals, k = self.counts[condition], self.totals[condition], self.classes
        per_prompt, own = self._scores(counts), self.draws[:, :, condition]
        scores, counted, made = metrics.mean_over_prompts(per_prompt), counts.sum(), int(totals.sum())
        p = scores[:k]

        def share_interval(level: float) -> tuple[np.ndarray, np.ndarray]:
            low, high = intervals.envelope(own[..., :k], level)
            plain_low, plain_high = intervals.wilson(np.nan_to_num(p) * counted, counted, level)
            return np.fmin(low, plain_low), np.fmax(high, plain_high)

        of_mean = metrics.fairness_distance(p, self.target)
        mean_draws = intervals.centred(metrics.fairness_distance(own[..., :k], self.target), of_mean)
        fd, bias, gap = estimates(scores[k:], *intervals.envelope(intervals.centred(own[..., k:], scores[k:])))
        seed = self.measuring.random_seed
        floor, floor_high = intervals.fair_floor(self.target, counts.sum(-1), self._scores, random_seed=seed)
        shift, corrected = self._shift(condition), self._corrected(p, own)
        return Overall(
            condition=condition,
            images=made,
            undetermined=made - int(counted),
            shares=estimates(p, *share_interval(0.95)),
            corrected=corrected,
            change=estimates(p - self.base_shares, *self._change_interval(condition)),
            fd=fd,
            worst=worst,
            fd_of_mean=Estimate.of(of_mean, *intervals.envelope(mean_draws)),
            floor=finite(floor[k]),
            floor_high=finite(floor_high[k]),
            pairwise_bias=bias,
            parity_gap=gap,
            kl=finite(metrics.mean_over_prompts(metrics.kl_divergence(per_prompt[:, :k], self.target))),
            normalised_entropy=finite(metrics.mean_over_prompts(metrics.normalised_entropy(per_prompt[:, :k]))),
            effective_groups=finite(metrics.mean_over_prompts(metrics.effective_groups(per_prompt[:, :k]))),
            prompt_gap=finite(metrics.prompt_range(per_prompt[:, :k]).max()),
            verdict=self._verdict(condition, scores[k], floor[k], corrected) if self.targeted else "",
            drift=self._drift(condition, shift),
            shift=shift,
            unlike=int(self.attribute.unlike[self.records.condition == condition].sum()),
        )

    def _corrected(self, p: np.ndarray, draws: np.ndarray) -> list[Estimate] | None:
        """Shares [K] without the probe's own errors, by draws [2, B, K + 3]; None where those are not known."""
        rates, others = self.attribute.confusion, self.attribute.confusion_draws
        if rates is None or (values := metrics.correct_shares(p, rates)) is None:
            return None
        if others is not None:
            rates = np.resize(others, (draws.shape[1], self.classes, self.classes))
        bounds = metrics.correct_shares(draws[..., : self.classes], rates)
        return None if bounds is None else estimates(values, *intervals.envelope(bounds))

    def _images_and_coverage(self, condition: int) -> tuple[float, float]:
        """Images of a prompt, as median, and the share of all images in which a class was told."""
        totals = self.totals[condition]
        made = totals.sum()
        return float(np.median(totals[totals > 0])) if made else 0.0, self.counts[condition].sum() / max(made, 1)

    def _verdict(self, condition: int, fd: float, floor: float, corrected: Sequence[Estimate] | None) -> str:
        """Whether the FD by prompt is that of a fair model."""
        counts, margin = self.counts[condition], self.measuring.margin
        draws = intervals.centred(self.distance_draws[:, :, condition, None], fd)
        verdict = intervals.verdict_by_prompt(
            counts[counts.sum(1) > 0],
            *self._images_and_coverage(condition),
            self.target,
            lambda level: tuple(bound[0] for bound in intervals.envelope(draws, level)),
            floor,
            margin,
        )
        if verdict != intervals.fair_within(margin) or self.attribute.confusion_draws is None or not corrected:
            return verdict
        off = max(abs(one.value - wanted) for one, wanted in zip(corrected, self.target, strict=True))
        return intervals.CANNOT_TELL if off > margin else verdict

    def _change_interval(self, condition: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Bounds [K] of how far shares moved from the base's."""
        shares = self.draws[..., : self.classes]
        return intervals.envelope(shares[:, :, condition] - shares[:, :, self.records.base], level)

    def _drift(self, condition: int, shift: Shift | None) -> str | None:
        """Whether an attribute that nobody asked to change moved; None for others, and for the base."""
        if self.targeted or condition == self.records.base:
            return None
        margin = self.measuring.margin
        said = intervals.equivalence(
            lambda level: self._change_interval(condition, level),
            np.zeros(self.classes),
            *self._images_and_coverage(condition),
            margin,
        )
        if shift is not None and said != intervals.TOO_FEW and shift.beyond_chance > margin:
            said = intervals.NOT_FAIR
        return DRIFT.get(said, intervals.fair_within(margin).replace("fair", "unchanged"))

    def _shift(self, condition: int) -> Shift | None:
        """How far the shares of prompts that were counted in both moved from those at α = 0."""
        reference = self.records.reference(condition)
        if self.targeted or condition == reference:
            return None
        counts, base = self.counts[condition], self.counts[reference]
        both = np.flatnonzero((counts.sum(1) > 0) & (base.sum(1) > 0))
        if not len(both):
            return None
        moved = np.abs(metrics.shares(counts[both]) - metrics.shares(base[both])).sum(1) / 2
        worst = int(moved.argmax())
        floor = intervals.shift_floor(counts[both], base[both], random_seed=self.measuring.random_seed)
        return Shift(float(moved.mean()), floor, self.records.prompts[both[worst]], float(moved[worst]))
