"""`ddm report`: who is in the images of a folder, and how sure one can be."""

from pathlib import Path
from typing import Annotated

import typer

from .options import BaseOption, ClipOption, DeviceOption


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images that `ddm sample` made, or any image folder.")],
    probe: Annotated[
        list[Path] | None,
        typer.Option(help="A probe made by `ddm probe`; give the option again for another attribute."),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            metavar="'A | B'",
            help="Classes in words, as 'man | woman', which the base model tells apart itself; they come first. How "
            "often it is right is not known.",
        ),
    ] = None,
    base: BaseOption = None,
    clip: ClipOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="'uniform' or 'man=.75,woman=.25', in the order of the probes. The first probe's is uniform if none "
            "is given; attributes without a target are watched for drift."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to measure quality (KID) against; α = 0 if none.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page; .json and .png are written beside it.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="What stands above the report.")] = "Fairness report",
    margin: Annotated[float, typer.Option(min=0.01, max=0.5, help="Deviation of a share that still is fair.")] = 0.10,
    confidence: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability below which an image is undetermined.")
    ] = 0.60,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Measure who is in the images, per prompt and overall, and write a page that one can read.

    Example: ddm report out/ --probe gender.safetensors --probe skin_tone.safetensors --out report.html
    """
    from rich.console import Console

    from ...debias.core.error import DDMError
    from ...debias.core.io import write_text
    from ...debias.core.strict_json import write_json
    from ...debias.evaluation.evaluate import build_report
    from ...debias.probes.predict import check_probes, quality_probe
    from ...debias.rendering.charts import save_png
    from ...debias.rendering.report_html import overview, render_report
    from ..evaluation.evaluate_folder import read_features, read_records
    from ..evaluation.load_probes import open_probes, targets_of, words_probe
    from ..models.load_base import resolve_device
    from ..models.model import EMBEDDED

    if out.suffix.lower() in (".json", ".png"):
        raise DDMError(f"The page cannot be called {out.name}: figures and chart go there. Name it report.html.")
    console = Console(stderr=True)
    place = resolve_device(device)
    if not probe and not words:
        raise DDMError("There is nothing to tell who is in the images. Give a probe, or words.", "probe")
    with console.status("Opening the probes"):
        by_words = [words_probe(words, base or EMBEDDED, place)] if words else []
        probes = [*by_words, *open_probes(probe or [], clip, place)]
    targets = targets_of(probes, target)
    check_probes(probes, targets)
    eye = quality_probe(probes, targets)
    with console.status("Looking at the images"):
        records = read_records(folder, probes, targets, eye)
        compared = None if reference is None else read_features(reference, eye)
        made = build_report(
            records, title, margin, confidence, compared, reference.name if reference else "", random_seed=seed
        )
    files = {"html": out, "json": out.with_suffix(".json"), "png": out.with_suffix(".png")}
    write_text(files["html"], render_report(made))
    write_text(files["json"], made.to_json(images=False))
    save_png(overview(made), files["png"])
    if as_json:
        names = {kind: str(path) for kind, path in files.items()}
        typer.echo(write_json({**made.to_dict(images=False), "files": names}))
        return
    for line in (made.summary, *made.remarks, f"The report is in {out}."):
        typer.echo(line)
