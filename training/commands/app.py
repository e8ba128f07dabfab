"""The command line `ddm`: one command per module of `training/commands`, errors as sentences.

Importing a command's module must stay light: torch and what is built on it belong inside the function, so that `--help`
answers at once.
"""

import json
from importlib import import_module

import click
import typer
from typer.core import TyperGroup

from ...debias.core.error import DDMError, named, out_of_memory, reason_of
from .options import Progress, as_given

COMMANDS = ("audit", "train", "align", "sample", "probe", "head", "invariant", "report", "sweep", "base", "demo")


class Commands(TyperGroup):
    """The group of all commands; says a DDMError in one sentence, and ends quietly at Ctrl-C."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Exit codes: 2 after a mistake in the input, or without enough memory; 130 when stopped."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not isinstance(error, DDMError) and not out_of_memory(error):
                raise
            sentence, options = reason_of(error), getattr(error, "options", ())
            if ctx.obj is Progress.JSON:
                typer.echo(json.dumps({"error": sentence, "options": options}, ensure_ascii=False))
            typer.echo(f"ddm: {named(sentence, options, as_given)}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from error


app = typer.Typer(
    name="ddm",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def ddm() -> None:
    """Fair adapters for diffusion models: train on your own images, without labelling anyone."""


for _name in COMMANDS:
    _module = import_module(f".{_name}", __package__)
    app.command(_name, cls=getattr(_module, "Command", None))(getattr(_module, _name))
