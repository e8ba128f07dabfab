"""`ddm train`: from a folder of images to a fair adapter."""

import json
from dataclasses import MISSING
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from ...debias.core.error import DDMError
from .config import TrainConfig
from .options import DECLARED, Progress, ProgressOption, StdinStopsOption, as_option
from .other_trainers import as_ours


def train(
    context: typer.Context,
    *,
    progress: ProgressOption = Progress.BARS,
    stdin_stops: StdinStopsOption = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all options as a TOML file, and train nothing.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say how much memory and time the training takes, and train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
    **options: Any,
) -> None:
    """Train a fair adapter: an ordinary LoRA whose strength is α. Ctrl-C stops and keeps the state.

    Example: ddm train my_images --out fair.safetensors
    """
    from .parent_process import STOPPED, end_stopped, leave, stop_with_parent

    if stdin_stops:
        stop_with_parent()
    if print_config:
        from .config_file import write_config

        typer.echo(write_config(options), nl=False)
        return
    if options["out"] is None:
        raise DDMError("There is no file for the adapter. Name one, such as fair.safetensors.", "out")
    config = TrainConfig(**options)
    from ..loop.distributed import Ranks
    from .idle_options import idle_options
    from .job import Job, Stopped
    from .reporters import JSONReporter, TerminalReporter

    reporter = JSONReporter() if progress is Progress.JSON else TerminalReporter()
    with Ranks.joined(config.device) as ranks:
        for remark, *options in idle_options(config, _given(context)) if ranks.first else ():
            reporter.note(remark, *options)
        try:
            job = Job(config, reporter, ranks)
            result = job.estimate() if estimate else job.run()
        except Stopped:
            end_stopped(stdin_stops)
        except KeyboardInterrupt:
            if stdin_stops:
                leave(STOPPED)
            raise
    if as_json and result and ranks.first:
        typer.echo(json.dumps(result, ensure_ascii=False))


def _read_file(context: typer.Context, folder: Path | None) -> Path | None:
    """Where FOLDER is a TOML file, what it says is taken for all that the command line leaves open."""
    if folder is None or folder.suffix.lower() != ".toml":
        return folder
    from .config_file import read_config

    found = read_config(folder)
    context.default_map = {name: _said(value) for name, value in found.items()}
    return found.get("folder")


def _given(context: typer.Context) -> set[str]:
    """What the command line itself names."""
    sources = {one.name: context.get_parameter_source(one.name) for one in context.command.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _said(value: Any) -> str | list[str]:
    """A value as the command line says it."""
    return list(map(_said, value)) if isinstance(value, list) else str(value)


def _with_config(own: Signature) -> Signature:
    """The signature of the command: the options of `TrainConfig`, then what is about the command line itself."""
    options = []
    for setting in DECLARED.values():
        annotation = as_option(setting)
        if setting.name == "folder":  # read first: it may be a file that holds the others
            text = f"{setting.option.help} Or a .toml file with all options."
            argument = typer.Argument(help=text, callback=_read_file, is_eager=True)
            annotation = Annotated[Path | None, argument]
        # Without a file to write, a configuration can still be printed.
        default = None if setting.default is MISSING else setting.default
        options.append(Parameter(setting.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    context, *rest = (one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD)
    return own.replace(parameters=[context, *options, *rest])


train.__signature__ = _with_config(signature(train))


class Command(TyperCommand):
    """`ddm train` also takes the names that other trainers give its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a command line; errors as in `as_ours`."""
        return super().parse_args(ctx, as_ours(args))
