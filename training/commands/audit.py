"""`ddm audit`: what is in a set of pictures, and what balance would cost, before any training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..folder import ImageFolder
    from ..grouping import Grouping


def audit(
    folder: Annotated[Path, typer.Argument(help="Pictures, with captions beside them where there are any.")],
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Base model in diffusers layout; without one, the embedded model."),
    ] = None,
    groups: Annotated[
        str,
        typer.Option(help='auto (default: nothing to say), discovered, words:"man|woman", or labels:COLUMN.'),
    ] = "discovered",
    target: Annotated[str, typer.Option(help="uniform, or shares such as 'man=.75,woman=.25'.")] = "uniform",
    caption: Annotated[str | None, typer.Option(help="Caption of pictures that have none.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; the figures go beside it as .json.")] = Path(
        "audit.html"
    ),
    title: Annotated[str | None, typer.Option(help="What stands above the page.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noises, and of the choice of examples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Look at your pictures before training: who is in them, what is rare and common, and what balance would cost.

    Example: ddm audit my_pictures --out audit.html
    """
    from ...debias.error import DDMError
    from ...debias.inspection import AuditedSet, inspect
    from ...debias.storage import write_text
    from ..folder import read_folder
    from ..grouping import check_source

    if out.suffix.lower() == ".json":
        raise DDMError(f"The page cannot be called {out.name}: the figures go there. Name it audit.html.")
    check_source(groups, target)
    pictures = read_folder(folder, caption)
    found = find_groups(pictures, base, groups, target, seed, device)
    made = inspect(
        AuditedSet(
            files=[item.path for item in pictures.items],
            names=[_name(item.path, pictures.root) for item in pictures.items],
            captions=pictures.captions,
            skipped=[(_name(one.path, pictures.root), one.reason) for one in pictures.skipped],
            notes=pictures.notes,
        ),
        found.groups,
        found.targets,
        found.weighting,
        source=groups,
        tried=found.tried,
        title=title or f"What is in {folder.resolve().name}",
        random_seed=seed,
    )
    files = {"html": out, "json": out.with_suffix(".json")}
    write_text(files["html"], made.to_html())
    write_text(files["json"], made.to_json(pictures=False))
    if as_json:
        names = {kind: str(path) for kind, path in files.items()}
        typer.echo(json.dumps({**made.to_dict(pictures=False), "files": names}, ensure_ascii=False))
        return
    for line in (made.summary, made.advice, *made.remarks, f"The page is in {out}."):
        typer.echo(line)


def find_groups(
    pictures: "ImageFolder", base: Path | None, groups: str, target: str, seed: int, device: str
) -> "Grouping":
    """Group a folder's pictures, with progress on stderr. Labels need no base, so none is opened for them."""
    from ..base import load_base
    from ..grouping import Grouper
    from ..latents import encode_moments
    from ..model import EMBEDDED
    from ..progress import picture_progress, work_progress

    if groups.startswith("labels:"):
        return Grouper(None, None, pictures.captions, seed).group(groups, target, pictures.column)
    model = load_base(base or EMBEDDED, device)
    with picture_progress("Encoding pictures") as progress:
        latents, _ = encode_moments(model, pictures, progress)
    with work_progress() as report:
        return Grouper(model, latents, pictures.captions, seed, report).group(groups, target)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
