"""From records to a report: every figure of DESIGN §6, averaged over prompts and with its uncertainty."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from ..probes.prompt_class import recognised_by
from ..probes.records import CONFIDENCE, Attribute, EvaluationData
from . import diversity, intervals, kid, metrics
from .attribute_figures import AttributeFigures, Measuring
from .clusters import look_alikes
from .contact_sheet import contact_sheets
from .recommendation import recommend
from .report import Diversity, Estimate, FairnessReport, Intersection, Quality, Setting, estimates
from .report_text import remarks, summarise


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
    measuring = Measuring(records, margin, confidence, resamples, random_seed)
    figures = [AttributeFigures(measuring, one) for one in shown]
    measured = [one.measured() for one in figures]
    settings = [
        Setting(one.label, one.alpha, one.cfg, int((records.condition == i).sum()), one.made)
        for i, one in enumerate(records.conditions)
    ]
    recognised = _recognised(measuring, fidelity, subjects) if fidelity else None
    prices = _prices(measuring, recognised, reference, reference_name)
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
        attributes=measured,
        fidelity=fidelity.name if fidelity else "",
        intersections=[one for pair in combinations(figures, 2) for one in _intersections(measuring, *pair)],
        quality=prices,
        diversity=_diversity(measuring, shown[0]),
        recommendations=[
            recommend(measured, prices, settings, cfg, figures[0].distance_draws, made)
            for cfg in dict.fromkeys(one.cfg for one in settings if one.alpha is not None and one.made == made)
        ],
        sheets=pages,
        clusters=groups,
        notes=notes,
        **facts,
    )


def _diversity(measuring: Measuring, attribute: Attribute) -> list[Diversity]:
    """Of every condition and group that has enough images of some prompt; none without features."""
    records = measuring.records
    if records.features is None:
        return []
    decided, found = attribute.decided(measuring.confidence), []
    for condition in range(len(records.conditions)):
        for k, name in enumerate(attribute.classes):
            rows = np.flatnonzero((records.condition == condition) & (decided == k))
            features = np.asarray(records.features)[rows]
            figures = diversity.within_prompts(features, records.prompt[rows], measuring.random_seed)
            if figures is not None:
                found.append(Diversity(condition, name, *figures))
    return found


def _intersections(measuring: Measuring, first: AttributeFigures, second: AttributeFigures) -> list[Intersection]:
    """Joint shares of two attributes; expected is the product of their targets, or of the base's shares."""
    records, found = measuring.records, []
    names = [list(one.attribute.classes) for one in (first, second)]
    a, b = (one.attribute.onehot(measuring.confidence) for one in (first, second))
    joint = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    counts, draws = measuring.counts(joint), measuring.bootstrap(joint, metrics.shares)
    expected = np.outer(*(one.target if one.targeted else np.nan_to_num(one.base_shares) for one in (first, second)))
    for condition in dict.fromkeys((records.base, records.after)):
        p = metrics.mean_over_prompts(metrics.shares(counts[condition]))
        if np.isnan(p).any():
            continue
        total = counts[condition].sum()
        low, high = intervals.envelope(draws[:, :, condition])
        plain_low, plain_high = intervals.wilson(p * total, total)
        cells = np.array(estimates(p, np.fmin(low, plain_low), np.fmax(high, plain_high)), dtype=object)
        worst = np.unravel_index(int(np.argmax(expected.ravel() - p)), expected.shape)
        found.append(
            Intersection(
                condition,
                [first.attribute.name, second.attribute.name],
                *names,
                cells.reshape(expected.shape).tolist(),
                expected.tolist(),
                [int(i) for i in worst],
                int(total),
            )
        )
    return found


def _recognised(measuring: Measuring, fidelity: Attribute, subjects: dict[str, np.ndarray | None]) -> list[Estimate]:
    """How often the subject of a prompt is recognised, by condition."""
    hit = fidelity.decided(0) == subjects[fidelity.name][measuring.records.prompt]
    onehot = np.stack([hit, ~hit], 1).astype(np.float64)
    p = metrics.mean_over_prompts(np.moveaxis(metrics.shares(measuring.counts(onehot)), 1, 0))
    low, high = intervals.envelope(measuring.bootstrap(onehot, metrics.shares))
    return estimates(p[:, 0], low[:, 0], high[:, 0])


def _prices(
    measuring: Measuring, recognised: Sequence[Estimate] | None, reference: np.ndarray | None, reference_name: str
) -> list[Quality]:
    """KID, same-seed distance and recognised subjects of every condition; empty where neither can be told."""
    records, seed = measuring.records, measuring.random_seed
    features = records.features
    if features is None and recognised is None:
        return []
    prices = []
    for condition in range(len(records.conditions)):
        found, distance, pairs = None, None, records.pairs(condition)
        if features is not None:
            if condition != records.base and len(pairs):
                moved, still = features[pairs[:, 0]], features[pairs[:, 1]]
                distance = float(kid.paired_distance(moved, still).mean())
                if reference is None:
                    found = kid.kid(moved, still, random_seed=seed, paired=True)
            if found is None and (reference is not None or condition != records.base):
                against = features[records.condition == records.base] if reference is None else reference
                found = kid.kid(features[records.condition == condition], against, random_seed=seed)
        price = Quality(
            condition,
            paired_distance=distance,
            paired_images=len(pairs) if distance is not None else 0,
            recognised=recognised[condition] if recognised else None,
        )
        if found is not None:
            against = records.conditions[records.base].label if reference is None else reference_name
            price = replace(price, kid=found.value, kid_spread=found.spread, kid_reference=against)
        prices.append(price)
    return prices
