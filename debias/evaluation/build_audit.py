"""Builds an audit: counts the groups of a set, picks the images to look at, and says what balance would cost."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..groups.groups import FEWEST_PEERS, NOTHING, Groups
from ..groups.target import Target
from ..groups.weighting import PredictedCurve, Weighting, predict_curve
from . import intervals, metrics
from .contact_sheet import thumbnail
from .dataset_audit import Audit, AuditedAttribute, AuditedGroup, ConceptRow, Price, SkippedFile, Tried
from .report import Estimate, Thumbnail
from .report_text import percent, percent_range, who

SHEET, STRIP = 20, 10
FEWEST = 60
RELIABLE, KNOWN = 0.6, 4.0


@dataclass(frozen=True)
class AuditedSet:
    """The images of an audit.

    Attributes:
        files: [N] paths, for thumbnails.
        names: [N] what to call each image in a caption.
        captions: [N].
        skipped: (file, reason) of what is not used.
        notes: remarks about what is used.
    """

    files: Sequence[str | os.PathLike]
    names: Sequence[str]
    captions: Sequence[str]
    skipped: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def inspect(
    images: AuditedSet,
    groups: Sequence[Groups],
    targets: Sequence[Target],
    weighting: Weighting,
    *,
    source: str = "",
    tried: Iterable[dict] = (),
    title: str = "What is in the images",
    random_seed: int = 0,
) -> Audit:
    """Audit a set.

    Args:
        images: files and captions [N].
        groups: one grouping [N, K] per attribute; thirds of the log-weight for an indicator's weighting.
        targets: one per attribute; they say nothing for an indicator.
        weighting: the tempered weights [N].
        source: where the groups come from, as on the command line.
        tried: what `auto` tried, one dictionary with the fields of `Tried` per attribute (`shares` may be missing).
        random_seed: of the choice among images of equal weight.
    """
    rng = np.random.default_rng(random_seed)
    thumbnails: dict[int, str] = {}

    def show(rows: Sequence[int], words: Sequence[str]) -> list[Thumbnail]:
        for row in rows:
            if row not in thumbnails:
                thumbnails[row] = thumbnail(images.files[row])
        return [Thumbnail(thumbnails[row], f"{images.names[row]}: {words[row]}") for row in rows]

    curves = [predict_curve(weighting, one.membership, goal) for one, goal in zip(groups, targets, strict=True)]
    weights = weighting.weights(1.0)
    concepts = _concept_names(images.captions, weighting.concept)
    attributes = [
        _attribute(one, goal, curve, weighting, weights, concepts, show, rng)
        for one, goal, curve in zip(groups, targets, curves, strict=True)
    ]
    price = _price(weighting, curves[0])
    recommended = max(curve.recommended for curve in curves)
    counts = [f"counts {weight:.2g} times" for weight in weights]
    return Audit(
        title=title,
        summary=_summary(attributes, price, len(weights), len(set(images.captions))),
        advice=_advice(attributes, price, recommended, len(weights)),
        remarks=_remarks(images, attributes, weighting),
        source=source,
        images=len(weights),
        captions=len(set(images.captions)),
        attributes=attributes,
        tried=[Tried(**{"shares": None, **row, "words": list(row["words"])}) for row in tried],
        price=price,
        recommended=recommended,
        rare=show(_highest(weights, SHEET, rng), counts),
        common=show(_highest(-weights, SHEET, rng), counts),
        skipped=[SkippedFile(*one) for one in images.skipped],
        notes=list(images.notes),
    )


def attribute_name(groups: Groups) -> str:
    """What to call an attribute: `gender` for `labels:gender`, `man or woman` for `words:man|woman`."""
    kind, _, rest = groups.source.partition(":")
    return " or ".join(groups.names) if kind == "words" else rest or kind


Show = Callable[[Sequence[int], Sequence[str]], list[Thumbnail]]


def _attribute(
    groups: Groups,
    target: Target,
    curve: PredictedCurve,
    weighting: Weighting,
    weights: np.ndarray,
    concepts: Sequence[str],
    show: Show,
    rng: np.random.Generator,
) -> AuditedAttribute:
    membership, named = groups.membership, not weighting.by_indicator
    size = membership.sum(0)
    low, high = intervals.wilson(size, size.sum())
    rows = []
    for k, name in enumerate(groups.names):
        own = membership[:, k]
        surest = _highest(own, STRIP, rng, least=0.5) if named else []
        certainty = [f"{name} {share:.0%}" if groups.words else name for share in own]
        rows.append(
            AuditedGroup(
                name=name if named else name.split(maxsplit=1)[-1],
                images=round(float(size[k]), 2),
                share=_estimate(groups.shares[k], *((low[k], high[k]) if named else ())),
                target=float(target.shares[k]) if named else None,
                weight=round(float(own @ weights / max(size[k], 1e-12)), 4),
                examples=show(surest, certainty),
            )
        )
    ordered = np.sort(membership, 1)
    # Of soft groups, the images whose two likeliest ones are less than 60 points apart.
    doubtful = _highest(ordered[:, -2] - ordered[:, -1], STRIP, rng, least=-0.6) if groups.words else []
    best = [f"{groups.names[k]} {row[k]:.0%}" for row, k in zip(membership, membership.argmax(1), strict=True)]
    return AuditedAttribute(
        name=attribute_name(groups),
        source=groups.source,
        groups=rows,
        undetermined=groups.undetermined,
        reliability=_figure(groups.evidence.get("reliability")),
        gain=_figure(groups.evidence.get("gain")),
        shares=curve.shares.round(4).tolist() if named else [],
        distance=curve.distance.round(4).tolist() if named else [],
        recommended=curve.recommended,
        reached=curve.reached,
        concepts=_concepts(membership, target, weighting.concept, concepts) if named else [],
        doubtful=show(doubtful, best),
    )


def _highest(score: np.ndarray, count: int, rng: np.random.Generator, least: float = -np.inf) -> list[int]:
    """Rows of the highest scores, ties (to two digits) in random order, so that a sheet is no run of one subject."""
    order = np.lexsort((rng.random(len(score)), -score.round(2)))
    return [int(row) for row in order[:count] if score[row] >= least]


def _concept_names(captions: Sequence[str], concept: np.ndarray) -> list[str]:
    """The caption of each concept; of captions that are taken together, how many they are."""
    there: list[dict[str, None]] = [{} for _ in range(concept.max() + 1)]
    for caption, index in zip(captions, concept, strict=True):
        there[index].setdefault(caption.strip().lower(), None)
    return [
        next(iter(own)) or "(no caption)" if len(own) == 1 else f"{len(own):,} captions with few images"
        for own in there
    ]


def _concepts(membership: np.ndarray, target: Target, concept: np.ndarray, names: Sequence[str]) -> list[ConceptRow]:
    counts = np.zeros((len(names), membership.shape[1]))
    np.add.at(counts, concept, membership)
    far = np.nan_to_num(metrics.fairness_distance(metrics.shares(counts), target.shares), nan=-1)
    images = np.bincount(concept, minlength=len(names))
    return [
        ConceptRow(names[c], int(images[c]), counts[c].round(2).tolist()) for c in np.lexsort((names, -far.round(6)))
    ]


def _price(weighting: Weighting, curve: PredictedCurve) -> Price:
    count = len(weighting.concept)
    third = max(1, count // 3)
    ratio = []
    for alpha in curve.alphas:
        ordered = np.sort(weighting.weights(alpha))
        ratio.append(float(ordered[-third:].mean() / max(ordered[:third].mean(), 1e-9)))
    return Price(curve.alphas.tolist(), (curve.effective_share * count).round(1).tolist(), np.round(ratio, 3).tolist())


def _summary(attributes: Sequence[AuditedAttribute], price: Price, count: int, captions: int) -> str:
    """What is in the set, and what it would count as: one sentence, two for the price."""
    if count == 1:
        return "One image is too few to say anything."
    images = f"{count:,} images"
    cost = f"At α = 1 your {images} count as {price.at(1.0):,}."
    if attributes[0].groups[0].target is None:
        ratio = price.ratio[price.alphas.index(1.0)]
        of = f" of {captions:,} subjects" if captions > 1 else ""
        return (
            f"{NOTHING} At α = 1 the rarest third of {images}{of} would be drawn {ratio:,.0f} times as often as the "
            f"commonest third, and they count as {price.at(1.0):,}."
        )
    attribute, one = max(
        ((attribute, group) for attribute in attributes for group in attribute.groups),
        key=lambda pair: pair[1].share.value - pair[1].target,
    )
    name, verb, _ = who(one.name)
    share = f"{percent(one.share.value)} ({percent_range(one.share)})"
    judged = f"the target is {percent(one.target)}"
    if _balanced(attribute):
        judged = f"as near to the target of {percent(one.target)} as can be told"
    elif one.share.low <= one.target:
        judged += f" within each subject, and subjects lean either way (FD {attribute.distance[0]:.2f})"
    return f"{name[:1].upper() + name[1:]} {verb} {share} of {images}; {judged}. {cost}"


def _advice(attributes: Sequence[AuditedAttribute], price: Price, recommended: float, count: int) -> str:
    """Which α to use, why, and what it costs, in plain words."""
    counts = f"There your {count:,} images count as {price.at(recommended):,}"
    if attributes[0].groups[0].target is None:
        return (
            f"α = {recommended:g} is recommended: leave the model as it is. If you know what to balance, say it: "
            "words:man|woman, or labels:COLUMN."
        )
    if all(map(_balanced, attributes)):
        return "Nothing needs correcting: the set is as near to its target as so many images can tell."
    if all(one.reached for one in attributes):
        return (
            f"α = {recommended:g} is recommended, the smallest that brings every share within chance of its target. "
            f"{counts}: the rare ones are drawn more often, so fewer different images teach the model."
        )
    return (
        f"α = {recommended:g} is recommended: it comes nearest to the target without drawing the same few "
        f"images over and over. {counts}. More images of the rare kind would get further."
    )


def _balanced(attribute: AuditedAttribute) -> bool:
    """Whether the set as it is cannot be told from the target, which is what the recommendation goes by."""
    return attribute.reached and attribute.recommended == 0


def _remarks(images: AuditedSet, attributes: Sequence[AuditedAttribute], weighting: Weighting) -> list[str]:
    """Short sentences on what a person should know before believing the figures."""
    count, said = len(images.captions), []
    if images.skipped:
        said.append(f"{_files(len(images.skipped))} could not be used; the reasons are below.")
    if count < FEWEST:
        said.append(f"{count} images are few: read every figure with its interval.")
    bare = sum(not caption.strip() for caption in images.captions)
    if bare:
        said.append(f"{_images(bare)} no caption. Give them one that says what they show, as “a portrait”.")
    _, index = np.unique([caption.strip().lower() for caption in images.captions], return_inverse=True)
    alone = int((np.bincount(index)[index] < FEWEST_PEERS).sum())
    if alone and len(np.unique(index)) > 1:
        said.append(
            f"{_images(alone)} a caption that fewer than {FEWEST_PEERS} share; these are weighed together, as if "
            "they showed one subject. With one short caption per subject the balance would be within each subject."
        )
    for one in attributes:
        if one.undetermined:
            said.append(f"{_images(one.undetermined)} no {one.name}; they keep their weight at every α.")
        weak = one.reliability is not None and (one.reliability < RELIABLE or one.gain < KNOWN)
        if weak:
            words = " from ".join(f"“{group.name}”" for group in one.groups)
            said.append(
                f"The model can hardly tell {words} in these images (reliability {one.reliability:.2f}, gain "
                f"{one.gain:.1f}): look at the sheets before you believe the shares."
            )
    return said


def _files(count: int) -> str:
    return "One file" if count == 1 else f"{count:,} files"


def _images(count: int) -> str:
    return "One image has" if count == 1 else f"{count:,} images have"


def _estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(*(None if one is None else round(float(one), 4) for one in (value, low, high)))


def _figure(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
