"""A sweep over α (and the guidance scale): its images, which α to recommend, and the card that the adapter keeps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.adapter.lora_file import AdapterCard, update_card
from ...debias.evaluation.intervals import FEWEST_IMAGES
from ...debias.evaluation.report import FairnessReport

if TYPE_CHECKING:
    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ...debias.probes.records import EvaluationData
    from ..models.model import Model
    from ..sampling.image_writer import ImageJob

Phase = Callable[[str], AbstractContextManager[Callable[[float, int], None]]]

# Guidance scale and sampling steps of `measure`; those of `ddm sweep` if it is not told otherwise.
GUIDANCE, SAMPLING = 3.0, 20
# How much less often, as a share of all images, the subject may be recognised than at α = 0.
RECOGNISED_LOSS = 0.03


def make_records(
    model: "Model",
    folder: Path,
    shots: "Sequence[ImageJob]",
    probes: "Sequence[Probe]",
    targets: "Sequence[Target | None]",
    phase: Phase,
    **options: object,
) -> "EvaluationData":
    """Make images, and let probes look at them.

    Args:
        folder: where they are kept; those that are there already are not made again.
        phase: begins "sampling" and "looking", as `Reporter.images`.
        options: of `make_gallery`, which also says what can go wrong.
    """
    from ...debias.probes.predict import quality_probe
    from ..sampling.image_writer import write_images
    from .evaluate_folder import read_records

    with phase("sampling") as progress:
        write_images(model, folder, shots, progress=progress, **options)
    with phase("looking") as progress:
        return read_records(folder, probes, targets, quality_probe(probes, targets), progress)


def measure(
    adapter: Path,
    model: "Model",
    folder: Path,
    prompts: Sequence[str],
    probes: "Sequence[Probe]",
    targets: "Sequence[Target | None]",
    alphas: Sequence[float],
    per_prompt: int,
    seed: int,
    phase: Phase,
) -> dict[str, Any]:
    """Measure an adapter with its model, and write what was measured into its file.

    Args:
        folder, phase: see `make_records`.
        alphas: the strengths; 0 is among them.
        per_prompt: images of each prompt at each α. Below 60 they are too few to say which α is best, as they are for
            a verdict: none is recommended then, and the card keeps its own.

    Returns:
        The measurement, as `measured_card` gives it.
    """
    from ...debias.core.io import read_metadata
    from ...debias.evaluation.evaluate import build_report
    from ..sampling.image_writer import plan_jobs

    shots = plan_jobs(prompts, per_prompt, alphas, [GUIDANCE], seed)
    options = {"steps": SAMPLING, "bf16": model.base.half_is_native, "overwrite": True}
    records = make_records(model, folder, shots, probes, targets, phase, **options)
    measured = measured_card(build_report(records, clusters=0, sheets=0, random_seed=seed), GUIDANCE, SAMPLING)
    if per_prompt < FEWEST_IMAGES:
        measured["recommended_alpha"] = None
    keep_measured(adapter, AdapterCard.from_metadata(read_metadata(adapter)), measured)
    return measured


def keep_measured(adapter: Path, card: AdapterCard, measured: dict[str, Any]) -> None:
    """Write a measurement and the α that it recommends into an adapter file, and its page anew if there is one."""
    from .adapter_page import page_path, write_page

    best = measured["recommended_alpha"]
    recommended = card.recommended_alpha if best is None else best
    update_card(adapter, replace(card, measured=measured, recommended_alpha=recommended))
    if page_path(adapter).exists():
        write_page(adapter)


def recommended_alpha(report: FairnessReport, cfg: float) -> float | None:
    """The smallest α, at a guidance scale, that is as near to the target as can be told.

    That is: its distance FD is one that a perfectly fair model could show with as many images; or, where none gets
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
                "images": setting.images,
                "shares": [one.value for one in overall.shares],
                "fd": overall.fd.value,
                "fd_high": overall.fd.high,
                "floor_high": overall.floor_high,
                "kid": price.kid if price else None,
                "recognised": price.recognised.value if price and price.recognised else None,
            }
        )
    return sorted(points, key=lambda one: one["alpha"])
