"""`ddm sample`: the same seeds at several strengths of an adapter."""

import json
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseChoice,
    DeviceOption,
    GuideOption,
    GuideTargetOption,
    opens_base,
)


class GuideMode(str, Enum):
    """The modes of distribution guidance."""

    QUEUE = "queue"
    BATCH = "batch"


@opens_base
def sample(
    *,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="TEXT|FILE", help="Prompts as 'a firefighter;a doctor', or a text file with one in a line."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where alpha_<α>/<prompt>/<seed>.png and metadata.jsonl go.")
    ],
    base: BaseChoice,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="The fair adapter; α is its strength.")] = None,
    style: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A style LoRA to use with it, at strength 1.")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option(help="Strengths: '0,0.5,1'. Without it 0, 0.5 and 1, or 0 if there is no adapter.")
    ] = None,
    guide: GuideOption = None,
    guide_scale: Annotated[float, typer.Option(min=0.0, help="How far guidance pushes; 0 is not at all.")] = 8.0,
    guide_mode: Annotated[
        GuideMode,
        typer.Option(help="queue: every image gets a class, and counts are kept; batch: a batch as a whole."),
    ] = GuideMode.QUEUE,
    guide_target: GuideTargetOption = None,
    guide_words: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Prompts with one of these words are not guided, since they say themselves who is meant: "
            "'man,woman,boy'; once for each --guide. Without it the head's own classes; '-' for no words.",
        ),
    ] = None,
    invariant: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Invariant guidance by a module from `ddm invariant`.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength r of invariant guidance; 0 is none.")] = 1.0,
    per_prompt: Annotated[int, typer.Option(min=1, help="Images for each prompt and α.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    cfg: Annotated[float, typer.Option(min=0.0, help="Guidance scale; 1 is none.")] = 3.0,
    negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Side of the images in pixels; the model's own if none.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time; what fits if none.")] = None,
    bf16: Annotated[bool, typer.Option(help="Half precision: faster on CPUs that have bfloat16.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace images in DIR that were made with other settings.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="First seed: the same seed has the same noise at every α.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as one JSON object.")] = False,
) -> None:
    """Generate images at several strengths, with the same seeds. Images that are there already are kept.

    Example: ddm sample --adapter fair.safetensors --prompts "a firefighter;a doctor" --per-prompt 8 --out images
    """
    from ..loop.progress_bars import image_progress
    from ..models.model import load_model
    from ..sampling.guidance import load_steering
    from ..sampling.image_writer import plan_jobs, write_images
    from ..sampling.prompts import read_prompts
    from .numbers import read_numbers

    texts = read_prompts(prompts)
    alphas = read_numbers(alpha or ("0,0.5,1" if adapter else "0"), "--alpha")
    require_adapter(alphas, adapter)
    model = load_model(base.path, adapter, style, device, **base.opening)
    steering, remarks = load_steering(
        model.base,
        guide or (),
        guide_target or (),
        guide_scale,
        guide_mode.value,
        invariant,
        strength,
        guide_words or (),
    )
    model.warnings.extend(remarks)
    for warning in model.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    shots = plan_jobs(texts, per_prompt, alphas, [cfg], seed)
    start = time.monotonic()
    with image_progress("Sampling") as progress:
        result = write_images(
            model,
            out,
            shots,
            steps=steps,
            negative=negative,
            resolution=resolution,
            batch_size=batch_size,
            bf16=bf16,
            steering=steering,
            overwrite=overwrite,
            progress=progress,
        )
    seconds = time.monotonic() - start
    if as_json:
        facts = {
            "out": str(out),
            "made": result.made,
            "kept": result.kept,
            "prompts": texts,
            "alphas": alphas,
            "seconds": round(seconds, 2),
            "images_per_second": round(result.made / seconds, 2) if result.made else None,
            "warnings": model.warnings,
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    typer.echo(f"{result.made} images made, {result.kept} kept, in {out}.")


def require_adapter(alphas: list[float], adapter: Path | None) -> None:
    """Refuse strengths for an adapter that is not there."""
    from ...debias.core.error import DDMError

    if adapter is None and any(alphas):
        raise DDMError("A strength α needs an adapter. Give one with --adapter FILE, or use --alpha 0.")
