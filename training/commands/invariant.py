"""`ddm invariant`: train the small module of invariant guidance, without a label or a word."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    BaseChoice,
    CaptionOption,
    CheckpointEveryOption,
    DeviceOption,
    PriorCountOption,
    PriorPromptsOption,
    Progress,
    ProgressOption,
    ResumeOption,
    StdinStopsOption,
    opens_base,
)


@opens_base
def invariant(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The module to write, a .safetensors file.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Images, with captions beside them where there are any.")
    ] = None,
    base: BaseChoice,
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
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where a stopped run is kept; beside the file if not given.")
    ] = None,
    device: DeviceOption = "auto",
    progress: ProgressOption = Progress.BARS,
    stdin_stops: StdinStopsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Train a module for invariant guidance: the base stays as it is. Ctrl-C stops and keeps the state.

    Example: ddm invariant my_images --out invariant.safetensors
    """
    from .parent_process import end_stopped, stop_with_parent

    if stdin_stops:
        stop_with_parent()
    from ...debias.core.io import check_output
    from ..loop.checkpoint import checkpoint_path, refuse_left
    from ..loop.stop_signals import stop_signals
    from ..objectives.invariant import InvariantRun, InvariantSettings
    from .learning import learning_set
    from .reporters import JSONReporter, TerminalReporter

    reporter = JSONReporter() if progress is Progress.JSON else TerminalReporter()
    began = time.monotonic()
    check_output(out, "invariant")
    kept = checkpoint or checkpoint_path(out)
    if not (restart or resume):
        refuse_left(kept)
    settings = InvariantSettings(steps, batch_size, learning_rate, groups, beta, variance, seed=seed)
    model, images = learning_set(base, device, folder, caption, prior_prompts, prior_count, seed, reporter)
    with reporter.work() as report:
        run = InvariantRun(model, images, out, settings, checkpoint_every, report, kept)
    if restart:
        kept.unlink(missing_ok=True)
    if resume:
        run.resume()
    with reporter.steps() as report, stop_signals() as stop:
        complete = run.train(report, stop)
    if not complete:
        reporter.stopped(run.training.step, steps, kept)
        end_stopped(stdin_stops)
    module = run.objective.module
    share = module.parameter_count / model.denoiser.num_parameters()
    facts = {
        "module": str(out),
        "parameters": module.parameter_count,
        "share_of_base": round(share, 4),
        "loss": run.training.loss.item(),
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    reporter.result(facts)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    if as_json or progress is Progress.JSON:
        return
    typer.echo(f"Wrote {out} in {facts['seconds']:.0f} s: {share:.1%} of the base's parameters.")
    typer.echo(f"Use it with: ddm sample --invariant {out} --strength 1")
