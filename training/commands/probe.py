"""`ddm probe`: learn from a labelled folder who is in an image, as perceived."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DeviceOption

if TYPE_CHECKING:
    import numpy as np

    from ..data.image_folder import ImageFolder


def probe(
    folder: Annotated[Path, typer.Argument(help="Labelled images: metadata.jsonl with a column, or subfolders.")],
    labels: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column to learn; 'folder' for the names of subfolders.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The probe's file; COLUMN.safetensors if none is given.")
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Measure on a fifth of this column's values, none of which was learned from: harder than on single "
            "images, and nearer to images of another kind.",
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A local CLIP model in transformers layout, to read its image features."),
    ] = None,
    made_for: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Which images it is made for; reports say so. By default those of FOLDER."),
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each of the two trainings (without --clip).")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the training.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as one JSON object.")] = False,
) -> None:
    """Train a probe for `ddm report`, and measure how often it is right on images it has not seen.

    Example: ddm probe examples/people_emoji --labels gender --out gender.safetensors
    """
    import numpy as np

    from ...debias.core.io import check_output
    from ...debias.probes.fit_probe import fit_linear_probe, fit_probe
    from ...debias.probes.probe_network import SIZE
    from ..data.read_folder import read_folder
    from ..loop.progress_bars import image_progress
    from ..models.clip import ClipImages
    from ..models.load_base import resolve_device

    out = out or Path(f"{labels}.safetensors")
    check_output(out, "probe")
    place = resolve_device(device)
    extractor = None if clip is None else ClipImages(clip, place)
    read = read_folder(folder)
    for line in read.remarks():
        typer.echo(line, err=True)
    values = read.column(labels)
    chosen = np.array([value is not None for value in values])
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        typer.echo(f"Without {labels}, so left out: {len(values) - len(known)} of {len(values)} images.", err=True)
    images = read.array(SIZE if extractor is None else extractor.size)[chosen]
    held_out = None if hold_out is None else held_out_values(read, hold_out, seed)[chosen]
    began = time.monotonic()
    if extractor is not None:
        made = fit_linear_probe(images, known, labels, extractor, seed, held_out)
    else:
        with image_progress(f"Probe for {labels}") as bar:
            made = fit_probe(
                images,
                known,
                labels,
                seed,
                steps,
                held_out=held_out,
                device=place,
                progress=lambda step, of, _: bar(step, of),
            )
    made.made_for = made_for or f"images like the {len(known):,} of {folder.resolve().name}"
    made.save(out)
    facts = {
        "probe": str(out),
        "attribute": labels,
        "names": made.names,
        "images": len(known),
        "skipped": [{"path": str(one.path), "reason": one.reason} for one in read.skipped],
        "held_out": int(made.counts.sum()),
        "held_out_column": hold_out,
        "accuracy": made.accuracy,
        "confusion": made.confusion.tolist(),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    of_what = "images" if hold_out is None else f"images, of values of {hold_out} that it had not seen"
    typer.echo(f"{labels}: {made.accuracy:.1%} right on {facts['held_out']} held-out {of_what}.")
    for index, name in enumerate(made.names):
        wrong = [(share, other) for share, other in zip(made.confusion[index], made.names, strict=True) if share]
        mistaken = ", ".join(f"{other} {share:.0%}" for share, other in sorted(wrong, reverse=True) if other != name)
        typer.echo(f"  {name}: {made.confusion[index, index]:.0%}" + (f" (else {mistaken})" if mistaken else ""))
    typer.echo(f"The probe is in {out}.")


def held_out_values(folder: "ImageFolder", column: str, seed: int) -> "np.ndarray":
    """Choose a fifth of a column's values, at least one, and return which images have them: bool [N].

    Raises:
        DDMError: no such column.
    """
    import numpy as np

    values = np.array(["" if value is None else value for value in folder.column(column)])
    distinct = np.random.default_rng(seed).permutation(np.unique(values))
    return np.isin(values, distinct[: max(1, round(0.2 * len(distinct)))])
