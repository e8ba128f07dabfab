"""A training's configuration as a TOML file, whose keys are called like the options of `ddm train`."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from ...debias.core.error import DDMError
from ...debias.core.io import read_text
from ...debias.core.strict_json import fits
from .config import TrainConfig

LONGEST = 1 << 20  # bytes of a file
KINDS = {
    str: "text in quotes",
    Path: "a path in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def key_of(name: str) -> str:
    """The option of a field, and its key in a file."""
    return name.replace("_", "-")


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields of a `TrainConfig` that a TOML file gives, by name.

    Relative paths are relative to the file's folder. A key may be written with underscores too.

    Raises:
        DDMError: the file cannot be read, a key is unknown, or a value is not of its kind or out of its bounds.
    """
    known = {key_of(field.name): field for field in fields(TrainConfig)}
    found = {}
    for key, value in _load(path).items():
        field = known.get(key.replace("_", "-"))
        if field is None:
            near = get_close_matches(key.replace("_", "-"), known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
            raise DDMError(f"{path} has a key that is not known: {key}. {hint}")
        kind, several, option = _kind(field.type)
        values = value if several and isinstance(value, list) else [value]
        if not all(_fits(one, kind) for one in values):
            wanted = " or ".join(kind) if issubclass(kind, Enum) else KINDS[kind]
            more = ", or several in brackets" if several else ""
            raise DDMError(f"{path}: {key} is {value!r}. Give {wanted}{more}.")
        bounds = [("least", getattr(option, "min", None)), ("most", getattr(option, "max", None))]
        if any(bound is not None and (value < bound if side == "least" else value > bound) for side, bound in bounds):
            said = " and ".join(f"at {side} {bound:g}" for side, bound in bounds if bound is not None)
            raise DDMError(f"{path}: {key} is {value!r}. It must be {said}.")
        read = [path.parent / one if kind is Path else kind(one) for one in values]
        found[field.name] = read if several else read[0]
    return found


def write_config(values: Mapping[str, Any]) -> str:
    """A TOML file that gives these fields of a `TrainConfig`, with absolute paths and a remark on each key.

    What is None is written as a remark too, so that one sees what else there is.
    """
    return "\n".join(_lines(values)) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield "# All options of a training. Use it with: ddm train FILE.toml"
    for field in fields(TrainConfig):
        _, _, option = _kind(field.type)
        value, key = values[field.name], key_of(field.name)
        yield f"\n# {option.help}"
        yield f"# {key} =" if value is None else f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Path):
        return _text(str(value.resolve()))
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _fits(value: Any, kind: type) -> bool:
    if issubclass(kind, Enum):
        return value in list(kind)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind in (int, float):
        return fits(value, kind) and math.isfinite(value)
    return isinstance(value, str) and "\0" not in value


def _text(text: str) -> str:
    # A JSON string is a TOML string, but for this one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _kind(annotation: Any) -> tuple[type, bool, Any]:
    """The type of a field, None aside; whether it may have several values; and its option."""
    kind, option = get_args(annotation)
    kind = next(part for part in (*get_args(kind), kind) if part is not type(None))
    several = get_origin(kind) is list
    return get_args(kind)[0] if several else kind, several, option


def _load(path: Path) -> Mapping[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise DDMError(
                f"To read {path}, Python 3.11 or newer is needed, or the package tomli: pip install tomli."
            ) from error
    try:
        return tomllib.loads(read_text(path, LONGEST))
    except (ValueError, RecursionError, OverflowError) as error:
        raise DDMError(
            f"{path} cannot be read as TOML ({error}). Mend it, or begin with a new one (--print-config)."
        ) from error
