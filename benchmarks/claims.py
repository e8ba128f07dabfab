"""Every claim of the project, measured: `python benchmarks/claims.py [CASE ...]`.

Each finished case is one JSON file in benchmarks/results and is skipped from then on (unless --again, or another base
is given); adapters, probes and samples are kept in benchmarks/work, so a stopped run goes on where it was.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from package import ROOT, load_package

load_package()


def claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CASE ...]", help="Which cases; all of them.")] = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Images of each of the twenty occupations.")] = 60,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results are.")] = ROOT / "benchmarks" / "results",
    base: Annotated[Path, typer.Option(metavar="DIR", help="The base model.")] = ROOT / "examples" / "tiny_people",
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where adapters and samples are kept.")] = ROOT
    / "benchmarks"
    / "work",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the command's own if not given.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for as many as cores.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    again: Annotated[bool, typer.Option(help="Measure again what is there (adapters and samples are kept).")] = False,
    table: Annotated[bool, typer.Option(help="Only print what is there and write its README.md.")] = False,
) -> None:
    """Measure the claims, print them with their targets, and write benchmarks/results/README.md."""
    from comfyui_ddm.benchmarks.cases import CASES
    from comfyui_ddm.benchmarks.measure import Bench
    from comfyui_ddm.benchmarks.result import Result, cores, print_table, write_markdown
    from comfyui_ddm.debias.core.error import DDMError

    unknown = [name for name in names or [] if name not in CASES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there is no such case, but {', '.join(CASES)}")
    failed = False
    if not table:
        try:
            bench = Bench(base, work, per_prompt, steps, threads or cores(), device)
        except DDMError as error:
            typer.echo(error, err=True)
            raise typer.Exit(2) from error
        left_out = {name for name, case in CASES.items() if case.gpu and bench.device == "cpu"}
        if asked := left_out.intersection(names or []):
            raise typer.BadParameter(f"{min(asked)} needs a GPU. Add --device cuda where there is one.")
        for name in names or [name for name in CASES if name not in left_out]:
            case = CASES[name]
            failed |= not bench.record(name, case.title, "claims.py", partial(case.run, bench), out, again)
    results = [Result.load(out / f"{name}.json") for name in CASES if (out / f"{name}.json").exists()]
    print_table(results)
    measured = {result.case for result in results}
    missing = {
        name: f"{case.title}{', which needs a GPU (`--device cuda`)' if case.gpu else ''}"
        for name, case in CASES.items()
        if name not in measured
    }
    write_markdown(results, out, missing)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(claims)
