"""Options on the command line: those of a training as they are declared, and what several commands have."""

from collections.abc import Callable
from enum import Enum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ...debias.core.option import Setting, settings_of
from .config import TrainConfig

DECLARED = settings_of(TrainConfig)


class Progress(str, Enum):
    """How progress is shown."""

    BARS = "bars"
    JSON = "json"


def as_given(option: str) -> str:
    """An option as it is given on the command line."""
    return "FOLDER" if option == "folder" else f"--{option.replace('_', '-')}"


def as_option(setting: Setting, **more: Any) -> Any:
    """A declared option as an annotation of a command's parameter; `more` is as in `typer.Option`."""
    option, kind = setting.option, setting.kind
    names = [as_given(setting.name)]
    if kind is bool and setting.default is not False:
        names = [f"{names[0]}/--no-{setting.key}"]
    given = {
        "help": option.help + (f" If not given: {option.unset}." if option.unset else ""),
        "metavar": "|".join(option.choices) or option.metavar,
        "min": option.least,
        "max": option.most,
        "parser": str.lower if option.choices else None,  # whether it is one of them, `TrainConfig` says
        "rich_help_panel": option.section,
    }
    annotation = list[kind] if setting.several else kind
    required = setting.default not in (None, False) and kind is not bool
    return Annotated[annotation if required else annotation | None, typer.Option(*names, **given | more)]


def _shared(name: str) -> Any:
    """An option of a training that other commands have as well."""
    return as_option(DECLARED[name], rich_help_panel=None)


BaseOption, CaptionOption, ClipOption, DeviceOption = map(_shared, ("base", "caption", "clip", "device"))
PriorPromptsOption, PriorCountOption = map(_shared, ("prior_prompts", "prior_count"))
CheckpointEveryOption, ResumeOption = map(_shared, ("checkpoint_every", "resume"))
SampleDirOption, SampleEveryOption = map(_shared, ("sample_dir", "sample_every"))


class BaseChoice(NamedTuple):
    """A base as a command line names it.

    Attributes:
        path: its folder or file.
        opening: how it is opened; arguments of `load_base`.
    """

    path: Path
    opening: dict[str, Any]


def opens_base(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `base` is a `BaseChoice` gets all options that say how a base is opened."""
    names = ("base", "tokenizer", "prediction", "vae", "text_encoder_file", "clip_skip")
    options = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_shared(name)) for name in names]
    parameters = []
    for one in signature(command).parameters.values():
        parameters += options if one.name == "base" else [one]

    @wraps(command)
    def with_base(**given: Any) -> None:
        from ..models.model import EMBEDDED

        opening = {name: given.pop(name) for name in names}
        command(base=BaseChoice(opening.pop("base") or EMBEDDED, opening), **given)

    with_base.__signature__ = signature(command).replace(parameters=parameters)
    return with_base


def _say_so(context: typer.Context, value: Progress) -> Progress:
    """Let mistakes in the options that follow be said the same way."""
    context.find_root().obj = value
    return value


ProgressOption = Annotated[
    Progress,
    typer.Option(help="Bars on stderr, or JSON lines on stdout for another program.", is_eager=True, callback=_say_so),
]
StdinStopsOption = Annotated[
    bool, typer.Option("--stdin-stops", help="Stop as at Ctrl-C when standard input is closed.")
]
GuideOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Distribution guidance by a head from `ddm head`; once for each attribute."),
]
GuideTargetOption = Annotated[
    list[str] | None, typer.Option(help="uniform, or shares such as 'man=.75,woman=.25'; once for each --guide.")
]
