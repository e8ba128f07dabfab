"""An option as it is declared: once, as a field of a dataclass, for every face that people meet it on.

The command line, TOML files, node inputs, the tab of the web UIs and their translations are made from these
declarations; none of them has names, bounds, defaults or help of its own.
"""

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

# What options are about, in the order in which people meet them.
SECTIONS = ("Images", "Groups", "Model", "Training", "Calibration and measuring", "Files")


@dataclass(frozen=True)
class Option:
    """What people are told of an option.

    Attributes:
        help: what it does; a sentence or two that hold on every face, so without names of other options' dashes.
        section: one of `SECTIONS`.
        least, most: bounds of a number.
        choices: of a text, where there are only these.
        unset: what holds where nothing is given, if that is not a value itself.
        metavar: what stands for the value on a command line.
        names: what other trainers call the same thing.
        expert: few need it; nodes and tab hide it until one asks.
        since: the version that brought it. Saved workflows go by position, so nodes list newer inputs last.
    """

    help: str
    section: str = "Training"
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    unset: str = ""
    metavar: str | None = None
    names: tuple[str, ...] = ()
    expert: bool = True
    since: str = ""


class Setting(NamedTuple):
    """A declared option, with what its field says.

    Attributes:
        kind: the type of its value: str, int, float, bool or Path.
        several: whether it is a list of such values.
        default: None where nothing is given, or `dataclasses.MISSING` where something must be.
    """

    name: str
    kind: type
    several: bool
    default: Any
    option: Option

    @property
    def key(self) -> str:
        """Its name on a command line and in a file."""
        return self.name.replace("_", "-")

    def misfit(self, value: Any) -> str:
        """What to give instead of a value that is none of the choices, or out of bounds; empty if it fits."""
        option = self.option
        if option.choices and value not in option.choices:
            return f"Give {' or '.join(option.choices)}."
        bounds = {"least": option.least, "most": option.most}
        said = " and ".join(f"at {side} {bound:g}" for side, bound in bounds.items() if bound is not None)
        low = option.least is None or value >= option.least
        return "" if low and (option.most is None or value <= option.most) else f"It must be {said}."


def option(default: Any, help: str, section: str = "Training", **more: Any) -> Any:
    """A field of a dataclass that is an option; `more` is as in `Option`."""
    return field(default=default, metadata={"option": Option(help, section, **more)})


@cache
def settings_of(config: type) -> dict[str, Setting]:
    """The options that a dataclass declares, by name; section by section, in the order of their fields."""
    types = get_type_hints(config)
    found = [_setting(one, types[one.name]) for one in fields(config) if "option" in one.metadata]
    return {one.name: one for one in sorted(found, key=lambda one: SECTIONS.index(one.option.section))}


def _setting(one: Any, kind: Any) -> Setting:
    if type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
    several = get_origin(kind) is list
    return Setting(one.name, get_args(kind)[0] if several else kind, several, one.default, one.metadata["option"])
