"""`ddm demo`: the whole job in a few minutes, on the embedded model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import DeviceOption


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The demo's own folder; a stopped demo goes on where it was.")
    ] = Path("demo_output"),
    per_prompt: Annotated[int, typer.Option(min=1, help="Images of each of 20 occupations at each α.")] = 12,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the trainer's own number if none.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """See a biased model, train a fair adapter on a folder without labels, and see the model again.

    Example: ddm demo
    """
    from ..embedded.demo import Demo

    result = Demo(out, per_prompt, steps, seed, device, say=lambda text: typer.echo(text, err=True)).run()
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items())
    memory = "" if result["peak_memory_gb"] is None else f", {result['peak_memory_gb']:.1f} GB of memory at most"
    typer.echo(f"{stages}; {result['seconds_in_all']:.0f} s in all{memory}.", err=True)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo(result["summary"])
    for name, what in LOOK.items():
        typer.echo(f"{what} {result['files'][name]}")


LOOK = {
    "before_after.png": "Before and after in one image:",
    "report.html": "The report, open it in a browser: ",
    "fair.safetensors": "The adapter, for any LoRA loader: ",
}
