"""`ddm train`: from a folder of pictures to a fair adapter."""

import json
import signal
import time
from collections.abc import Callable
from enum import Enum
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..base import Base
    from ..preview import Previews
    from ..reporter import JSONReporter, TerminalReporter
    from ..run import Run


class Progress(str, Enum):
    """How progress is shown."""

    BARS = "bars"
    JSON = "json"


def train(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The adapter to write, a .safetensors file.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Pictures, with captions beside them where there are any.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Base model: a checkpoint (.safetensors) or a diffusers folder; without one, the embedded model.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="CLIP's tokenizer for a checkpoint; found in ComfyUI if none is given."),
    ] = None,
    groups: Annotated[
        str,
        typer.Option(help='discovered or auto (nothing to say), words:"man|woman", or labels:COLUMN.'),
    ] = "discovered",
    target: Annotated[str, typer.Option(help="uniform, or shares such as 'man=.75,woman=.25'.")] = "uniform",
    style: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also learn the pictures' style or subject, and write it to this file."),
    ] = None,
    self_prompts: Annotated[
        str | None,
        typer.Option(
            "--self",
            metavar="TEXT|FILE",
            help="Train on the base's own pictures of these prompts ('a;b', or a file), mixed into a FOLDER if given.",
        ),
    ] = None,
    self_count: Annotated[int, typer.Option(min=1, help="Pictures of each --self prompt.")] = 24,
    reg: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Pictures that keep what the base knows already (regularisation): as many of them as of your own are "
            "mixed in, without labels and without the trigger word.",
        ),
    ] = None,
    caption: Annotated[str | None, typer.Option(help="Caption of pictures that have none.")] = None,
    trigger: Annotated[
        str, typer.Option(metavar="WORD", help="Said at the beginning of every caption of your own pictures.")
    ] = "",
    caption_dropout: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.9, help="Share of the pictures that are learnt without their caption (.15)."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where encoded pictures are kept for the next run; without one, .ddm_cache in FOLDER. "
            "It may be deleted at any time.",
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no encoded pictures on disk.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the LoRA.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures per step.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.0, help="Peak learning rate.")] = None,
    calibrate: Annotated[
        int | None, typer.Option(min=0, help="Pictures made at each of three strengths to calibrate α; 0 for none.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    resume: Annotated[bool, typer.Option(help="Go on where a stopped run of the same name was.")] = False,
    restart: Annotated[
        bool,
        typer.Option(help="Throw the checkpoint of a stopped run away; with --resume, only if it is of another run."),
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where a stopped run is kept; beside the adapter if not given.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an adapter of this name. Without, one of just this run is left as it is.")
    ] = True,
    previews: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="While training, make pictures at α = 0 and 1 with the same seeds, in here."),
    ] = None,
    preview_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two previews; a fifth of all if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: Annotated[
        Progress, typer.Option(help="Bars on stderr, or JSON lines on stdout for another program.")
    ] = Progress.BARS,
    stdin_stops: Annotated[
        bool, typer.Option("--stdin-stops", help="Stop as at Ctrl-C when standard input is closed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Train a fair adapter: an ordinary LoRA whose strength is α. Ctrl-C stops and keeps the state.

    Example: ddm train my_pictures --out fair.safetensors
    """
    from ..parent import stop_with_parent

    if stdin_stops:
        stop_with_parent()
    from ...debias.error import DDMError
    from ..base import check_weights, load_base
    from ..checkpoint import checkpoint_path
    from ..file_index import FileIndex
    from ..folder import ImageFolder, read_folder
    from ..grouping import check_source
    from ..latent_cache import FOLDER
    from ..loop import Settings
    from ..model import EMBEDDED, load_model
    from ..prompt import read_prompts
    from ..reporter import JSONReporter, TerminalReporter
    from ..run import Run, folder_set, self_set

    reporter = JSONReporter() if progress is Progress.JSON else TerminalReporter()
    began = time.monotonic()
    for path in filter(None, (out, style)):
        if path.suffix != ".safetensors":
            raise DDMError(f"An adapter is a .safetensors file, not {path.name}. Name it {path.stem}.safetensors.")
    if style is not None and style.resolve() == out.resolve():
        raise DDMError(f"--style and --out are the same file, {out}. They are two LoRAs: give two names.")
    if folder is None and self_prompts is None:
        raise DDMError("There is nothing to train on. Give a FOLDER of pictures, or --self with prompts, or both.")
    if reg is not None and folder is None:
        raise DDMError("--reg goes with pictures to learn. Give a FOLDER too, or make the other folder the FOLDER.")
    checkpoint = checkpoint or checkpoint_path(out)
    if restart and not resume:
        checkpoint.unlink(missing_ok=True)
    elif checkpoint.exists() and not resume:
        raise DDMError(f"A stopped run left {checkpoint}. Go on with --resume, or begin anew with --restart.")
    check_source(groups, target)
    base = base or EMBEDDED
    check_weights(base)
    if cache is not None and no_cache:
        raise DDMError("--cache and --no-cache exclude each other. Give one of them.")

    def kept(place: Path) -> Path | None:
        return None if no_cache else cache or place / FOLDER

    def read(place: Path) -> ImageFolder:
        return read_folder(place, caption, index=FileIndex.of(place, kept(place)))

    pictures = read(folder).triggered(trigger) if folder else None
    regular = read(reg) if reg else None
    prompts = read_prompts(self_prompts) if self_prompts else []
    given = {
        "dropout": caption_dropout,
        "steps": steps,
        "rank": rank,
        "batch": batch,
        "rate": rate,
        "calibrate": calibrate,
    }
    settings = Settings(seed=seed, **{name: value for name, value in given.items() if value is not None})
    for part in filter(None, (pictures, regular)):
        for skipped in part.skipped:
            reporter.note(f"Skipped {skipped.path.name}: {skipped.reason}")
        for note in part.notes:
            reporter.note(note)
    model = load_base(base, device, tokenizer=tokenizer)
    sets = []
    if pictures:
        with reporter.pictures("cache") as report:
            sets.append(folder_set(model, pictures, report, kept(folder)))
    if regular:
        with reporter.pictures("cache") as report:
            sets.append(folder_set(model, regular, report, kept(reg), len(sets[0].captions)))
    if prompts:
        with reporter.pictures("own") as report:
            sets.append(self_set(model, prompts, self_count, seed, report))
    with reporter.pictures("groups") as report:
        run = Run(
            model,
            reduce(add, sets),
            out,
            style,
            groups,
            target,
            settings,
            save_every,
            lambda what, done, total: report(done, total),
            checkpoint,
        )
    reporter.groups(run.grouping)
    taken = [file for file in (out, style) if file and file.exists()]
    if taken and not overwrite:
        if not run.made:
            raise DDMError(
                f"{taken[0].name} is there already, and was made of other pictures or with other settings. Choose "
                "another name, or allow to overwrite it."
            )
        reporter.note(f"{out.name} is there already, made of these pictures with these settings: nothing is trained.")
        if previews:
            _previews(load_model(base, out, style, device).base, run, previews, None, reporter).make(settings.steps)
        return
    if resume and not _resume(run, restart, reporter.note):
        reporter.note(f"There is no checkpoint of {out.name} yet, so training begins at step 0.")
    stopped: list[int] = []
    handlers = {name: signal.signal(name, lambda number, _: stopped.append(number)) for name in STOP_SIGNALS}
    try:
        with reporter.steps() as report, reporter.pictures("calibration") as calibrating:
            shown = _previews(model, run, previews, preview_every, reporter) if previews else None
            complete = run.train(report, lambda: bool(stopped), calibrating, shown)
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    if not complete:
        reporter.note(
            f"Stopped at step {run.training.step} of {settings.steps}; the state is kept in {checkpoint}. "
            "Go on with the same command and --resume."
        )
        raise typer.Exit(130)
    seconds = time.monotonic() - began
    reporter.note(f"Wrote {out} in {seconds:.0f} s. Recommended α: {run.recommended:g}.")
    result = {"adapter": str(out), "style": str(style) if style else None, "seconds": round(seconds, 1)}
    result |= {"steps": settings.steps, "pictures": len(run.pictures.captions), "loss": run.training.loss.item()}
    result |= {"recommended_alpha": run.recommended, "groups": groups}
    result["found"] = [
        {"source": part.source, "shares": dict(zip(part.names, part.shares.round(4).tolist(), strict=True))}
        for part in run.grouping.groups
    ]
    reporter.result(result)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))


def _previews(
    base: "Base", run: "Run", folder: Path, every: int | None, reporter: "JSONReporter | TerminalReporter"
) -> "Previews":
    from ..preview import Previews

    settings = run.settings
    every = every or max(1, settings.steps // 5)
    return Previews(base, run.pictures.captions, folder, every, reporter.preview, settings.seed)


def _resume(run: "Run", restart: bool, note: Callable[[str], None]) -> bool:
    """Go on from the checkpoint if there is one; with `restart`, one of another run is thrown away."""
    from ...debias.error import DDMError

    try:
        return run.resume()
    except DDMError:
        if not restart:
            raise
    note("The checkpoint was of another run, and was thrown away.")
    run.checkpoint.unlink(missing_ok=True)
    return run.resume()


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
