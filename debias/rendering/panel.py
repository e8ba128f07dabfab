"""The short form of a report that a node shows: plain values for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evaluation import intervals
from ..evaluation.dataset_audit import Audit
from ..evaluation.report import Estimate, FairnessReport, Measured, Quality
from .report_html import tone

Files = Mapping[str, Mapping[str, str]]

TONES = {"yes": "fair", "no": "unfair", "open": "unknown", "none": "unknown"}
LONGEST = 60  # prompts; a panel is no page


def report_panel(report: FairnessReport, kind: str = "report", files: Files | None = None) -> dict[str, Any]:
    """What a panel shows of a report.

    Args:
        report: the last condition is shown, with the base's shares as `before` where there are two.
        kind: `report`, `compare` or `sweep`.
        files: where the whole report is, by kind of file, as a host refers to files.

    Returns:
        kind, title, verdict {tone, text}, summary, remarks, n, attributes, prompts (worst first), files.
    """
    first, after = report.attributes[0], report.after
    rows = [row for row in first.prompts if row.condition == after]
    return {
        "kind": kind,
        "title": report.title,
        "verdict": _verdict(first, after),
        "headline": _headline(first, after),
        "summary": report.summary,
        "remarks": [*report.remarks, *(one.reason for one in report.recommendations[:1]), *report.notes]
        if kind == "sweep"
        else [*report.remarks, *report.notes],
        "n": report.images,
        "attributes": [_attribute(one, report) for one in report.attributes],
        "prompts": [
            {
                "prompt": row.prompt,
                "n": row.images,
                "undetermined": row.undetermined,
                "fd": row.fd if first.targeted else None,
                "verdict": {"tone": TONES[tone(row.verdict)], "text": row.verdict} if first.targeted else None,
                "groups": _groups(first.classes, row.shares),
            }
            for row in rows[:LONGEST]
        ],
        "files": {name: dict(place) for name, place in (files or {}).items()},
    }


def sweep_points(report: FairnessReport) -> list[dict[str, Any]]:
    """Fairness and quality of every strength α, in order, for a chart of one against the other.

    `quality` is the share of subjects recognised, or else the distance to the base's images of the same seeds,
    whichever was measured; `quality_name` says which.
    """
    first, prices = report.attributes[0], {one.condition: one for one in report.quality}
    points = []
    for overall in first.overall:
        setting, price = report.conditions[overall.condition], prices.get(overall.condition)
        if setting.alpha is None:
            continue
        name, quality = _quality(price, overall.condition == report.base)
        points.append(
            {
                "alpha": setting.alpha,
                "n": setting.images,
                "fd": overall.fd.value,
                "worst": overall.worst and asdict(overall.worst),
                "fd_low": overall.fd.low,
                "fd_high": overall.fd.high,
                "floor": overall.floor_high,
                "groups": _groups(first.classes, overall.shares),
                "quality": quality,
                "quality_name": name,
                "kid": price.kid if price else None,
            }
        )
    return sorted(points, key=lambda one: one["alpha"])


def _quality(price: Quality | None, base: bool) -> tuple[str, float | None]:
    if price is None:
        return "", None
    if price.recognised is not None:
        return "subject recognised", price.recognised.value
    return "distance to the image of the same seed", 0.0 if base else price.paired_distance


def audit_panel(audit: Audit, files: Files | None = None) -> dict[str, Any]:
    """What a panel shows of an audit: shares of the set, and the prices of balance as `points`."""
    named = not audit.by_indicator
    uneven = named and any(
        group.share.low is not None and group.share.low > group.target
        for one in audit.attributes
        for group in one.groups
    )
    return {
        "kind": "audit",
        "title": audit.title,
        "verdict": {"tone": "unfair" if uneven else "unknown", "text": audit.advice},
        "summary": audit.summary,
        "remarks": [*audit.remarks, *audit.notes],
        "n": audit.images,
        "attributes": [
            {
                "name": one.name,
                "groups": [
                    {"name": group.name, **_bounds(group.share), "target": group.target} for group in one.groups
                ],
                "fd": {"value": one.distance[0] if one.distance else None, "low": None, "high": None},
                "floor": None,
                "undetermined": one.undetermined,
            }
            for one in audit.attributes
        ],
        "prompts": [],
        "points": [
            {"alpha": alpha, "images": images, "ratio": ratio}
            for alpha, images, ratio in zip(audit.price.alphas, audit.price.images, audit.price.ratio, strict=True)
        ],
        "recommended_alpha": audit.recommended,
        "files": {name: dict(place) for name, place in (files or {}).items()},
    }


def _headline(measured: Measured, condition: int) -> dict[str, Any] | None:
    """FD by prompt with its interval and what a fair model shows, and the worst prompt; None without a target."""
    now = measured.overall[condition]
    if not measured.targeted or now.fd.value is None or now.worst is None:
        return None
    return {
        "fd": asdict(now.fd),
        "floor": now.floor_high,
        "worst": asdict(now.worst) if sum(row.condition == condition for row in measured.prompts) > 1 else None,
    }


def _verdict(measured: Measured, condition: int) -> dict[str, str]:
    said = measured.overall[condition].verdict
    text = said or "no target"
    if said == intervals.TOO_FEW:
        made = [row.images for row in measured.prompts if row.condition == condition]
        images = "one image" if sum(made) == 1 else f"{sum(made):,} images"
        each = f" of {len(made)} prompts, and a verdict needs {intervals.FEWEST_IMAGES} of each"
        text = f"{said}: {images}" + (each if len(made) > 1 else f", and a verdict needs {intervals.FEWEST_IMAGES}")
    return {"tone": TONES[tone(said)], "text": text}


def _attribute(measured: Measured, report: FairnessReport) -> dict[str, Any]:
    before, now = measured.overall[report.base], measured.overall[report.after]
    groups = _groups(measured.classes, now.shares)
    for group, target, start in zip(groups, measured.target, before.shares, strict=True):
        group["target"] = target if measured.targeted else None
        if report.base != report.after:
            group["before"] = _bounds(start)
    return {
        "name": measured.name,
        "groups": groups,
        "fd": {"value": now.fd.value, "low": now.fd.low, "high": now.fd.high},
        "floor": now.floor_high,
        "undetermined": now.undetermined,
        "accuracy": measured.accuracy,
        "drift": now.drift,
        "shift": now.shift and asdict(now.shift),
    }


def _groups(names: Sequence[str], shares: Sequence[Estimate]) -> list[dict[str, Any]]:
    return [{"name": name, **_bounds(share)} for name, share in zip(names, shares, strict=True)]


def _bounds(share: Estimate) -> dict[str, float | None]:
    return {"share": share.value, "low": share.low, "high": share.high}
