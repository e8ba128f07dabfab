"""A sweep over α (and the guidance scale): its images, which α to recommend, and the card that the adapter keeps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.adapter.lora_file import AdapterCard, update_card
from ...debias.evaluation.report import FairnessReport, Measured

if TYPE_CHECKING:
    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ...debias.probes.records import EvaluationData
    from ..models.model import Model
    from ..sampling.image_writer import ImageJob

Phase = Callable[[str], AbstractContextManager[Callable[[float, int], None]]]

# Guidance scale and sampling steps of `measure`; those of `ddm sweep` if it is not told otherwise.
GUIDANCE, SAMPLING = 3.0, 20


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
        options: of `write_images`, which also says what can go wrong.
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


def measured_card(report: FairnessReport, cfg: float, steps: int) -> dict[str, Any]:
    """The measurement as plain values: FD by prompt, worst prompt, shares and price for each α at a guidance scale."""
    first, best = report.attributes[0], report.recommendation(cfg)
    return {
        "attribute": first.name,
        "classes": first.classes,
        "target": first.target if first.targeted else None,
        "probe_accuracy": first.accuracy,
        "prompts": report.prompts,
        "steps": steps,
        "cfg": cfg,
        "recommended_alpha": best.alpha,
        "reason": best.reason,
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
                "fd_low": overall.fd.low,
                "fd_high": overall.fd.high,
                "worst_prompt": overall.worst and asdict(overall.worst),
                "shifts": {
                    one.name: _shift(one, overall.condition) for one in report.attributes[1:] if not one.targeted
                },
                "floor_high": overall.floor_high,
                "kid": price.kid if price else None,
                "recognised": price.recognised.value if price and price.recognised else None,
            }
        )
    return sorted(points, key=lambda one: one["alpha"])


def _shift(measured: Measured, condition: int) -> dict[str, Any] | None:
    """How far another attribute moved, prompt by prompt."""
    shift = measured.overall[condition].shift
    return shift and asdict(shift)
