"""`ddm audit`: what is in a set of images, and what balance would cost, before any training."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseChoice,
    CaptionOption,
    DeviceOption,
    opens_base,
)


@opens_base
def audit(
    *,
    folder: Annotated[Path, typer.Argument(help="Images, with captions beside them where there are any.")],
    base: BaseChoice,
    groups: Annotated[
        str,
        typer.Option(help='discovered or auto (nothing to say), words:"man|woman", or labels:COLUMN.'),
    ] = "discovered",
    target: Annotated[str, typer.Option(help="uniform, or shares such as 'man=.75,woman=.25'.")] = "uniform",
    caption: CaptionOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; the figures go beside it as .json.")] = Path(
        "audit.html"
    ),
    title: Annotated[str | None, typer.Option(help="What stands above the page.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noises, and of the choice of examples.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Look at your images before training: who is in them, what is rare and common, and what balance would cost.

    Example: ddm audit my_images --out audit.html
    """
    from ...debias.core.error import DDMError
    from ...debias.core.io import write_text
    from ...debias.core.strict_json import write_json
    from ...debias.rendering.audit_html import render_audit
    from ..data.audit_folder import audit_folder
    from ..data.group_images import check_source
    from ..data.read_folder import read_folder
    from ..loop.progress_bars import work_progress

    if out.suffix.lower() == ".json":
        raise DDMError(f"The page cannot be called {out.name}: the figures go there. Name it audit.html.")
    check_source(groups, target)  # before the folder is read
    images = read_folder(folder, caption)
    with work_progress() as report:
        made = audit_folder(
            images,
            base.path,
            groups,
            target,
            title=title,
            seed=seed,
            device=device,
            **base.opening,
            report=report,
        )
    files = {"html": out, "json": out.with_suffix(".json")}
    write_text(files["html"], render_audit(made))
    write_text(files["json"], made.to_json(images=False))
    if as_json:
        names = {kind: str(path) for kind, path in files.items()}
        typer.echo(write_json({**made.to_dict(images=False), "files": names}))
        return
    for line in (made.summary, made.advice, *made.remarks, *images.remarks(), f"The page is in {out}."):
        typer.echo(line)
