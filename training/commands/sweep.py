"""`ddm sweep`: measure an adapter over α and guidance scale, and find the α to recommend."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseChoice,
    ClipOption,
    DeviceOption,
    GuideOption,
    GuideTargetOption,
    opens_base,
)


@opens_base
def sweep(
    *,
    adapter: Annotated[Path, typer.Argument(metavar="FILE", help="The fair adapter to measure.")],
    prompts: Annotated[
        str,
        typer.Option(metavar="TEXT|FILE", help="Prompts as 'a firefighter;a doctor', or a text file, one in a line."),
    ],
    probe: Annotated[
        list[Path], typer.Option(help="A probe made by `ddm probe`; give the option again for another attribute.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where images, report.html, .json and .png go.")],
    base: BaseChoice,
    style: Annotated[Path | None, typer.Option(metavar="FILE", help="A style LoRA to use with it.")] = None,
    clip: ClipOption = None,
    guide: GuideOption = None,
    guide_target: GuideTargetOption = None,
    target: Annotated[
        list[str] | None, typer.Option(help="'uniform' or 'man=.75,woman=.25', in the order of the probes.")
    ] = None,
    alpha: Annotated[str, typer.Option(help="Strengths to measure.")] = "0,0.25,0.5,0.75,1",
    cfg: Annotated[str, typer.Option(help="Guidance scales to measure; α is recommended at the first.")] = "3",
    per_prompt: Annotated[int, typer.Option(min=1, help="Images for each prompt, α and scale.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    bf16: Annotated[bool, typer.Option(help="Half precision: faster on CPUs that have bfloat16.")] = False,
    save_card: Annotated[
        bool, typer.Option(help="Write measurement and recommended α into the adapter's metadata.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace images in DIR that were made with other settings.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="First seed, and seed of the bootstrap.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurement as one JSON object.")] = False,
) -> None:
    """Generate at every α and guidance scale, look at the images, and recommend an α.

    Example: ddm sweep fair.safetensors --probe gender.safetensors --prompts roles.txt --cfg 3,1,5 --out sweep
    """
    from ...debias.adapter.lora_file import AdapterCard
    from ...debias.core.error import DDMError
    from ...debias.core.io import write_text
    from ...debias.evaluation.evaluate import build_report
    from ...debias.probes.predict import check_probes
    from ...debias.rendering.charts import save_png
    from ...debias.rendering.report_html import overview, pareto, render_report
    from ..evaluation.alpha_sweep import keep_measured, make_records, measured_card
    from ..evaluation.load_probes import open_probes, targets_of
    from ..models.load_base import resolve_device
    from ..models.model import load_model
    from ..sampling.guidance import load_steering
    from ..sampling.image_writer import plan_jobs
    from ..sampling.prompts import read_prompts
    from .numbers import read_numbers
    from .reporters import TerminalReporter

    texts, alphas, scales = read_prompts(prompts), read_numbers(alpha, "--alpha"), read_numbers(cfg, "--cfg")
    if 0.0 not in alphas:
        raise DDMError(f"--alpha is {alpha!r}, but a sweep compares with α = 0. Put 0 among the strengths.")
    if guide and save_card:
        raise DDMError(
            "With --guide the images are not the adapter's alone, and its card would say so of it. Leave one of "
            "--guide and --save-card out."
        )
    place = resolve_device(device)
    probes = open_probes(probe, clip, place)
    targets = targets_of(probes, target)
    check_probes(probes, targets)
    model = load_model(base.path, adapter, style, place, **base.opening)
    steering, remarks = load_steering(model.base, guide or (), guide_target or ())
    model.warnings.extend(remarks)
    for warning in model.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    shots, phase = plan_jobs(texts, per_prompt, alphas, scales, seed), TerminalReporter().images
    options = {"steps": steps, "bf16": bf16, "overwrite": overwrite, "steering": steering}
    records = make_records(model, out / "images", shots, probes, targets, phase, **options)
    made = build_report(records, f"Sweep of {adapter.stem}", random_seed=seed)
    measured = measured_card(made, scales[0], steps)
    files = {name: out / name for name in ("report.html", "report.json", "report.png")}
    write_text(files["report.html"], render_report(made))
    write_text(files["report.json"], made.to_json(images=False))
    save_png(overview(made), files["report.png"])
    front = pareto(made)
    if front is not None:
        files["pareto.png"] = out / "pareto.png"
        save_png(front, files["pareto.png"])
    if save_card:
        card = model.card or AdapterCard(base_hash=model.base.hash, architecture=model.base.architecture)
        keep_measured(adapter, card, measured)
    if as_json:
        names = {name: str(path) for name, path in files.items()}
        typer.echo(json.dumps(measured | {"summary": made.summary, "files": names}, ensure_ascii=False))
        return
    typer.echo(made.summary)
    typer.echo(measured["reason"])
    typer.echo(f"The report is in {files['report.html']}.")
