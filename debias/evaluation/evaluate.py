"""From records to a report: every figure of DESIGN §6, averaged over prompts and with its uncertainty."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..probes.prompt_class import recognised_by
from ..probes.records import CONFIDENCE, Attribute, EvaluationData
from . import diversity, intervals, kid, metrics
from .clusters import look_alikes
from .contact_sheet import contact_sheets
from .recommendation import recommend
from .report import (
    Diversity,
    Estimate,
    FairnessReport,
    Intersection,
    Measured,
    Overall,
    PromptRow,
    Quality,
    Setting,
    Shift,
    WorstPrompt,
)
from .report_text import remarks, summarise

DRIFT = {
    intervals.NOT_FAIR: "moved",
    intervals.CANNOT_TELL: intervals.CANNOT_TELL,
    intervals.TOO_FEW: intervals.TOO_FEW,
}


def build_report(
    records: EvaluationData,
    title: str = "Fairness report",
    margin: float = intervals.MARGIN,
    confidence: float = CONFIDENCE,
    reference: np.ndarray | None = None,
    reference_name: str = "the reference images",
    resamples: int = 2000,
    clusters: int = 6,
    sheets: int = 6,
    random_seed: int = 0,
) -> FairnessReport:
    """Measure every attribute under every condition.

    Args:
        records: the images. Attributes with a target are judged against it, the others by their drift from the base;
            one whose classes the prompts name (a probe for roles) tells instead how often the subject is recognised.
        margin: deviation of a share that still counts as fair.
        confidence: probability below which an image counts as undetermined.
        reference: features [M, D] to measure KID against; without it, the base condition's images serve.
        resamples: bootstrap resamples.
        clusters: clusters of the unlabelled view, 0 for none; needs features.
        sheets: prompts to show images of, 0 for none; needs paths.

    Raises:
        DDMError: a target over other classes than the probe's, or nothing to measure.
    """
    subjects = {one.name: recognised_by(one, records.prompts) for one in records.attributes}
    fidelity = next((one for one in records.attributes if subjects[one.name] is not None and one.target is None), None)
    shown = [one for one in records.attributes if one is not fidelity] or list(records.attributes)
    measured, distances = zip(
        *(_measure(one, records, margin, confidence, resamples, random_seed) for one in shown), strict=True
    )
    settings = [
        Setting(one.label, one.alpha, one.cfg, int((records.condition == i).sum()), one.made)
        for i, one in enumerate(records.conditions)
    ]
    prices = _prices(records, fidelity, subjects, reference, reference_name, resamples, random_seed)
    groups = look_alikes(records, clusters, random_seed)
    made = settings[records.base].made
    facts = {"base": records.base, "after": records.after, "prompts": len(records.prompts), "conditions": settings}
    pages, unreadable = contact_sheets(records, shown[0], confidence, sheets)
    notes = list(records.notes)
    if unreadable:
        notes.append(f"Of the images for the contact sheets, {unreadable} could not be opened.")
    return FairnessReport(
        title=title,
        summary=summarise(measured, settings, records.base, records.after),
        remarks=remarks(measured, prices, settings, records.base, records.after, margin),
        margin=margin,
        confidence=confidence,
        attributes=list(measured),
        fidelity=fidelity.name if fidelity else "",
        intersections=_intersections(records, shown, confidence, resamples, random_seed),
        quality=prices,
        diversity=_diversity(records, shown[0], confidence, random_seed),
        recommendations=[
            recommend(measured, prices, settings, cfg, distances[0], made)
            for cfg in dict.fromkeys(one.cfg for one in settings if one.alpha is not None and one.made == made)
        ],
        sheets=pages,
        clusters=groups,
        notes=notes,
        **facts,
    )


def number(value: float) -> float | None:
    """A plain float, or None for what is not finite (JSON has no NaN)."""
    return float(value) if np.isfinite(value) else None


def estimate(value: float, low: float, high: float) -> Estimate:
    """An `Estimate` of plain floats whose interval holds its value."""
    if not np.isfinite(value):
        return Estimate(None)
    return Estimate(number(value), number(min(low, value)), number(max(high, value)))


def _scores(target: np.ndarray) -> intervals.Statistic:
    """Counts [..., K] to shares, FD, pairwise bias and parity gap, [..., K + 3]."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        p = metrics.shares(counts)
        distances = (metrics.fairness_distance(p, target), metrics.pairwise_bias(p), metrics.parity_gap(p, target))
        return np.concatenate([p, np.stack(distances, -1)], -1)

    return statistic


def _bootstrap(
    onehot: np.ndarray, records: EvaluationData, statistic: intervals.Statistic, resamples: int, random_seed: int
) -> np.ndarray:
    return intervals.clustered_bootstrap(
        onehot, records.condition, records.prompt, records.seed, statistic, resamples, random_seed
    )


def _measure(
    attribute: Attribute, records: EvaluationData, margin: float, confidence: float, resamples: int, random_seed: int
) -> tuple[Measured, np.ndarray]:
    """The attribute, and the bootstrap draws [2, B, C] of its FD by prompt."""
    classes, base = len(attribute.classes), records.base
    onehot = attribute.onehot(confidence)
    size = (len(records.conditions), len(records.prompts))
    counts = intervals.tabulate(onehot, records.condition, records.prompt, *size)
    totals = intervals.tabulate(np.ones((len(onehot), 1)), records.condition, records.prompt, *size)[..., 0]
    base_shares = metrics.mean_over_prompts(metrics.shares(counts[base]))
    if attribute.target is not None:
        target = attribute.target.shares
    else:
        target = np.where(np.isnan(base_shares), 1 / classes, base_shares)
    statistic = _scores(target)
    draws = _bootstrap(onehot, records, statistic, resamples, random_seed)
    overall, rows = [], []
    for condition in range(size[0]):
        own, total = counts[condition], totals[condition]
        here = [
            _prompt_row(condition, name, own[p], int(total[p]), target, attribute.target is not None, margin)
            for p, name in enumerate(records.prompts)
            if total[p]
        ]
        here.sort(key=lambda row: -1 if row.fd is None else row.fd, reverse=True)
        shift = None
        if attribute.target is None and condition != records.reference(condition):
            shift = _shift(own, counts[records.reference(condition)], records.prompts, random_seed)
        worst = _worst(here, attribute.classes, target)
        overall.append(
            _overall(
                condition,
                own,
                total,
                draws,
                base,
                base_shares,
                attribute,
                target,
                margin,
                random_seed,
                worst,
                shift,
                int(attribute.unlike[records.condition == condition].sum()),
            )
        )
        rows += here
    confusion = None if attribute.confusion is None else np.asarray(attribute.confusion, dtype=float).tolist()
    accuracy = None if attribute.accuracy is None else float(attribute.accuracy)
    measured = Measured(
        attribute.name,
        list(attribute.classes),
        target.tolist(),
        attribute.target is not None,
        accuracy,
        confusion,
        overall,
        rows,
        attribute.made_for,
    )
    return measured, draws[..., classes]


def _worst(rows: Sequence[PromptRow], classes: Sequence[str], target: np.ndarray) -> WorstPrompt | None:
    """The first of the prompts, which come furthest from the target first."""
    if not rows or rows[0].fd is None:
        return None
    shares = np.array([one.value for one in rows[0].shares])
    group = int(np.argmax(shares - target))
    return WorstPrompt(rows[0].prompt, rows[0].fd, classes[group], float(shares[group]))


def _shift(counts: np.ndarray, base: np.ndarray, prompts: Sequence[str], random_seed: int) -> Shift | None:
    """How far counts [P, K] moved from those of the base, over the prompts that were counted in both."""
    both = np.flatnonzero((counts.sum(1) > 0) & (base.sum(1) > 0))
    if not len(both):
        return None
    moved = np.abs(metrics.shares(counts[both]) - metrics.shares(base[both])).sum(1) / 2
    worst = int(moved.argmax())
    floor = intervals.shift_floor(counts[both], base[both], random_seed=random_seed)
    return Shift(float(moved.mean()), floor, prompts[both[worst]], float(moved[worst]))


def _diversity(records: EvaluationData, attribute: Attribute, confidence: float, random_seed: int) -> list[Diversity]:
    """Of every condition and group that has enough images of some prompt; none without features."""
    if records.features is None:
        return []
    decided, found = attribute.decided(confidence), []
    for condition in range(len(records.conditions)):
        for k, name in enumerate(attribute.classes):
            rows = np.flatnonzero((records.condition == condition) & (decided == k))
            figures = diversity.within_prompts(np.asarray(records.features)[rows], records.prompt[rows], random_seed)
            if figures is not None:
                found.append(Diversity(condition, name, *figures))
    return found


def _overall(
    condition: int,
    counts: np.ndarray,
    totals: np.ndarray,
    draws: np.ndarray,
    base: int,
    base_shares: np.ndarray,
    attribute: Attribute,
    target: np.ndarray,
    margin: float,
    random_seed: int,
    worst: WorstPrompt | None,
    shift: Shift | None,
    unlike: int,
) -> Overall:
    """One attribute under one condition: counts [P, K], images per prompt [P], draws [2, B, C, K + 3]."""
    classes = counts.shape[-1]
    statistic = _scores(target)
    per_prompt = statistic(counts)
    scores = metrics.mean_over_prompts(per_prompt)
    p, counted, made = scores[:classes], counts.sum(), int(totals.sum())
    own = draws[:, :, condition]

    def share_interval(level: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = intervals.envelope(own[..., :classes], level)
        plain_low, plain_high = intervals.wilson(np.nan_to_num(p) * counted, counted, level)
        return np.fmin(low, plain_low), np.fmax(high, plain_high)

    def corrected() -> list[Estimate] | None:
        if attribute.confusion is None or (values := metrics.correct_shares(p, attribute.confusion)) is None:
            return None
        rates = attribute.confusion
        if attribute.confusion_draws is not None:
            rates = np.resize(attribute.confusion_draws, (own.shape[1], classes, classes))
        bounds = metrics.correct_shares(own[..., :classes], rates)
        return None if bounds is None else _estimates(values, *intervals.envelope(bounds))

    moved = own[..., :classes] - draws[:, :, base, :classes]

    def change_interval(level: float) -> tuple[np.ndarray, np.ndarray]:
        return intervals.envelope(moved, level)

    of_mean = metrics.fairness_distance(p, target)
    mean_draws = metrics.fairness_distance(own[..., :classes], target)
    distance_draws = intervals.centred(own[..., classes:], scores[classes:])
    distances = intervals.envelope(distance_draws)
    fd, bias, gap = _estimates(scores[classes:], *distances)
    floor, floor_high = intervals.fair_floor(target, counts.sum(-1), statistic, random_seed=random_seed)
    per_prompt_images = float(np.median(totals[totals > 0])) if made else 0.0
    coverage = counted / max(made, 1)
    drift = None
    if attribute.target is None and condition != base:
        said = intervals.equivalence(change_interval, np.zeros(classes), per_prompt_images, coverage, margin)
        unchanged = intervals.fair_within(margin).replace("fair", "unchanged")
        drift = DRIFT.get(said, unchanged)
        if shift is not None and drift != intervals.TOO_FEW and shift.beyond_chance > margin:
            drift = DRIFT[intervals.NOT_FAIR]
    fixed, verdict = corrected(), ""
    if attribute.target is not None:
        verdict = intervals.verdict_by_prompt(
            counts[counts.sum(1) > 0],
            per_prompt_images,
            coverage,
            target,
            lambda level: tuple(bound[0] for bound in intervals.envelope(distance_draws[..., :1], level)),
            floor[classes],
            margin,
        )
        checked = attribute.confusion_draws is not None and fixed is not None
        within = intervals.fair_within(margin)
        if (
            checked
            and verdict == within
            and any(abs(one.value - t) > margin for one, t in zip(fixed, target, strict=True))
        ):
            verdict = intervals.CANNOT_TELL
    return Overall(
        condition=condition,
        images=made,
        undetermined=made - int(counted),
        shares=_estimates(p, *share_interval(0.95)),
        corrected=fixed,
        change=_estimates(p - base_shares, *change_interval(0.95)),
        fd=fd,
        worst=worst,
        fd_of_mean=estimate(of_mean, *intervals.envelope(intervals.centred(mean_draws, of_mean))),
        floor=number(floor[classes]),
        floor_high=number(floor_high[classes]),
        pairwise_bias=bias,
        parity_gap=gap,
        kl=number(metrics.mean_over_prompts(metrics.kl_divergence(per_prompt[:, :classes], target))),
        normalised_entropy=number(metrics.mean_over_prompts(metrics.normalised_entropy(per_prompt[:, :classes]))),
        effective_groups=number(metrics.mean_over_prompts(metrics.effective_groups(per_prompt[:, :classes]))),
        prompt_gap=number(metrics.prompt_range(per_prompt[:, :classes]).max()),
        verdict=verdict,
        drift=drift,
        shift=shift,
        unlike=unlike,
    )


def _prompt_row(
    condition: int, prompt: str, counts: np.ndarray, made: int, target: np.ndarray, targeted: bool, margin: float
) -> PromptRow:
    counted = counts.sum()
    p = metrics.shares(counts)

    def share_interval(level: float) -> tuple[np.ndarray, np.ndarray]:
        return intervals.wilson(counts, counted, level)

    floor, _ = intervals.fair_floor(target, np.array([counted]), _scores(target), draws=500)
    verdict = intervals.equivalence(share_interval, target, made, counted / max(made, 1), margin) if targeted else ""
    return PromptRow(
        condition=condition,
        prompt=prompt,
        images=made,
        undetermined=made - int(counted),
        counts=[int(count) for count in counts],
        shares=_estimates(p, *share_interval(0.95)),
        fd=number(metrics.fairness_distance(p, target)),
        floor=number(floor[len(target)]),
        pairwise_bias=number(metrics.pairwise_bias(p)),
        parity_gap=number(metrics.parity_gap(p, target)),
        kl=number(metrics.kl_divergence(p, target)),
        normalised_entropy=number(metrics.normalised_entropy(p)),
        effective_groups=number(metrics.effective_groups(p)),
        verdict=verdict,
    )


def _estimates(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Estimate]:
    return [estimate(*one) for one in zip(values, low, high, strict=True)]


def _intersections(
    records: EvaluationData, attributes: Sequence[Attribute], confidence: float, resamples: int, random_seed: int
) -> list[Intersection]:
    """Joint shares of two attributes; expected is the product of their targets, or of the base's shares."""
    found = []
    for first, second in combinations(attributes, 2):
        shape = (len(first.classes), len(second.classes))
        a, b = first.onehot(confidence), second.onehot(confidence)
        joint = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
        size = (len(records.conditions), len(records.prompts))
        counts = intervals.tabulate(joint, records.condition, records.prompt, *size)
        draws = _bootstrap(joint, records, metrics.shares, resamples, random_seed)
        expected = np.outer(*(_expected(one, records, confidence) for one in (first, second)))
        for condition in dict.fromkeys((records.base, records.after)):
            p = metrics.mean_over_prompts(metrics.shares(counts[condition]))
            if np.isnan(p).any():
                continue
            total = counts[condition].sum()
            low, high = intervals.envelope(draws[:, :, condition])
            plain_low, plain_high = intervals.wilson(p * total, total)
            cells = _estimates(p, np.fmin(low, plain_low), np.fmax(high, plain_high))
            worst = np.unravel_index(int(np.argmax(expected.ravel() - p)), shape)
            found.append(
                Intersection(
                    condition,
                    [first.name, second.name],
                    list(first.classes),
                    list(second.classes),
                    [cells[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])],
                    expected.tolist(),
                    [int(i) for i in worst],
                    int(total),
                )
            )
    return found


def _expected(attribute: Attribute, records: EvaluationData, confidence: float) -> np.ndarray:
    if attribute.target is not None:
        return attribute.target.shares
    size = (len(records.conditions), len(records.prompts))
    counts = intervals.tabulate(attribute.onehot(confidence), records.condition, records.prompt, *size)
    return np.nan_to_num(metrics.mean_over_prompts(metrics.shares(counts[records.base])))


def _prices(
    records: EvaluationData,
    fidelity: Attribute | None,
    subjects: dict[str, np.ndarray | None],
    reference: np.ndarray | None,
    reference_name: str,
    resamples: int,
    random_seed: int,
) -> list[Quality]:
    """KID, same-seed distance and recognised subjects of every condition; empty without features and fidelity probe."""
    if records.features is None and fidelity is None:
        return []
    features = records.features
    recognised = [None] * len(records.conditions)
    if fidelity is not None:
        hit = fidelity.decided(0) == subjects[fidelity.name][records.prompt]
        onehot = np.stack([hit, ~hit], 1).astype(np.float64)
        size = (len(records.conditions), len(records.prompts))
        p = metrics.shares(intervals.tabulate(onehot, records.condition, records.prompt, *size))
        draws = _bootstrap(onehot, records, metrics.shares, resamples, random_seed)
        low, high = intervals.envelope(draws)
        recognised = [
            estimate(metrics.mean_over_prompts(p[c])[0], low[c, 0], high[c, 0]) for c in range(len(records.conditions))
        ]
    prices = []
    for condition in range(len(records.conditions)):
        found, distance, pairs = None, None, records.pairs(condition)
        if features is not None:
            if condition != records.base and len(pairs):
                moved, still = features[pairs[:, 0]], features[pairs[:, 1]]
                distance = float(kid.paired_distance(moved, still).mean())
                if reference is None:
                    found = kid.kid(moved, still, random_seed=random_seed, paired=True)
            if found is None and (reference is not None or condition != records.base):
                against = features[records.condition == records.base] if reference is None else reference
                found = kid.kid(features[records.condition == condition], against, random_seed=random_seed)
        prices.append(
            Quality(
                condition,
                found and found.value,
                found and found.spread,
                ""
                if found is None
                else reference_name
                if reference is not None
                else records.conditions[records.base].label,
                distance,
                len(pairs) if distance is not None else 0,
                recognised[condition],
            )
        )
    return prices
