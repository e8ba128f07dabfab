"""A training's configuration as a TOML file, whose keys are called like the options of `ddm train`."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...debias.core.error import DDMError
from ...debias.core.io import read_text
from ...debias.core.option import Setting, settings_of
from ...debias.core.strict_json import fits
from .config import TrainConfig
from .other_trainers import our_name

LONGEST = 1 << 20  # bytes of a file
KINDS = {
    str: "text in quotes",
    Path: "a path in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields of a `TrainConfig` that a TOML file gives, by name.

    Relative paths are relative to the file's folder. A key may be written with underscores too, and as other trainers
    call it.

    Raises:
        DDMError: the file cannot be read, a key is unknown, or a value is not of its kind or out of its bounds.
    """
    known = {setting.key: setting for setting in settings_of(TrainConfig).values()}
    found = {}
    for key, value in _load(path).items():
        try:
            setting = known[our_name(key)]
        except DDMError as error:
            raise DDMError(f"{path} has a key that is not known: {key}. {error}") from error
        values = value if setting.several and isinstance(value, list) else [value]
        if wrong := next((said for one in values if (said := misfit(one, setting))), ""):
            raise DDMError(f"{path}: {key} is {value!r}. {wrong}")
        read = [path.parent / one if setting.kind is Path else setting.kind(one) for one in values]
        found[setting.name] = read if setting.several else read[0]
    return found


def misfit(value: Any, setting: Setting) -> str:
    """What to give instead of a value that an option does not take; empty if it does."""
    if not _fits(value, setting.kind):
        return f"Give {KINDS[setting.kind]}{', or several in brackets' if setting.several else ''}."
    return setting.misfit(value)


def write_config(values: Mapping[str, Any]) -> str:
    """A TOML file that gives these fields of a `TrainConfig`, with absolute paths and a remark on each key.

    What is None or left out is written as a remark too, so that one sees what else there is.
    """
    return "\n".join(_lines(values)) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield "# All options of a training. Use it with: ddm train FILE.toml"
    for setting in settings_of(TrainConfig).values():
        value = values.get(setting.name)
        yield f"\n# {setting.option.help}"
        yield f"# {setting.key} =" if value is None else f"{setting.key} = {_value(value)}"


def _value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Path):
        return _text(str(value.resolve()))
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind in (int, float):
        return fits(value, kind) and math.isfinite(value)
    return isinstance(value, str) and "\0" not in value


def _text(text: str) -> str:
    # A JSON string is a TOML string, but for this one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


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
