"""`ddm invariant`: train the small module of invariant guidance, without a label or a word."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseOption,
    CaptionOption,
    CheckpointEveryOption,
    ClipSkipOption,
    DeviceOption,
    PredictionOption,
    PriorCountOption,
    PriorPromptsOption,
    ResumeOption,
    TokenizerOption,
    VAEOption,
)


def invariant(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The module to write, a .safetensors file.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Images, with captions beside them where there are any.")
    ] = None,
    base: BaseOption = None,
    tokenizer: TokenizerOption = None,
    prediction: PredictionOption = None,
    vae: VAEOption = None,
    clip_skip: ClipSkipOption = None,
    prior_prompts: PriorPromptsOption = None,
    prior_count: PriorCountOption = 24,
    caption: CaptionOption = None,
    groups: Annotated[int, typer.Option(min=2, help="How many groups are looked for.")] = 8,
    beta: Annotated[float, typer.Option(min=0.0, help="β: how much the smallest group counts in that.")] = 3.0,
    variance: Annotated[
        float, typer.Option(min=0.0, help="λ: how much the differences between groups count in training.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 400,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Learning rate at the start.")] = 1e-3,
    checkpoint_every: CheckpointEveryOption = 100,
    resume: ResumeOption = False,
    restart: Annotated[bool, typer.Option(help="Throw the checkpoint of a stopped run away.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Train a module for invariant guidance: the base stays as it is. Ctrl-C stops and keeps the state.

    Example: ddm invariant my_images --out invariant.safetensors
    """
    from ...debias.core.io import check_output
    from ..loop.checkpoint import checkpoint_path, refuse_left
    from ..loop.progress_bars import steps_progress, work_progress
    from ..loop.stop_signals import stop_signals
    from ..objectives.invariant import InvariantRun, InvariantSettings
    from .learning import learning_set

    began = time.monotonic()
    check_output(out, "invariant")
    kept = checkpoint_path(out)
    if not (restart or resume):
        refuse_left(kept)
    settings = InvariantSettings(steps, batch_size, learning_rate, groups, beta, variance, seed=seed)
    opening = {"tokenizer": tokenizer, "prediction": prediction, "vae": vae, "clip_skip": clip_skip}
    model, images = learning_set(base, device, folder, caption, prior_prompts, prior_count, seed, **opening)
    with work_progress() as report:
        run = InvariantRun(model, images, out, settings, checkpoint_every, report)
    if restart:
        kept.unlink(missing_ok=True)
    if resume:
        run.resume()
    with steps_progress("Training") as bar, stop_signals() as stop:
        complete = run.train(bar, stop)
    if not complete:
        typer.echo(f"Stopped at step {run.training.step} of {steps}; the state is kept in {kept}.", err=True)
        typer.echo("Go on with the same command and --resume.", err=True)
        raise typer.Exit(130)
    module = run.objective.module
    share = module.parameter_count / model.unet.num_parameters()
    facts = {
        "module": str(out),
        "parameters": module.parameter_count,
        "share_of_base": round(share, 4),
        "loss": run.training.loss.item(),
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    typer.echo(f"Wrote {out} in {facts['seconds']:.0f} s: {share:.1%} of the base's parameters.")
    typer.echo(f"Use it with: ddm sample --invariant {out} --strength 1")
