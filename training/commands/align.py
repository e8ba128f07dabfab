"""`ddm align`: teach the model through its own images, until a probe sees the target."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    BaseChoice,
    CheckpointEveryOption,
    ClipOption,
    DeviceOption,
    Progress,
    ProgressOption,
    ResumeOption,
    SampleDirOption,
    SampleEveryOption,
    StdinStopsOption,
    opens_base,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ..objectives.alignment import Extractor


@opens_base
def align(
    *,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The adapter or, with --train tokens, the embedding to write.")
    ],
    probe: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="A probe made by `ddm probe`; give the option again for more attributes, which are aligned in every "
            "combination.",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT|FILE",
            help="Prompts as 'a firefighter;a doctor', or a text file with one in a line. Give the option again for "
            "another family: each is trained equally often.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(help="'uniform' or 'man=.75,woman=.25', in the order of the probes; uniform where none is given."),
    ] = None,
    train: Annotated[
        str, typer.Option(help="What learns: unet, text-encoder, both (LoRAs), or tokens (an embedding).")
    ] = "unet",
    base: BaseChoice,
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|DIR",
            help="What images shall keep: the features of a probe, such as one for the role, or of a CLIP model in a "
            "folder; can be given again. Without one their latents are kept.",
        ),
    ] = None,
    clip: ClipOption = None,
    keep_weight: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="How much images shall stay what they were: 8, but 1 for a LoRA without --keep; 0 for not at all.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images of one prompt per step.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the LoRAs.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, max=64, help="How many soft tokens.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate; by what is trained if not given.")
    ] = None,
    cfg: Annotated[float | None, typer.Option(min=0.0, help="Guidance scale to train at (3).")] = None,
    sampling: Annotated[
        int | None,
        typer.Option(min=1, help="Sampling steps of the images, give or take two (21); fewer are quicker."),
    ] = None,
    through: Annotated[
        int | None, typer.Option(min=0, help="Sampling steps of each image that gradients go through; 0 for all.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Need much less memory, and a third more time. Done by itself when memory runs out.",
        ),
    ] = False,
    checkpoint_every: CheckpointEveryOption = 20,
    resume: ResumeOption = False,
    restart: Annotated[bool, typer.Option(help="Throw the checkpoint of a stopped run away.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where a stopped run is kept; beside the file if not given.")
    ] = None,
    sample_dir: SampleDirOption = None,
    sample_every: SampleEveryOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    progress: ProgressOption = Progress.BARS,
    stdin_stops: StdinStopsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Align a model with a target by a probe: no images are needed. Ctrl-C stops and keeps the state.

    Example: ddm align --probe gender.safetensors --prompts "a firefighter;a doctor" --out fair.safetensors
    """
    from .parent_process import end_stopped, stop_with_parent

    if stdin_stops:
        stop_with_parent()
    from ...debias.adapter.lora_file import content_hash
    from ...debias.core.io import check_output
    from ...debias.probes.predict import check_probes
    from ..evaluation.load_probes import open_probes
    from ..loop.checkpoint import checkpoint_path, refuse_left
    from ..loop.stop_signals import stop_signals
    from ..models.load_base import load_base, resolve_device
    from ..objectives.alignment import AlignmentSettings, usual_keep
    from ..objectives.alignment_run import AlignmentRun
    from ..sampling.previews import Previews
    from ..sampling.prompts import read_prompts
    from .reporters import JSONReporter, TerminalReporter

    reporter = JSONReporter() if progress is Progress.JSON else TerminalReporter()
    began = time.monotonic()
    check_output(out, "adapter")
    checkpoint = checkpoint or checkpoint_path(out)
    if not (resume or restart):
        refuse_left(checkpoint)
    families = [read_prompts(text) for text in prompts]
    given = {
        "keep": usual_keep(train, len(keep or [])) if keep_weight is None else keep_weight,
        "steps": steps,
        "batch_size": batch_size,
        "rank": rank,
        "tokens": tokens,
        "learning_rate": learning_rate,
        "guidance": cfg,
        "sampling": sampling,
        "through": through,
    }
    settings = AlignmentSettings(
        train, seed=seed, **{name: value for name, value in given.items() if value is not None}
    )
    place = resolve_device(device)
    probes = open_probes(probe, clip, place)
    targets = all_targets(probes, target)
    check_probes(probes, targets)
    run = AlignmentRun(
        load_base(base.path, place, **base.opening),
        probes,
        targets,
        families,
        out,
        settings,
        [open_extractor(path, place) for path in keep or []],
        [content_hash(path) if path.is_file() else str(path.resolve()) for path in (*probe, *(keep or []))],
        checkpoint_every,
        checkpoint,
        gradient_checkpointing,
        reporter.note,
    )
    if restart:
        checkpoint.unlink(missing_ok=True)
    if resume and not run.resume():
        reporter.note(f"There is no checkpoint of {out.name} yet, so training begins at step 0.")
    shown = None
    if sample_dir:
        every = sample_every or max(1, settings.steps // 5)
        said = [prompt for family in families for prompt in family]
        shown = Previews(run.base, said, sample_dir, every, reporter.preview, seed)
    with reporter.steps() as report, stop_signals() as stop:
        complete = run.train(report, stop, shown)
    if not complete:
        reporter.stopped(run.training.step, settings.steps, checkpoint)
        end_stopped(stdin_stops)
    seconds = time.monotonic() - began
    use = f"Say embedding:{out.stem} before a prompt." if train == "tokens" else "Its strength is α."
    reporter.note(f"Wrote {out} in {seconds:.0f} s. {use}")
    result = {"out": str(out), "train": train, "seconds": round(seconds, 1), "steps": settings.steps}
    result |= {
        "loss": run.training.loss.item(),
        "targets": {goal.attribute: str(wanted) for goal, wanted in zip(probes, targets, strict=True)},
    }
    reporter.result(result)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))


def open_extractor(path: Path, device: "torch.device") -> "Extractor":
    """The features of a probe file, or of a CLIP folder; errors as in `Probe.load` and `ClipImages`."""
    from ...debias.probes.probe import Probe
    from ..models.clip import ClipImages

    return ClipImages(path, device).embed if path.is_dir() else Probe.load(path, device=device).embed


def all_targets(probes: "Sequence[Probe]", given: "Sequence[str] | None") -> "list[Target]":
    """A target for each probe: those given in order, uniform ones for the rest; errors as in `targets_of`."""
    from ..evaluation.load_probes import targets_of

    given = list(given or [])
    return targets_of(probes, given + ["uniform"] * (len(probes) - len(given)))
