"""The field's systems side by side: `python benchmarks/systems.py [ROW ...]`.

Each finished row is a JSON file in benchmarks/results/systems and is skipped from then on (unless --again, or another
base is given); trained files and samples are kept in benchmarks/work, so a stopped run goes on with the file or sample
that it was at. Digits need MNIST's test split in ../shared/data/mnist; the first run makes their bases and probes, in
some minutes.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from package import ROOT, load_package

load_package()


def systems(
    rows: Annotated[list[str] | None, typer.Argument(metavar="[ROW ...]", help="Which systems; all of them.")] = None,
    task: Annotated[
        str,
        typer.Option(
            help="gender, gender-both-ways, gender-unseen (learnt from half of the occupations), tone, gender-tone "
            "(jointly), gender-75-25, gender-25-75, families, digits-0-1 or digits-7-8."
        ),
    ] = "gender",
    per_prompt: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="How many samples of each row.")] = 3,
    cfgs: Annotated[
        str, typer.Option(help="Guidance scales at which FD is measured besides, over half a sample: '1.5,6,9'.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=0, help="Measurements of the sampling time; 0 for none.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the commands' own if not given.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results are.")] = ROOT
    / "benchmarks"
    / "results"
    / "systems",
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The base model; the task's own, trained if need be, if none.")
    ] = None,
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where files and samples are kept.")] = ROOT
    / "benchmarks"
    / "work",
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for as many as cores.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    again: Annotated[bool, typer.Option(help="Measure again what is there.")] = False,
    table: Annotated[bool, typer.Option(help="Only write table and chart of what is there.")] = False,
) -> None:
    """Train, sample and measure every system on a task; write a table and a chart."""
    from comfyui_ddm.benchmarks.measure import Bench
    from comfyui_ddm.benchmarks.result import cores
    from comfyui_ddm.benchmarks.system import SYSTEMS, TASKS
    from comfyui_ddm.benchmarks.system_bench import SystemBench
    from comfyui_ddm.benchmarks.system_table import load_results, write_overview, write_table
    from comfyui_ddm.debias.core.error import DDMError
    from comfyui_ddm.training.commands.numbers import read_numbers

    if task not in TASKS:
        raise typer.BadParameter(f"{task}: there is no such task, but {', '.join(TASKS)}")
    if unknown := [name for name in rows or [] if name not in SYSTEMS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: there is no such row, but {', '.join(SYSTEMS)}")
    place = out / task
    if not table:
        scales = read_numbers(cfgs, "--cfgs") if cfgs else []
        try:
            bench = Bench(base, work, per_prompt, steps, threads or cores(), device, TASKS[task].subject)
        except DDMError as error:
            typer.echo(error, err=True)
            raise typer.Exit(2) from error
        measured = SystemBench(bench, task, seeds, steps, rounds, scales)
        settings = {"seeds": seeds, "cfgs": scales, "prompts": len(TASKS[task].concepts)}
        for name in rows or SYSTEMS:
            run = partial(measured.figures, name)
            bench.record(name, SYSTEMS[name].title, "systems.py", run, place, again, settings)
    results = load_results(place)
    if not results:
        typer.echo("There is no row yet.", err=True)
        sys.exit(1)
    typer.echo(f"The table is in {write_table(results, TASKS[task].title, place)}.")
    typer.echo(f"All tasks are in {write_overview(out)}.")


if __name__ == "__main__":
    typer.run(systems)
