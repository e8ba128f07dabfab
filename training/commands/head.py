"""`ddm head`: learn to tell, while an image is still noise, who is going to be in it: for distribution guidance."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseChoice,
    CaptionOption,
    DeviceOption,
    PriorCountOption,
    PriorPromptsOption,
    Progress,
    ProgressOption,
    StdinStopsOption,
    opens_base,
)


@opens_base
def head(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The head to write, a .safetensors file.")],
    folder: Annotated[Path | None, typer.Argument(help="Images with captions of the kind you will ask for.")] = None,
    groups: Annotated[
        str,
        typer.Option(
            help='Who is in them: discovered or auto (what is out of balance), words:"man|woman", or labels:COLUMN. '
            "Or give a --probe."
        ),
    ] = "",
    probe: Annotated[Path | None, typer.Option(metavar="FILE", help="A probe that says who is in the images.")] = None,
    base: BaseChoice,
    prior_prompts: PriorPromptsOption = None,
    prior_count: PriorCountOption = 24,
    caption: CaptionOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    progress: ProgressOption = Progress.BARS,
    stdin_stops: StdinStopsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as one JSON object.")] = False,
) -> None:
    """Make a head for distribution guidance; the model itself is not trained.

    Example: ddm head examples/people_emoji --probe examples/probes/gender.safetensors --out gender_head.safetensors
    """
    from .parent_process import stop_with_parent

    if stdin_stops:
        stop_with_parent()
    from ...debias.core.error import DDMError
    from ...debias.core.io import check_output
    from ...debias.probes.probe import Probe
    from ..data.group_images import attributes, check_source
    from ..objectives.h_space_classifier import make_head
    from .learning import learning_set
    from .reporters import JSONReporter, TerminalReporter

    reporter = JSONReporter() if progress is Progress.JSON else TerminalReporter()
    began = time.monotonic()
    check_output(out, "head")
    if (probe is None) == (not groups):
        raise DDMError(
            "Say once who is in the images: by groups (discovered, auto, words:man|woman or labels:COLUMN), or by a "
            "probe.",
            "groups",
            "probe",
        )
    if groups:
        check_source(groups)
    if len(attributes(groups)) > 1:
        raise DDMError(f"A head learns one attribute, and “{groups}” names several. Make a head for each.", "groups")
    judge = None if probe is None else Probe.load(probe)
    model, images = learning_set(base, device, folder, caption, prior_prompts, prior_count, seed, reporter)
    with reporter.work() as report:
        made = make_head(model, images, groups, judge and judge.to(model.device), seed, report)
    made.save(out)
    facts = {
        "head": str(out),
        "attribute": made.attribute,
        "names": made.names,
        "accuracy": dict(zip(made.timesteps, made.accuracy, strict=True)),
        "seconds": round(time.monotonic() - began, 1),
    }
    reporter.result(facts)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    if as_json or progress is Progress.JSON:
        return
    typer.echo(f"{made.attribute}: {', '.join(made.names)}. Told right by the noise that is left (0 none, 1000 all):")
    typer.echo("  " + ", ".join(f"{t}: {share:.0%}" for t, share in facts["accuracy"].items()))
    typer.echo(f"The head is in {out}. Use it with: ddm sample --guide {out}")
