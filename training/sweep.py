"""What a sweep over α (and the guidance scale) says: which α to recommend, and the card that the adapter file keeps."""

from typing import Any

from ..debias.report import FairnessReport

# How much less often, as a share of all pictures, the subject may be recognised than at α = 0.
RECOGNISED_LOSS = 0.03


def recommended_alpha(report: FairnessReport, cfg: float) -> float | None:
    """The smallest α, at a guidance scale, that is as near to the target as can be told.

    That is: its distance FD is one that a perfectly fair model could show with as many pictures; or, where none gets
    there, it is no further beyond the best than that. (The intervals of FD would not do: they hold how much prompts
    differ, and all strengths have the same prompts.) Strengths at which the subject is recognised more than three
    points less often than at α = 0 are left out while others remain.

    Returns:
        None when the first attribute has no target, or no α was measured.
    """
    first = report.attributes[0]
    points = [one for one in _points(report, cfg) if one["fd"] is not None]
    if not first.targeted or not points:
        return None
    start = points[0]["recognised"]
    if start is not None:
        good = [one for one in points if one["recognised"] is None or one["recognised"] >= start - RECOGNISED_LOSS]
        points = good or points
    fair = [one for one in points if one["floor_high"] is not None and one["fd"] <= one["floor_high"]]
    best = min(points, key=lambda one: one["fd"])
    near = [one for one in points if one["fd"] <= best["fd"] + (best["floor_high"] or 0.0)]
    return min(one["alpha"] for one in fair or near)


def measured_card(report: FairnessReport, cfg: float, steps: int) -> dict[str, Any]:
    """The measurement as plain values: shares, distance and price for each α at a guidance scale."""
    first = report.attributes[0]
    return {
        "attribute": first.name,
        "classes": first.classes,
        "target": first.target if first.targeted else None,
        "probe_accuracy": first.accuracy,
        "prompts": report.prompts,
        "steps": steps,
        "cfg": cfg,
        "recommended_alpha": recommended_alpha(report, cfg),
        "points": _points(report, cfg),
    }


def _points(report: FairnessReport, cfg: float) -> list[dict[str, Any]]:
    first = report.attributes[0]
    prices = {one.condition: one for one in report.quality}
    points = []
    for overall in first.overall:
        setting = report.conditions[overall.condition]
        # A report of one guidance scale does not name it.
        if setting.alpha is None or setting.alpha < 0 or setting.cfg not in (None, cfg):
            continue
        price = prices.get(overall.condition)
        points.append(
            {
                "alpha": setting.alpha,
                "pictures": setting.pictures,
                "shares": [one.value for one in overall.shares],
                "fd": overall.fd.value,
                "fd_high": overall.fd.high,
                "floor_high": overall.floor_high,
                "kid": price.kid if price else None,
                "recognised": price.recognised.value if price and price.recognised else None,
            }
        )
    return sorted(points, key=lambda one: one["alpha"])
