"""`ddm invariant`: train the small module of invariant guidance, without a label or a word."""

import json
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated

import typer

from ..option import (
    BaseOption,
    CaptionOption,
    DeviceOption,
    ResumeOption,
    SaveEveryOption,
    SelfCountOption,
    SelfOption,
    TokenizerOption,
)


def invariant(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The module to write, a .safetensors file.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Pictures, with captions beside them where there are any.")
    ] = None,
    base: BaseOption = None,
    tokenizer: TokenizerOption = None,
    self_prompts: SelfOption = None,
    self_count: SelfCountOption = 24,
    caption: CaptionOption = None,
    groups: Annotated[int, typer.Option(min=2, help="How many groups are looked for.")] = 8,
    beta: Annotated[float, typer.Option(min=0.0, help="β: how much the smallest group counts in that.")] = 3.0,
    variance: Annotated[
        float, typer.Option(min=0.0, help="λ: how much the differences between groups count in training.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 400,
    batch: Annotated[int, typer.Option(min=2, help="Pictures per step.")] = 64,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate at the start.")] = 1e-3,
    save_every: SaveEveryOption = 100,
    resume: ResumeOption = False,
    restart: Annotated[bool, typer.Option(help="Throw the checkpoint of a stopped run away.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Train a module for invariant guidance: the base stays as it is. Ctrl-C stops and keeps the state.

    Example: ddm invariant my_pictures --out invariant.safetensors
    """
    from ...debias.error import DDMError
    from ...debias.storage import check_output
    from ..base import load_base
    from ..checkpoint import checkpoint_path, refuse_left
    from ..folder import read_folder
    from ..invariant import InvariantSettings, InvariantTraining
    from ..model import EMBEDDED
    from ..picture_set import folder_set, self_set
    from ..progress import picture_progress, steps_progress, work_progress
    from ..prompt import read_prompts
    from ..stop_signals import stop_signals

    began = time.monotonic()
    check_output(out, "invariant")
    if folder is None and self_prompts is None:
        raise DDMError("There is nothing to train on. Give a FOLDER of pictures, or --self with prompts, or both.")
    kept = checkpoint_path(out)
    if restart:
        kept.unlink(missing_ok=True)
    elif not resume:
        refuse_left(kept)
    settings = InvariantSettings(steps, batch, rate, groups, beta, variance, seed=seed)
    pictures = read_folder(folder, caption) if folder else None
    prompts = read_prompts(self_prompts) if self_prompts else []
    for line in pictures.remarks() if pictures else ():
        typer.echo(line, err=True)
    model = load_base(base or EMBEDDED, device, tokenizer=tokenizer)
    sets = []
    if pictures:
        with picture_progress("Encoding pictures") as bar:
            sets.append(folder_set(model, pictures, bar))
    if prompts:
        with picture_progress("The base's own pictures") as bar:
            sets.append(self_set(model, prompts, self_count, seed, bar))
    with work_progress() as report:
        training = InvariantTraining(model, reduce(add, sets), settings, report)
    with steps_progress("Training") as bar, stop_signals() as stop:
        complete = training.train(out, save_every, bar, stop, resume)
    if not complete:
        typer.echo(f"Stopped at step {training.step} of {steps}; the state is kept in {kept}.", err=True)
        typer.echo("Go on with the same command and --resume.", err=True)
        raise typer.Exit(130)
    share = training.module.parameter_count / model.unet.num_parameters()
    facts = {
        "module": str(out),
        "parameters": training.module.parameter_count,
        "share_of_base": round(share, 4),
        "loss": training.loss.item(),
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    typer.echo(f"Wrote {out} in {facts['seconds']:.0f} s: {share:.1%} of the base's parameters.")
    typer.echo(f"Use it with: ddm sample --invariant {out} --strength 1")
